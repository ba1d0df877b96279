//! What the keeper does about jobs: every one that has not finished is run.

use std::collections::HashMap;

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use super::{
    Job, Jobs,
    follow::{Heard, Reading, follow},
    late::{Book, Late},
    runner::Runner,
    share::Share,
};
use crate::{
    bus::Bus,
    subject::{self, JOB_STREAM},
};

/// Runs every job of this region, those that others left unfinished too, until it is dropped: at any moment, since all that it
/// knows stands in the streams. To be called by whoever holds the keeper's lease; `me` tells this process from every other.
///
/// Two that run at once by mistake (a lease that ran out unnoticed) do no harm: each letter is ordered by compare-and-set, and
/// of two runners of a job the one that took it up first stops.
pub async fn run(bus: &Bus, me: &str) {
    let book = Book::default();
    // Before any job gives an order: none may be stored before it is known from where on they are looked after.
    let late = Box::pin(Late::begin(bus, book.clone())).await;
    let mut looking_after = Box::pin(late.run());
    let (heard_into, mut heard) = mpsc::channel(1024);
    let all = subject::job(bus.gate().identity().region(), "*");
    let reading = Reading { stream: JOB_STREAM, subjects: vec![all], from: 1 };
    let mut following = std::pin::pin!(follow(bus, reading, heard_into));
    let mut running: FuturesUnordered<BoxFuture<'_, String>> = FuturesUnordered::new();
    let (mut desk, share) = (Desk { book, ..Desk::default() }, Share::default());
    loop {
        tokio::select! {
            heard = heard.recv() => match heard {
                Some(heard) => {
                    for job in desk.hear(heard) {
                        running.push(Box::pin(run_one((bus, me), job, share.clone())));
                    }
                }
                None => return,
            },
            Some(id) = running.next(), if !running.is_empty() => desk.ended(&id),
            () = &mut following => return,
            never = &mut looking_after => match never {},
        }
    }
}

async fn run_one((bus, me): (&Bus, &str), job: watch::Receiver<Job>, share: Share) -> String {
    let id = job.borrow().id.clone();
    tracing::info!(job = id, "a job is taken up");
    Box::pin(Runner::new((bus, me), job, share).run()).await;
    tracing::info!(job = id, "a job is put down");
    id
}

/// Which jobs there are and which are run.
#[derive(Default)]
struct Desk {
    jobs: Jobs,
    is_caught_up: bool,
    told: HashMap<String, watch::Sender<Job>>,
    /// What whoever sees to late orders has to know of them.
    book: Book,
}

impl Desk {
    /// Takes what was heard; the jobs that are to be run from now on.
    fn hear(&mut self, heard: Heard) -> Vec<watch::Receiver<Job>> {
        let changed: Vec<Job> = match heard {
            Heard::CaughtUp => {
                self.is_caught_up = true;
                self.book.is_read();
                self.jobs.iter().cloned().collect()
            }
            Heard::Record(envelope) => {
                let changed = self.jobs.apply(&envelope).cloned();
                changed.iter().for_each(|job| self.book.tell(job));
                changed.into_iter().collect()
            }
        };
        if !self.is_caught_up {
            return Vec::new();
        }
        changed.into_iter().filter_map(|job| self.tell(job)).collect()
    }

    fn tell(&mut self, job: Job) -> Option<watch::Receiver<Job>> {
        if job.is_finished() {
            self.jobs.forget(&job.id);
        }
        if let Some(told) = self.told.get(&job.id) {
            told.send_replace(job);
            return None;
        }
        if job.is_finished() {
            return None;
        }
        let (sender, receiver) = watch::channel(job.clone());
        self.told.insert(job.id, sender);
        Some(receiver)
    }

    fn ended(&mut self, id: &str) {
        // One that somebody else took up stays known, so that it is not taken back.
        if self.jobs.get(id).is_none() {
            self.told.remove(id);
        }
    }
}
