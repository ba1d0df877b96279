//! `mesh dead-letter jobs`: replays that the keeper does.

use clap::{Args, Subcommand};
use mesh_core::operate::jobs::{self, Job};

use super::{
    super::{
        columns::{Columns, Give},
        place,
        place::Place,
        text,
    },
    GlobalArgs, Output, Status,
    attach::{self, Looking},
    job_words::{self, Kept},
};

const HEADER: [&str; 5] = ["ID", "ASKED (UTC)", "BY", "WHY", "JOB"];
/// How its columns give way on a narrow terminal: `show` has all of it.
const STEPS: &[(usize, Give)] = &[
    (3, Give::To(12)),
    (1, Give::Moments),
    (2, Give::To(10)),
    (3, Give::All),
    (4, Give::To(40)),
    (2, Give::All),
    (4, Give::To(20)),
];

#[derive(Debug, Subcommand)]
pub(in super::super) enum JobCommand {
    /// List them: the newest first
    #[command(visible_alias = "ls")]
    List,
    /// Show all that is known about one
    #[command(visible_alias = "status", after_help = "Example: mesh dead-letter jobs show JOB")]
    Show(JobArgs),
    /// Look on until it has ended; Ctrl-C lets go of it
    Watch(JobArgs),
    /// Stop it for now: what was sent ends, nothing more is sent
    #[command(after_help = "Example: mesh dead-letter jobs pause JOB --why 'the vendor is slow'")]
    Pause(OrderArgs),
    /// Let a paused one go on
    Resume(OrderArgs),
    /// Stop it for good
    Cancel(OrderArgs),
}

#[derive(Debug, Args)]
pub(in super::super) struct JobArgs {
    /// Its id, or a beginning that no other has
    id: String,
}

#[derive(Debug, Args)]
pub(in super::super) struct OrderArgs {
    /// Its id, or a beginning that no other has
    id: String,
    /// Why, for its history
    #[arg(long, default_value = "")]
    why: String,
}

pub(super) async fn run(command: JobCommand, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let bus = Place::find(global)?.connect().await?;
    let by = place::person();
    let id = match command {
        JobCommand::List => {
            let (jobs, kept) = (jobs::list(&bus).await?, job_words::kept(&bus).await);
            bus.close().await;
            list(&jobs, kept, output)?;
            return Ok(Status::Ok);
        }
        JobCommand::Watch(args) => {
            let job = jobs::find(&bus, &args.id).await?;
            if !job.is_finished() && job_words::kept(&bus).await == Kept::Missing {
                output.remark("no keeper is active: the job goes on when one is (mesh keeper)");
            }
            return attach::run(&bus, &job.id, &Looking { limit: None, shape: |job| job }, output).await;
        }
        JobCommand::Show(args) => args.id,
        JobCommand::Pause(args) => {
            jobs::pause(&bus, &jobs::find(&bus, &args.id).await?, &by, &args.why).await?;
            args.id
        }
        JobCommand::Resume(args) => {
            jobs::resume(&bus, &jobs::find(&bus, &args.id).await?, &by, &args.why).await?;
            args.id
        }
        JobCommand::Cancel(args) => {
            jobs::cancel(&bus, &jobs::find(&bus, &args.id).await?, &by, &args.why).await?;
            args.id
        }
    };
    let job = jobs::find(&bus, &id).await?;
    let kept = job_words::kept(&bus).await;
    bus.close().await;
    if output.is_json() {
        output.json(&attach::document(&job))?;
    } else {
        show(&job, kept, output)?;
    }
    Ok(Status::Ok)
}

/// All about a job: where it stands, what was asked for, and what people and keepers did.
fn show(job: &Job, kept: Kept, output: &Output) -> anyhow::Result<()> {
    output.line(&format!("job {}  {}", job.id, attach::line(job, kept)))?;
    for (name, value) in job_words::facts(job) {
        output.line(&format!("  {name:<10}  {value}"))?;
    }
    for waiting in job_words::waiting(job) {
        output.line(&format!("  {:<10}  {waiting}", "waits"))?;
    }
    for moment in &job.history {
        let act = &moment.act;
        let why = if act.why.is_empty() { String::new() } else { format!(": {}", act.why) };
        output.line(&format!("  {}  {} by {}{why}", text::moment(act.at_ms), moment.what, act.by))?;
    }
    attach::tell_end(job, output)
}

fn list(jobs: &[Job], kept: Kept, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.json(&jobs.iter().map(attach::document).collect::<Vec<_>>())?);
    }
    if jobs.is_empty() {
        output.remark("no jobs");
        return Ok(());
    }
    let rows = jobs.iter().map(|job| row(job, kept)).collect();
    output.line(&Columns::new(HEADER, STEPS).laid_out(rows, output))?;
    Ok(())
}

fn row(job: &Job, kept: Kept) -> [String; 5] {
    let asked = &job.asked;
    let (at, why) = (text::moment(asked.at_ms), text::cut(&asked.why, 30));
    [job.id.clone(), at, asked.by.clone(), why, attach::line(job, kept)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{arguments::Color, output::Format};

    #[test]
    fn the_longest_lines_fit_eighty_columns_and_keep_the_id_and_the_state() {
        let row = [
            "4de4c0ffee00",
            "2026-01-02 03:04:05",
            "ada.lovelace@operations-host-17.example.com",
            "the limit is mended, ticket 17",
            "running: 100,000 of 1,000,000 sent, 99,000 resolved, 500 failed again, 500 not ended yet, 12 held",
        ];
        let output = Output::new(Format::Table, Color::Never);
        let lines = Columns::new(HEADER, STEPS).laid_out_within(vec![row.map(str::to_owned)], Some(80), &output);
        assert!(lines.lines().all(|line| line.chars().count() <= 80), "{lines}");
        assert!(lines.contains("4de4c0ffee00") && lines.contains("running: 100,000 of 1,000,000 sent"), "{lines}");
    }
}
