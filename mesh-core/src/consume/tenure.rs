//! The ownership under which an ordered consumer tries a delivery: it may end, or be given up, while the delivery waits for its
//! place or its record.

use crate::clock::TaskScope;

/// As an attempt sees it.
#[derive(Clone, Copy)]
pub(super) struct Tenure<'a> {
    /// Whether nobody else can have taken over.
    pub(super) is_live: &'a (dyn Fn() -> bool + Send + Sync),
    /// Stops when the process is no longer the owner: what runs is cancelled.
    pub(super) lost: &'a TaskScope,
    /// Stops when the process is to give up what it owns: nothing more is begun.
    pub(super) give: &'a TaskScope,
    /// Whether this attempt follows another one of the same delivery, after a wait in hand.
    pub(super) goes_on: bool,
}

/// Ends when the ownership is lost; never where there is none.
pub(super) async fn lost(tenure: Option<Tenure<'_>>) {
    match tenure {
        Some(tenure) => tenure.lost.stopped().await,
        None => std::future::pending().await,
    }
}

/// Ends when nothing more is to be begun: the service drains (`scope`), or owns it no more.
pub(super) async fn ending(scope: &TaskScope, tenure: Option<Tenure<'_>>) {
    let given_up = async {
        match tenure {
            Some(tenure) => tenure.give.stopped().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = scope.stopped() => {}
        () = given_up => {}
        () = lost(tenure) => {}
    }
}
