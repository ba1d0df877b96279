//! Keeps the mesh, or waits to, until SIGTERM.

use std::io::Write as _;

use mesh_core::{
    clock::TaskScope,
    operate::keeper::{Keeper, KeeperSettings},
    subject::KEEPER,
};

use super::Place;

/// Keeps with the settings of `mesh keeper`. Its first line names it as the lease does.
///
/// # Errors
/// The broker can't be reached at first.
pub async fn run(place: &Place) -> anyhow::Result<()> {
    let mesh = place.connect(KEEPER).await?;
    let scope = TaskScope::new();
    let keeper = Keeper::new(mesh.bus(), mesh.metrics(), KeeperSettings::default());
    writeln!(std::io::stdout(), "ready {}", keeper.holder())?;
    scope.spawn(keeper.run(scope.clone()));
    mesh.run_until_stopped().await;
    scope.stop();
    scope.idle().await;
    Ok(())
}
