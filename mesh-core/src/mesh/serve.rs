//! Serving the operations of an rpc service: one handler for calls and for queued work.

use std::sync::Arc;

use super::Mesh;
use crate::{
    consume::{ConsumerSettings, ServiceWork, Worker},
    contract::{Service, admission::Admission},
    delayed::Lane,
    fault::Fault,
    policy::{compile::worker_name, retry::RetryRule},
    request::{Responder, ResponderSettings},
    subject,
};

/// A service, before it starts to serve.
#[must_use = "nothing is served until start() is awaited"]
pub struct ServeBuilder {
    mesh: Mesh,
    service: Arc<dyn Service>,
    calls: bool,
    work: bool,
    settings: ConsumerSettings,
    responder: ResponderSettings,
}

impl ServeBuilder {
    pub(super) fn new(mesh: &Mesh, service: Arc<dyn Service>) -> ServeBuilder {
        ServeBuilder {
            mesh: mesh.clone(),
            service,
            calls: true,
            work: true,
            settings: ConsumerSettings::default(),
            responder: ResponderSettings::default(),
        }
    }

    /// Whether calls are answered. Default: yes.
    pub fn calls(mut self, calls: bool) -> ServeBuilder {
        self.calls = calls;
        self
    }

    /// Whether queued work is worked off. Default: yes.
    pub fn work(mut self, work: bool) -> ServeBuilder {
        self.work = work;
        self
    }

    /// How much queued work is handled at once. Default: 64.
    pub fn concurrency(mut self, concurrency: usize) -> ServeBuilder {
        self.settings.concurrency = concurrency;
        self
    }

    /// How many calls are handled at once; one more is refused as overloaded. Default: 1,024.
    pub fn call_concurrency(mut self, concurrency: usize) -> ServeBuilder {
        self.responder.concurrency = concurrency;
        self
    }

    /// Whether and when a failed attempt at queued work is made again. Default: [`RetryRule::default`].
    pub fn retry(mut self, retry: RetryRule) -> ServeBuilder {
        self.settings.retry = retry;
        self
    }

    /// The same for one operation, by its method's name; the others keep the rule of [`retry`](ServeBuilder::retry).
    pub fn retry_of(mut self, method: &str, retry: RetryRule) -> ServeBuilder {
        self.settings.retry_of.insert(method.to_owned(), retry);
        self
    }

    /// How long it is remembered that work was done (whole seconds), so that work that comes again is not done again. It costs
    /// two durable writes for each piece of work. Default: only for operations whose contract forbids a blind repeat; of those it is
    /// remembered for 24 hours at least, whatever is said here.
    pub fn inbox(mut self, horizon: std::time::Duration) -> ServeBuilder {
        self.settings.inbox = Some(horizon);
        self
    }

    /// Asked before work is fetched or begun: an adapter's quota.
    pub fn admission(mut self, admission: Arc<dyn Admission>) -> ServeBuilder {
        self.settings.admission = admission;
        self
    }

    /// All settings of working off queued work at once.
    pub fn settings(mut self, settings: ConsumerSettings) -> ServeBuilder {
        self.settings = settings;
        self
    }

    /// Begins to serve, in the background, until the mesh drains.
    ///
    /// # Errors
    /// The bus has no consumer for the work, or can't be reached.
    pub async fn start(self) -> Result<(), Fault> {
        let inner = &*self.mesh.0;
        if self.calls {
            Responder::start(
                &inner.bus,
                Arc::clone(&self.service),
                &self.responder,
                (&inner.metrics, &inner.home.scope, &inner.discovery),
            )
            .await?;
        }
        if self.work {
            let identity = self.mesh.identity();
            let consumer = worker_name(self.service.name());
            let lane = Lane { region: identity.region().clone(), service: identity.service().clone(), consumer };
            let stream = subject::work_stream(self.service.name());
            let about = (inner.metrics.consumer(lane.consumer.as_str()), &inner.home);
            let work = Arc::new(ServiceWork::new(self.service));
            Worker::new(&inner.bus, lane, self.settings, work, about).start(&stream).await?;
        }
        Ok(())
    }
}
