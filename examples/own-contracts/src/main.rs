//! The smallest service with contracts of its own: an event, its consumer, and an operation behind both.

mesh_core::include_contracts!();

use greenhouse::v1::{BedTooDry, OpenReply, OpenRequest, Valves, ValvesClient, ValvesServer};
use mesh_core::{Context, Fault, Mesh, config::Environment};

/// What stands behind the operation.
struct Pump;

impl Valves for Pump {
    async fn open(&self, _cx: Context, request: OpenRequest) -> Result<OpenReply, Fault> {
        Ok(OpenReply { litres: f64::from(request.seconds) * 0.2 })
    }
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let mesh = Mesh::builder("greenhouse").environment(&Environment::from_process()).connect().await?;

    mesh.serve(ValvesServer::new(Pump)).start().await?;

    let valves = ValvesClient::new(&mesh).open();
    let water = move |cx: Context, dry: BedTooDry| {
        let valves = valves.clone();
        async move {
            valves.enqueue(&OpenRequest { bed: dry.bed, seconds: 30 }).caused_by(&cx).await?;
            Ok(())
        }
    };
    BedTooDry::consumer(&mesh, "watering").start(water).await?;

    let dry = BedTooDry { bed: "tomatoes".to_owned(), moisture_percent: 11.5 };
    BedTooDry::publisher(&mesh).publish(&dry).await?;

    let reply = ValvesClient::new(&mesh).open().call(&OpenRequest { bed: "basil".to_owned(), seconds: 5 }).await?;
    println!("the basil got {} litres", reply.litres);

    mesh.run_until_stopped().await;
    Ok(())
}
