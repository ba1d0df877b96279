//! The shop's payments, served as a test says: what a repeat does is the test's word, not the contract's.

use bytes::Bytes;
use mesh_core::{
    Context, Fault,
    contract::{BoxFuture, OperationInfo, Repeat, Service},
};

use crate::Seen;

const PAYMENTS: &str = "shop.payments.v1.Payments";

/// How a charge ends.
type End = Box<dyn Fn(Context) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Charges that write their ids down as they begin.
pub struct Charges {
    repeat: Repeat,
    seen: Seen,
    end: End,
    target: Option<String>,
}

impl Charges {
    /// With what a repeat does, where the ids are written down, and how each ends.
    #[must_use]
    pub fn new<F>(repeat: Repeat, seen: &Seen, end: impl Fn(Context) -> F + Send + Sync + 'static) -> Charges
    where
        F: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        Charges { repeat, seen: Seen::clone(seen), end: Box::new(move |cx| Box::pin(end(cx))), target: None }
    }

    /// All of them at this target.
    #[must_use]
    pub fn at(self, target: &str) -> Charges {
        Charges { target: Some(target.to_owned()), ..self }
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

    fn target(&self, _method: &str, _payload: &Bytes) -> Option<String> {
        self.target.clone()
    }

    fn dispatch<'a>(&'a self, _method: &'a str, cx: Context, _payload: Bytes) -> BoxFuture<'a, Result<Bytes, Fault>> {
        Box::pin(async move {
            self.seen.lock().await.push(cx.local_id().to_owned());
            (self.end)(cx).await.map(|()| Bytes::new())
        })
    }
}
