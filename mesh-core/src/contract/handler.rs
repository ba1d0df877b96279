//! What a service writes to consume an event.

use std::future::Future;

use super::Context;
use crate::fault::Fault;

/// Handles one message. Implemented by every `async fn(Context, M) -> Result<(), Fault>` and by closures of that shape.
///
/// The fault decides what happens next: see `policy::retry`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{M}`",
    note = "a handler is `async fn(Context, {M}) -> Result<(), Fault>`"
)]
pub trait Handler<M>: Send + Sync + 'static {
    /// Handles it. It may be called again with the same message: `cx.message_id()` is then the same.
    fn handle(&self, cx: Context, message: M) -> impl Future<Output = Result<(), Fault>> + Send;
}

impl<M, F, Fut> Handler<M> for F
where
    M: Send + 'static,
    F: Fn(Context, M) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Fault>> + Send,
{
    fn handle(&self, cx: Context, message: M) -> impl Future<Output = Result<(), Fault>> + Send {
        self(cx, message)
    }
}
