//! Using an operation: now (`call`) or later (`enqueue`).

use std::marker::PhantomData;

use prost::Message as _;

use super::Mesh;
use crate::{
    bus::Bus,
    contract::Operation,
    publish::{Enqueue, WorkTarget},
    request::{Call, CallRetry, CallTarget, Retries},
    telemetry::metrics::OperationMetrics,
};

/// Asks for one operation. Who stands behind it is decided outside the code.
#[derive(Debug, Clone)]
pub struct OperationClient<O> {
    bus: Bus,
    metrics: OperationMetrics,
    /// `None`: its calls are made once.
    retries: Option<Retries>,
    operation: PhantomData<fn(O)>,
}

impl<O: Operation> OperationClient<O> {
    pub(super) fn new(mesh: &Mesh) -> OperationClient<O> {
        let metrics = mesh.metrics().operation(&O::info().full_name());
        let retries = Some(mesh.0.retries.of::<O>());
        OperationClient { bus: mesh.bus().clone(), metrics, retries, operation: PhantomData }
    }

    /// Limits of its own for repeating calls that failed, and a budget of its own, shared by the clones of this client.
    /// Default: [`CallRetry::default`], with one budget for all clients of the operation in this process.
    #[must_use]
    pub fn retry(mut self, limits: CallRetry) -> OperationClient<O> {
        self.retries = Some(Retries::new(limits));
        self
    }

    /// Makes each call once, whatever comes back.
    #[must_use]
    pub fn without_retry(mut self) -> OperationClient<O> {
        self.retries = None;
        self
    }

    /// Do it now and answer. Await it. What failed is made again where the contract allows it, within the call's deadline.
    pub fn call(&self, request: &O::Request) -> Call<O::Reply> {
        let payload = request.encode_to_vec().into();
        let call = Call::new(&self.bus, CallTarget::of::<O>(), payload).metrics(self.metrics.clone());
        self.retries.iter().fold(call, Call::retries)
    }

    /// Do it, durably, when it can be done. Await it for the receipt; the outcome is announced as an event.
    pub fn enqueue(&self, request: &O::Request) -> Enqueue {
        let key = O::key(request).into_owned();
        let payload = request.encode_to_vec().into();
        Enqueue::new(&self.bus, WorkTarget::of::<O>(), key, payload).metrics(self.metrics.clone())
    }
}
