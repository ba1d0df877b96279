//! The shop's payments, served as a test says: what a repeat does is the test's word, not the contract's.

use bytes::Bytes;
use mesh_core::{
    Context, Fault,
    contract::{BoxFuture, OperationInfo, Repeat, Service},
};

use crate::Seen;

const PAYMENTS: &str = "shop.payments.v1.Payments";

/// How a charge of this local id ends.
type End = Box<dyn Fn(String) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Charges that write their ids down as they begin.
pub struct Charges {
    repeat: Repeat,
    seen: Seen,
    end: End,
}

impl Charges {
    /// With what a repeat does, where the ids are written down, and how each ends.
    #[must_use]
    pub fn new<F>(repeat: Repeat, seen: &Seen, end: impl Fn(String) -> F + Send + Sync + 'static) -> Charges
    where
        F: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        Charges { repeat, seen: Seen::clone(seen), end: Box::new(move |id| Box::pin(end(id))) }
    }
}

impl Service for Charges {
    fn name(&self) -> &str {
        PAYMENTS
    }

    fn operations(&self) -> Vec<OperationInfo> {
        vec![OperationInfo {
            service: PAYMENTS.into(),
            method: "Charge".into(),
            repeat: self.repeat,
            request: "shop.payments.v1.ChargeRequest".into(),
            reply: "shop.payments.v1.ChargeReply".into(),
        }]
    }

    fn dispatch<'a>(&'a self, _method: &'a str, cx: Context, _payload: Bytes) -> BoxFuture<'a, Result<Bytes, Fault>> {
        Box::pin(async move {
            let id = cx.local_id().to_owned();
            self.seen.lock().await.push(id.clone());
            (self.end)(id).await.map(|()| Bytes::new())
        })
    }
}
