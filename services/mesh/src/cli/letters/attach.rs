//! Looking on while the keeper does a job: a bar on a terminal, a line now and then elsewhere. Ctrl-C lets go of it.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use mesh_core::{
    bus::{Bus, Stop as Enough},
    operate::jobs::{self, End, Job, JobState},
    policy::replay::Counts,
};
use serde_json::{Value, json};

use super::{
    super::away,
    Output, Status,
    job_words::{self, Kept},
    mention,
};
use crate::{ledger::grouped, stop::Stop};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How a person looks on.
pub(super) struct Looking {
    /// For so long; where nothing is said until it has ended.
    pub(super) limit: Option<Duration>,
    /// What the job's document stands in.
    pub(super) shape: fn(Value) -> Value,
}

/// Shows how far a job is until it has ended, or the time is over: then it goes on, and the status says so.
pub(super) async fn run(bus: &Bus, id: &str, looking: &Looking, output: &Output) -> anyhow::Result<Status> {
    let stop = Stop::listen()?;
    let mut display = Display::new(output);
    let mut last: Option<Job> = None;
    let watching = jobs::watch(bus, id, |job| {
        display.show(job);
        let is_finished = job.is_finished();
        last = Some(job.clone());
        if is_finished { Enough::Yes } else { Enough::No }
    });
    let is_over = async {
        match looking.limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let let_go = tokio::select! {
        () = watching => Status::Ok,
        () = stop.told() => Status::Ok,
        () = is_over => Status::Failed,
        never = away::tell(bus, "the job stays as it is") => match never {},
    };
    display.end();
    bus.close().await;
    match &last {
        Some(job) => tell(job, looking.shape, output)?,
        None if output.is_json() => output.json(&(looking.shape)(json!({ "id": id })))?,
        None => {}
    }
    let Some(job) = last.filter(Job::is_finished) else {
        output.remark(&format!("job {id} goes on; look again: mesh dead-letter jobs watch {id}"));
        return Ok(let_go);
    };
    let counts = job.counts();
    let is_good = job.state() == JobState::Done
        && counts.failed == 0
        && counts.skipped.without_consumer + counts.skipped.refused == 0;
    Ok(if is_good { Status::Ok } else { Status::Failed })
}

/// Says where a job stands.
pub(super) fn tell(job: &Job, shape: fn(Value) -> Value, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.json(&shape(document(job)))?);
    }
    output.line(&format!("job {}  {}", job.id, line(job, Kept::Unknown)))?;
    if !job.is_finished() {
        output.line(&format!("  {}", job_words::plan(job)))?;
        for waiting in job_words::waiting(job) {
            output.line(&format!("  waits: {waiting}"))?;
        }
    }
    tell_end(job, output)
}

/// Why a job ended before it was through, and what to type where letters failed again.
pub(super) fn tell_end(job: &Job, output: &Output) -> anyhow::Result<()> {
    if let Some(End::Aborted(why)) = &job.end {
        output.line(&format!("aborted: {why}"))?;
    }
    if let Some(next) = job_words::next(job) {
        output.remark(&format!("next: {next}"));
    }
    Ok(())
}

/// A job in one line: its state and its counts.
pub(super) fn line(job: &Job, kept: Kept) -> String {
    let Counts { dispatched, resolved, failed, skipped } = job.counts();
    let mut line = format!(
        "{}: {} of {} sent, {} resolved, {} failed again",
        job_words::standing(job, kept),
        grouped(dispatched),
        grouped(job.replay.selected),
        grouped(resolved),
        grouped(failed),
    );
    let in_flight = job.counts().in_flight();
    let others = [
        (in_flight, "not ended yet"),
        (skipped.replayed_by_others, "replayed by others"),
        (skipped.held, "held"),
        (skipped.discarded, "discarded"),
        (skipped.without_consumer, "without a consumer"),
        (skipped.refused, "refused"),
    ];
    for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
        line.push_str(&format!(", {} {what}", grouped(count)));
    }
    for it in &job.checkpoint.waiting {
        line.push_str(&format!(", {} waiting for {}", grouped(it.letters + it.copies), it.consumer));
    }
    line
}

/// A job in one JSON object.
pub(super) fn document(job: &Job) -> Value {
    let (counts, replay) = (job.counts(), &job.replay);
    let selection = replay.selection.clone().unwrap_or_default();
    let filter: Value = serde_json::from_str(&selection.filter).unwrap_or_default();
    let history = job.history.iter().map(|moment| {
        let act = &moment.act;
        json!({ "what": moment.what, "atMs": act.at_ms, "by": act.by, "why": act.why })
    });
    let waiting = job
        .checkpoint
        .waiting
        .iter()
        .map(|it| json!({ "consumer": it.consumer, "letters": it.letters, "copies": it.copies, "why": it.why }));
    json!({
        "id": job.id,
        "state": job.state().word(),
        "finished": job.is_finished(),
        "selection": { "ids": selection.ids, "filter": filter },
        "cutOff": replay.cut_off,
        "selected": replay.selected,
        "ratePerSecond": replay.rate_per_second,
        "canary": replay.canary,
        "step": job.checkpoint.step,
        "abortIf": replay.abort_if,
        "atMs": replay.at_ms,
        "maxInFlight": replay.max_in_flight,
        "dispatched": counts.dispatched,
        "resolved": counts.resolved,
        "failed": counts.failed,
        "inFlight": counts.in_flight(),
        "skipped": {
            "held": counts.skipped.held,
            "discarded": counts.skipped.discarded,
            "replayedByOthers": counts.skipped.replayed_by_others,
            "withoutConsumer": counts.skipped.without_consumer,
            "refused": counts.skipped.refused,
        },
        "waiting": waiting.collect::<Vec<_>>(),
        "history": history.collect::<Vec<_>>(),
    })
}

enum Display {
    Silent,
    Lines { last: Option<Instant> },
    Bar(ProgressBar),
}

impl Display {
    fn new(output: &Output) -> Display {
        match (std::io::stderr().is_terminal(), output.is_json()) {
            (true, _) => {
                let style = "{wide_bar} {human_pos:>7} of {human_len}  {eta} left  {msg}";
                let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
                Display::Bar(ProgressBar::new(0).with_style(style))
            }
            (false, true) => Display::Silent,
            (false, false) => Display::Lines { last: None },
        }
    }

    /// How far it is: what has ended or will not be sent.
    fn show(&mut self, job: &Job) {
        match self {
            Display::Silent => {}
            Display::Lines { last } => {
                if last.is_none() {
                    mention(&job_words::plan(job));
                }
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    mention(&line(job, Kept::Unknown));
                }
            }
            Display::Bar(bar) => {
                let counts = job.counts();
                if bar.length() == Some(0) {
                    bar.println(job_words::plan(job));
                }
                bar.set_length(job.replay.selected);
                bar.set_position(counts.ended() + counts.skipped.total());
                bar.set_message(message(job));
            }
        }
    }

    fn end(self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn message(job: &Job) -> String {
    let mut message =
        format!("{}, {} failed again", job_words::standing(job, Kept::Unknown), grouped(job.counts().failed));
    let steps = &job.replay.canary;
    let step = usize::try_from(job.checkpoint.step).unwrap_or(0);
    if let Some(percent) = step.checked_sub(1).and_then(|index| steps.get(index)) {
        message.push_str(&format!(", step {percent}%"));
    }
    message
}
