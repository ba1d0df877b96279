//! What is sent to lanes, and what waits where one is away.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    super::{
        dispatch::{Skip, subject_of},
        lanes::{Ask, Gate},
        progress::Key,
        walk::Candidate,
    },
    Dispatched, Ended, MAX_LOOK_UPS, MAX_REPAIRS, Runner,
};
use crate::{
    dead_letter::Letter,
    fault::{Fault, Reason},
};

impl Runner {
    /// Orders the first letter, as far as its lane goes.
    pub(super) fn send_to_lane(&mut self, is_full: bool) -> Dispatched {
        let Some(Candidate::Letter(letter)) = self.account.queue.front() else { return Dispatched::NothingToSend };
        let (subject, now) = (subject_of(letter), Instant::now());
        match self.account.lanes.gate(&subject, now) {
            Gate::Hold(until) => return Dispatched::NotBefore(until),
            Gate::Open if is_full => return Dispatched::NothingToSend,
            Gate::Open => match self.take_moment() {
                Ok(()) => self.send(),
                Err(not_now) => return not_now,
            },
            Gate::Ask if self.look_ups >= MAX_LOOK_UPS => return Dispatched::NothingToSend,
            Gate::Ask => self.find_consumer(subject),
            Gate::Away => {
                self.account.queue.pop();
                self.account.lanes.wait(&subject, now);
            }
            Gate::Gone => {
                self.account.queue.pop();
                let skip = Some(Skip::WithoutConsumer);
                Key::of(&subject).into_iter().for_each(|key| self.account.queue.skip(key, skip));
            }
        }
        Dispatched::Yes
    }

    /// Looks for the consumer of the first letter: for the first of a consumer, and again where its lane was away.
    fn find_consumer(&mut self, subject: String) {
        let Some(Candidate::Letter(letter)) = self.account.queue.pop() else { return };
        let Some(key) = Key::of(&subject) else { return };
        self.account.look_at(key);
        self.account.lanes.ask(&subject, Instant::now());
        self.look_ups += 1;
        let errand = Arc::clone(&self.errand);
        self.under_way.push(Box::pin(async move {
            let result = errand.find_consumer(&letter).await;
            Ended::Found { key, letter, subject, result }
        }));
    }

    pub(super) fn consumer_was(&mut self, key: Key, letter: Box<Letter>, subject: &str, result: Result<bool, Fault>) {
        let now = Instant::now();
        match result {
            Ok(true) => {
                self.account.lanes.found(subject, now);
                self.account.put_back(key, letter);
            }
            Ok(false) => {
                self.account.lanes.gone(subject, now);
                self.account.not_sent(key, Some(Skip::WithoutConsumer));
            }
            Err(fault) => {
                self.lane_is_away(subject, &fault);
                self.account.wait_for_lane(key, subject);
            }
        }
    }

    /// The copy of an order is not on its lane: it waits for that.
    pub(super) fn copy_waits(&mut self, ordered_at: u64, subject: &str, fault: &Fault) {
        self.lane_is_away(subject, fault);
        self.account.lanes.wait_for_copy(ordered_at, subject, Instant::now());
    }

    fn lane_is_away(&mut self, subject: &str, fault: &Fault) {
        // Where nothing is known, what the broker said: what else there is tells a person to send one letter again.
        let why = if fault.reason() == Reason::PublishUnconfirmed { fault.detail() } else { fault.message() };
        if self.account.lanes.fails(subject, why, Instant::now()) {
            let job = &self.errand.job;
            tracing::warn!(%fault, job, subject, "a consumer's lane is away: its letters wait, the others go on");
        }
    }

    /// Sends copies that may be missing once more.
    pub(super) fn repair(&mut self) {
        while self.repairs < MAX_REPAIRS
            && let Some((ordered_at, subject)) = self.account.next_missing()
        {
            let now = Instant::now();
            match self.account.lanes.gate(&subject, now) {
                Gate::Away => self.account.lanes.wait_for_copy(ordered_at, &subject, now),
                _ => self.send_again(ordered_at, subject),
            }
        }
    }

    fn send_again(&mut self, ordered_at: u64, subject: String) {
        let errand = Arc::clone(&self.errand);
        self.account.lanes.give(&subject, Instant::now());
        self.repairs += 1;
        self.under_way.push(Box::pin(async move {
            let result = errand.send_again(&subject, ordered_at).await;
            Ended::SentAgain { ordered_at, subject, result }
        }));
    }

    /// Sees to what waits for lanes that may be back.
    pub(super) fn ask_lanes(&mut self) {
        let (now, has_room) = (Instant::now(), !self.is_stopped());
        while self.repairs < MAX_REPAIRS
            && let Some(ask) = self.account.lanes.next(now, has_room && self.account.queue.has_room())
        {
            match ask {
                Ask::Copy(ordered_at, subject) => self.send_again(ordered_at, subject),
                Ask::Letter(subject) => {
                    let key = Key::of(&subject);
                    let candidate = |key| Candidate::LookUp { key, subject, seen: 0, is_meant: true };
                    key.map(candidate).into_iter().for_each(|it| self.account.queue.first(it));
                }
            }
        }
    }
}
