//! Using an operation: now (`call`) or later (`enqueue`).

use std::marker::PhantomData;

use prost::Message as _;

use super::Mesh;
use crate::{
    bus::Bus,
    contract::Operation,
    publish::{Enqueue, WorkTarget},
    request::{Call, CallTarget},
    telemetry::metrics::OperationMetrics,
};

/// Asks for one operation. Who stands behind it is decided outside the code.
#[derive(Debug, Clone)]
pub struct OperationClient<O> {
    bus: Bus,
    metrics: OperationMetrics,
    operation: PhantomData<fn(O)>,
}

impl<O: Operation> OperationClient<O> {
    pub(super) fn new(mesh: &Mesh) -> OperationClient<O> {
        let metrics = mesh.metrics().operation(&O::info().full_name());
        OperationClient { bus: mesh.bus().clone(), metrics, operation: PhantomData }
    }

    /// Do it now and answer. Await it.
    pub fn call(&self, request: &O::Request) -> Call<O::Reply> {
        let payload = request.encode_to_vec().into();
        Call::new(&self.bus, CallTarget::of::<O>(), payload).metrics(self.metrics.clone())
    }

    /// Do it, durably, when it can be done. Await it for the receipt; the outcome is announced as an event.
    pub fn enqueue(&self, request: &O::Request) -> Enqueue {
        let key = O::key(request).into_owned();
        let payload = request.encode_to_vec().into();
        Enqueue::new(&self.bus, WorkTarget::of::<O>(), key, payload).metrics(self.metrics.clone())
    }
}
