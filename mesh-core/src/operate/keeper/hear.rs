//! The broker's word on deliveries that it gave up, heard as it is said.
//!
//! The broker says it once, as a plain message. The stream that keeps it stores nothing while it has no leader: on three servers,
//! for the seconds of an election. So every keeper process, active or not, hears it too and remembers it for a while, and
//! whichever is active works off what the stream does not hold. Twice is once: every step finds what was done before.

use std::{
    collections::{BTreeSet, VecDeque},
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
/// How long a process that is not active remembers, beyond what a word may rest: longer than a takeover takes.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Words that are remembered at once; the oldest are forgotten beyond it, and the stream has most of them.
const MOST: usize = 10_000;

/// What was heard. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Words>>);

#[derive(Debug, Default)]
struct Words {
    all: VecDeque<Word>,
    /// Of the next one.
    number: u64,
    /// How long a word may rest before it is worked off.
    rest: Duration,
    /// This process works them off.
    is_active: bool,
}

/// One word that was heard.
#[derive(Debug, Clone)]
pub(super) struct Word {
    /// What tells it from all others.
    pub(super) number: u64,
    /// What was said.
    pub(super) notice: Notice,
    since: Instant,
}

/// While it lives, this process works off what it heard, and forgets nothing for its age.
#[derive(Debug)]
pub(super) struct AtWork<'a>(&'a Heard);

impl Heard {
    /// Nothing yet, of words that may rest so long before they are worked off.
    pub(super) fn resting(rest: Duration) -> Heard {
        Heard(Arc::new(Mutex::new(Words { rest, ..Words::default() })))
    }

    fn put(&self, notice: Notice) {
        let mut words = self.lock();
        if !words.is_active {
            words.forget();
        }
        if words.all.len() >= MOST {
            words.all.pop_front();
        }
        words.number += 1;
        let number = words.number;
        words.all.push_back(Word { number, notice, since: Instant::now() });
    }

    /// From here on this process works them off. What it heard before a takeover could take place, another one did.
    pub(super) fn at_work(&self) -> AtWork<'_> {
        let mut words = self.lock();
        words.forget();
        words.is_active = true;
        AtWork(self)
    }

    /// What was heard long enough ago and was not taken up. It is not taken out: see [`done`](Heard::done).
    pub(super) fn due(&self, taken: &BTreeSet<u64>) -> Vec<Word> {
        let is_due = |word: &&Word| word.since.elapsed() >= AFTER_THE_STREAM && !taken.contains(&word.number);
        self.lock().all.iter().filter(is_due).cloned().collect()
    }

    /// It is worked off.
    pub(super) fn done(&self, number: u64) {
        self.lock().all.retain(|word| word.number != number);
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        // A list of plain values: a panic elsewhere can't have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    fn forget(&mut self) {
        let remembered = REMEMBERED.saturating_add(self.rest);
        self.all.retain(|word| word.since.elapsed() < remembered);
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.lock().is_active = false;
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
                    if let Some(notice) = advisory::read(&word.open().envelope, bus.gate().clock().now_ms()) {
                        heard.put(notice);
                    }
                }
            }
            Err(fault) => tracing::warn!(%fault, subject, "the broker's word is not heard: only its stream is read"),
        }
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::reconcile;

    fn notice(sequence: u64) -> Notice {
        let (stream, durable) = ("mesh1-event-orders".into(), "a_work".into());
        Notice { stream, durable, sequence, deliveries: 3, at_ms: 1, word: reconcile::Word::GivenUp }
    }

    fn due(heard: &Heard, taken: &[u64]) -> Vec<u64> {
        heard.due(&taken.iter().copied().collect()).iter().map(|word| word.notice.sequence).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_up_is_not_due_again_until_it_is_done() {
        let heard = Heard::default();
        (1..=3).for_each(|sequence| heard.put(notice(sequence)));
        assert!(due(&heard, &[]).is_empty(), "the stream's word comes first");
        tokio::time::advance(AFTER_THE_STREAM).await;
        assert_eq!(due(&heard, &[1]), [2, 3]);
        heard.done(2);
        assert_eq!(due(&heard, &[]), [1, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_rest_is_remembered_so_much_longer() {
        let heard = Heard::resting(Duration::from_secs(900));
        heard.put(notice(1));
        tokio::time::advance(REMEMBERED + Duration::from_secs(899)).await;
        drop(heard.at_work());
        assert_eq!(due(&heard, &[]), [1]);
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(heard.at_work());
        assert!(due(&heard, &[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_forgets_by_age_only_while_another_one_works() {
        let heard = Heard::default();
        heard.put(notice(1));
        let at_work = heard.at_work();
        tokio::time::advance(REMEMBERED * 2).await;
        heard.put(notice(2));
        tokio::time::advance(AFTER_THE_STREAM).await;
        assert_eq!(due(&heard, &[]), [1, 2], "it was not attempted yet");
        drop(at_work);
        heard.put(notice(3));
        assert_eq!(due(&heard, &[]), [2]);
        tokio::time::advance(REMEMBERED).await;
        let _at_work = heard.at_work();
        assert!(due(&heard, &[]).is_empty(), "whoever worked until now heard them too");
    }
}
