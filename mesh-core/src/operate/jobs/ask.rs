//! What people order: a job, and what becomes of it.

use mesh_proto::v1::{self, job_created::What, job_record::Record};
use tokio::sync::mpsc;

use super::{
    Job, Jobs, Selection,
    follow::{Heard, Reading, follow},
    log::append,
    selection::MAX_IDS,
};
use crate::{
    bus::{Bus, Stop},
    fault::{Code, Effect, Fault, Reason},
    policy::replay::{AbortRule, Canary, Rate},
    subject::{self, JOB_STREAM, WIRE},
};

/// Letters that were sent and have not ended, where nothing is said.
const MAX_IN_FLIGHT: u32 = 10_000;
/// More are not kept in mind.
const MOST_IN_FLIGHT: u32 = 1_000_000;

/// A replay of many letters, as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Which letters.
    pub selection: Selection,
    /// The last sequence that is meant, and how many letters that is: from a [`Preview`](super::Preview).
    pub cut_off: u64,
    /// Letters that were open then.
    pub selected: u64,
    /// How fast. `None`: as fast as can be.
    pub rate: Option<Rate>,
    /// In which steps.
    pub canary: Canary,
    /// When to give up.
    pub abort_if: Option<AbortRule>,
    /// Not before, Unix milliseconds.
    pub at_ms: Option<i64>,
    /// Letters that were sent and have not ended, at most; 0 for the default.
    pub max_in_flight: u32,
    /// Who asks, and why.
    pub by: String,
    /// The reason, for its history and that of each letter.
    pub why: String,
}

/// Writes a job down. The keeper takes it up.
///
/// # Errors
/// It names too many ids, or the bus did not confirm it: then look whether it is there.
pub async fn create(bus: &Bus, ask: Ask) -> Result<Job, Fault> {
    if ask.selection.ids.len() > MAX_IDS {
        let message = format!("{} ids in one job; it may name {MAX_IDS}: select by a filter", ask.selection.ids.len());
        return Err(Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidInput, message));
    }
    let replay = v1::ReplayJob {
        selection: Some(ask.selection.to_wire()),
        cut_off: ask.cut_off,
        selected: ask.selected,
        rate_per_second: ask.rate.map_or(0.0, Rate::as_per_second),
        canary: ask.canary.steps().to_vec(),
        abort_if: ask.abort_if.map(|rule| rule.to_string()).unwrap_or_default(),
        at_ms: ask.at_ms.unwrap_or_default(),
        max_in_flight: if ask.max_in_flight == 0 { MAX_IN_FLIGHT } else { ask.max_in_flight.min(MOST_IN_FLIGHT) },
    };
    let created = v1::JobCreated { act: Some(act(bus, ask.by, ask.why)), what: Some(What::Replay(replay)) };
    loop {
        let id = format!("{:08x}", fastrand::u32(..));
        let record = Record::Created(created.clone());
        match append(bus, &id, 0, record.clone()).await {
            Ok(sequence) => {
                let mut jobs = Jobs::default();
                let job = jobs.apply_record(&id, sequence, v1::JobRecord { record: Some(record) });
                return job.cloned().ok_or_else(|| missing(format!("the job {id} can't be read")));
            }
            // Another job has this id, or this one is there already and its acknowledgement was lost.
            Err(error) if error.is_conflict() => {
                if let Ok(job) = find(bus, &id).await
                    && created.act.as_ref() == Some(&job.asked)
                {
                    return Ok(job);
                }
            }
            Err(error) => {
                let next = "look first: mesh dead-letter jobs list";
                return Err(error.into_order_fault("the job", next));
            }
        }
    }
}

/// Every job, the newest first.
///
/// # Errors
/// The bus can't be reached, or this identity may not read jobs.
pub async fn list(bus: &Bus) -> Result<Vec<Job>, Fault> {
    let jobs = read(bus, &format!("{WIRE}.job.{}.*", bus.gate().identity().region())).await?;
    let mut jobs: Vec<Job> = jobs.iter().cloned().collect();
    jobs.sort_by_key(|job| std::cmp::Reverse(job.asked.at_ms));
    Ok(jobs)
}

/// Ids that an error names, at most.
const NAMED: usize = 10;

/// The one job whose id begins with `id`.
///
/// # Errors
/// No job has such an id, or several have; the bus can't be reached.
pub async fn find(bus: &Bus, id: &str) -> Result<Job, Fault> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(missing(format!("{id:?} is no job's id")));
    }
    let mut found = list(bus).await?;
    found.retain(|job| job.id.starts_with(id));
    match found.len() {
        0 => Err(missing(format!("no job's id begins with {id:?}"))),
        1 => Ok(found.swap_remove(0)),
        count => {
            let ids: Vec<_> = found.iter().take(NAMED).map(|job| job.id.as_str()).collect();
            let more = if count > NAMED { ", …" } else { "" };
            let ids = ids.join(", ");
            Err(missing(format!("the ids of {count} jobs begin with {id:?}: give more of it ({ids}{more})")))
        }
    }
}

async fn read(bus: &Bus, filter: &str) -> Result<Jobs, Fault> {
    let mut jobs = Jobs::default();
    bus.read(JOB_STREAM, filter, |record| {
        jobs.apply(&record.open().envelope);
        Stop::No
    })
    .await?;
    Ok(jobs)
}

/// Stops a job for now: what is under way ends, nothing more is sent.
///
/// # Errors
/// It sends nothing more anyway, or is paused; it changed meanwhile; the bus did not confirm it.
pub async fn pause(bus: &Bus, job: &Job, by: &str, why: &str) -> Result<(), Fault> {
    if job.is_paused {
        return Err(changed(job, "it is paused already"));
    }
    order(bus, job, by, why, Record::Paused).await
}

/// Lets a paused job go on.
///
/// # Errors
/// It is not paused, or sends nothing more; it changed meanwhile; the bus did not confirm it.
pub async fn resume(bus: &Bus, job: &Job, by: &str, why: &str) -> Result<(), Fault> {
    if !job.is_paused {
        return Err(changed(job, "it is not paused"));
    }
    order(bus, job, by, why, Record::Resumed).await
}

/// Stops a job for good: what is under way ends, nothing more is sent.
///
/// # Errors
/// It sends nothing more anyway; it changed meanwhile; the bus did not confirm it.
pub async fn cancel(bus: &Bus, job: &Job, by: &str, why: &str) -> Result<(), Fault> {
    order(bus, job, by, why, Record::Cancelled).await
}

/// Writes an order after whatever the keeper wrote meanwhile, as long as that leaves it right: a checkpoint does.
async fn order(bus: &Bus, job: &Job, by: &str, why: &str, kind: fn(v1::JobAct) -> Record) -> Result<(), Fault> {
    let act = act(bus, by.to_owned(), why.to_owned());
    let was_paused = job.is_paused;
    let mut now = job.clone();
    loop {
        // The acknowledgement of a first try was lost.
        if now.history.last().is_some_and(|last| last.act == act) {
            return Ok(());
        }
        if now.end.is_some() || now.is_finished() {
            return Err(changed(&now, &format!("it is {} already", now.state().word())));
        }
        if now.is_paused != was_paused {
            return Err(changed(&now, "somebody else was first"));
        }
        match append(bus, &now.id, now.last_sequence, kind(act.clone())).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {
                let there_is_none = || missing(format!("there is no job {}", now.id));
                now = again(bus, &now.id).await?.ok_or_else(there_is_none)?;
            }
            Err(error) => {
                let next = format!("look first: mesh dead-letter jobs show {}", now.id);
                return Err(error.into_order_fault(&format!("the order for job {}", now.id), &next));
            }
        }
    }
}

/// One job as it stands now. `None`: there is none.
pub(super) async fn again(bus: &Bus, id: &str) -> Result<Option<Job>, Fault> {
    let jobs = read(bus, &subject::job(bus.gate().identity().region(), id)).await?;
    Ok(jobs.get(id).cloned())
}

/// Calls `each` with a job as it stands now and whenever it changes, until `each` says stop. Cancel-safe.
pub async fn watch(bus: &Bus, id: &str, mut each: impl FnMut(&Job) -> Stop) {
    let subject = subject::job(bus.gate().identity().region(), id);
    let (heard, mut records) = mpsc::channel(64);
    let reading = Reading { stream: JOB_STREAM, subjects: vec![subject], from: 1 };
    let listen = async {
        let (mut jobs, mut caught_up) = (Jobs::default(), false);
        while let Some(heard) = records.recv().await {
            match heard {
                Heard::Record(envelope) => drop(jobs.apply(&envelope)),
                Heard::CaughtUp => caught_up = true,
            }
            if let Some(job) = jobs.get(id).filter(|_| caught_up)
                && each(job) == Stop::Yes
            {
                break;
            }
        }
    };
    tokio::select! {
        () = follow(bus, reading, heard) => {}
        () = listen => {}
    }
}

fn act(bus: &Bus, by: String, why: String) -> v1::JobAct {
    v1::JobAct { at_ms: bus.gate().clock().now_ms(), by, why }
}

fn missing(message: String) -> Fault {
    Fault::new(Code::NotFound, Effect::None, Reason::JobMissing, message)
}

fn changed(job: &Job, why: &str) -> Fault {
    let message = format!("job {}: {why}; look again: mesh dead-letter jobs show {}", job.id, job.id);
    Fault::new(Code::Aborted, Effect::None, Reason::JobChanged, message)
}
