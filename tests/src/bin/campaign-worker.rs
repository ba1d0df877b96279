//! One process of the fault campaign: see `docs/campaign.md`. Not for use by hand.

use clap::Parser as _;
use mesh_tests::campaign::roles::Role;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Role::parse().play().await
}
