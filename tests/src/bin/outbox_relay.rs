//! Relays the outbox of `orders` until it is killed: `outbox-relay <nats url> <seed file> <database>`, a file of SQLite or the URL of a
//! PostgreSQL.

use anyhow::Context as _;
use mesh_core::Mesh;
use sqlx::{PgPool, SqlitePool, sqlite::SqliteConnectOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &'static str| arguments.next().context(what);
    let (url, seed, database) = (next("the broker's URL")?, next("the seed's file")?, next("the database")?);
    let mesh = Mesh::builder("orders").url(&url).seed_file(&seed).connect().await?;
    if database.starts_with("postgres:") {
        mesh.relay(&mesh.outbox(&PgPool::connect(&database).await?)).start();
    } else {
        let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(database)).await?;
        mesh.relay(&mesh.outbox(&pool)).start();
    }
    mesh.run_until_stopped().await;
    Ok(())
}
