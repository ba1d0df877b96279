//! A keeper in the test's own process.

use mesh_core::{
    Fault, Mesh,
    clock::TaskScope,
    operate::keeper::{Keeper, KeeperSettings},
    subject::KEEPER,
};

use crate::TestBroker;

/// A keeper at work until it is stopped.
pub struct Running {
    /// Its connection.
    pub mesh: Mesh,
    scope: TaskScope,
}

impl Running {
    /// Starts it with these settings.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn start(broker: &TestBroker, settings: KeeperSettings) -> Result<Running, Fault> {
        let (mesh, scope) = (broker.connect(KEEPER).await?, TaskScope::new());
        scope.spawn(Keeper::new(mesh.bus(), mesh.metrics(), settings).run(scope.clone()));
        Ok(Running { mesh, scope })
    }

    /// Ends it in peace.
    pub async fn stop(self) {
        self.scope.stop();
        self.scope.idle().await;
        self.mesh.drain().await;
    }
}
