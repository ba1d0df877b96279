//! Relays the outbox of `orders` in a SQLite file until it is killed: `outbox-relay <nats url> <seed file> <database file>`.

use anyhow::Context as _;
use mesh_core::Mesh;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let (url, seed, file) = (next("the broker's URL")?, next("the seed's file")?, next("the database's file")?);
    let mesh = Mesh::builder("orders").url(&url).seed_file(&seed).connect().await?;
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(file)).await?;
    mesh.relay(&mesh.outbox(&pool)).start();
    mesh.run_until_stopped().await;
    Ok(())
}
