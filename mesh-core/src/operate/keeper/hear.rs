//! The broker's word on deliveries that it gave up, heard as it is said.
//!
//! The broker says it once, as a plain message. The stream that keeps it stores nothing while it has no leader: on three servers,
//! for the seconds of an election. So every keeper process, active or not, hears it too and remembers it for a while, and
//! whichever is active works it off. Twice is once: every step finds what was done before.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::advisory;
use crate::{
    bus::Bus,
    clock::{TaskScope, patient_delays},
    policy::{compile::GIVEN_UP, reconcile::Notice},
};

/// The stream's own word comes first, if it has one: what is heard waits for so long.
pub(super) const AFTER_THE_STREAM: Duration = Duration::from_secs(3);
/// How long a process that is not active remembers: longer than a takeover takes.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Words that are remembered at once; the oldest are forgotten beyond it, and the stream has most of them.
const MOST: usize = 10_000;

/// What was heard. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<VecDeque<(Instant, Notice)>>>);

impl Heard {
    fn put(&self, notice: Notice) {
        let mut all = self.lock();
        all.retain(|(since, _)| since.elapsed() < REMEMBERED);
        if all.len() >= MOST {
            all.pop_front();
        }
        all.push_back((Instant::now(), notice));
    }

    /// What was heard long enough ago. It is not taken out: see [`done`](Heard::done).
    pub(super) fn due(&self) -> Vec<Notice> {
        let is_due = |since: &Instant| since.elapsed() >= AFTER_THE_STREAM;
        self.lock().iter().filter(|(since, _)| is_due(since)).map(|(_, notice)| notice.clone()).collect()
    }

    /// It is worked off.
    pub(super) fn done(&self, notice: &Notice) {
        let mut all = self.lock();
        if let Some(at) = all.iter().position(|(_, other)| other == notice) {
            all.remove(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Notice)>> {
        // A list of plain values: a panic elsewhere can't have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears until `stop` stops. Needs no lease.
pub(super) async fn run(bus: Bus, heard: Heard, stop: TaskScope) {
    let hearing = GIVEN_UP.map(|subject| hear(&bus, subject, &heard));
    tokio::select! {
        () = stop.stopped() => {}
        _ = futures_util::future::join_all(hearing) => {}
    }
}

async fn hear(bus: &Bus, subject: &str, heard: &Heard) {
    let mut delays = patient_delays();
    loop {
        match bus.subscribe(subject, None).await {
            Ok(mut words) => {
                while let Some(word) = words.next().await {
                    if let Some(notice) = advisory::read(&word.open().envelope) {
                        heard.put(notice);
                    }
                }
            }
            Err(fault) => tracing::warn!(%fault, subject, "the broker's word is not heard: only its stream is read"),
        }
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
    }
}
