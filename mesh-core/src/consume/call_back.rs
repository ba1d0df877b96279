//! What was put aside for a target comes back when the target answers, long before it is due by itself.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};

use super::{
    targets::{Called, Targets},
    worker::Worker,
};
use crate::delayed;

/// So many are called back at once: each is one read and one write.
const AT_ONCE: usize = 16;
/// So many are looked for in the place of one that is not there, at most.
const LOOKS: usize = 16;
/// So often it is looked for targets that nobody calls for.
const REMINDS: Duration = Duration::from_secs(1);
/// So many are called back by a process that drains, so that they do not wait for nobody.
const LEAVING: usize = 1000;
/// And so long it takes to do that, at most.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

impl Worker {
    /// Calls back until the scope stops. What is not called then waits until others see that this process is gone.
    pub(super) async fn call_back(self: Arc<Self>) {
        let Some(targets) = &self.isolation else { return };
        let failed = Once::new();
        let mut reminds = tokio::time::interval(REMINDS);
        reminds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let called = tokio::select! {
                biased;
                () = self.scope.stopped() => break,
                _ = reminds.tick() => {
                    targets.remind();
                    continue;
                }
                called = targets.called() => called,
            };
            // What is being called when the process drains is called to its end.
            let over = async {
                self.scope.stopped().await;
                tokio::time::sleep(LEAVES_WITHIN).await;
            };
            tokio::select! {
                () = self.call_all(targets, called, &failed) => {}
                () = over => {}
            }
        }
        let leaving = self.call_all(targets, targets.leave(LEAVING), &failed);
        let _ = tokio::time::timeout(LEAVES_WITHIN, leaving).await;
    }

    async fn call_all(&self, targets: &Targets, called: Vec<Called>, failed: &Once) {
        stream::iter(called).for_each_concurrent(AT_ONCE, |called| self.call_one(targets, called, failed)).await;
    }

    /// Calls one back, or in its place another one of its target.
    async fn call_one(&self, targets: &Targets, called: Called, failed: &Once) {
        let mut next = Some(called);
        for look in 1..=LOOKS {
            let Some(called) = next.take().filter(|called| targets.may_call(called)) else { return };
            match delayed::bring_forward(&self.bus, &self.lane, &called.unique, called.at_ms).await {
                Ok(true) => return,
                Ok(false) if look == LOOKS => return,
                Ok(false) => next = targets.instead(called),
                Err(fault) => {
                    failed.call_once(|| tracing::warn!(
                        %fault,
                        consumer = %self.lane.durable(),
                        "what was put aside for a target that answers again can't be called back: it comes back by itself, within a quarter of an hour (if access is denied: mesh keys makes users that may); said once"
                    ));
                    targets.not_called(called);
                }
            }
        }
    }
}
