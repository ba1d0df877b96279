//! S16: three servers, two keepers. The machine of the active one, which is its server too and leads its lease, dies while the
//! deliveries of dead processes become letters; and the next one while a job replays them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use mesh_core::{
    Mesh,
    bus::StreamLimits,
    dead_letter::{ActKind, Letter},
    operate::{
        jobs::{self, Ask, Job, Selection},
        keeper::LEASE,
        letters::{self, Selector},
    },
    policy::replay::Canary,
    store::{Lease, LeaseSettings, Store},
    subject::{KEEPER, event_stream, store_stream, work_stream},
};
use mesh_tests::campaign::{
    Run, Stage, StageSettings,
    cluster::TestCluster,
    counter::Rule,
    stage::{SENDER, WORKER},
};
use tokio::time::Instant;

use crate::Played;

const MAX_DELIVER: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
pub(crate) async fn until<T, Fut>(what: &str, ask: impl Fn() -> Fut) -> anyhow::Result<T>
where
    Fut: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("waited in vain for {what}"))
}

/// What is looked at from outside, by connections that know every server.
struct View {
    operator: Mesh,
    lease: Lease,
    _keeper: Mesh,
}

impl View {
    async fn of(stage: &Stage<TestCluster>) -> anyhow::Result<View> {
        let keeper = stage.connect(KEEPER).await?;
        let lease = Lease::new(Store::own(keeper.bus()), LEASE, "looks on".into(), LeaseSettings::default());
        Ok(View { operator: stage.operator().await?, lease, _keeper: keeper })
    }

    /// How long it takes until `holder` has the lease.
    async fn kept_by(&self, holder: &str) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let is_kept = || async { self.lease.holder().await.ok().flatten().filter(|(by, _)| by == holder) };
        until(&format!("{holder} to be the keeper"), is_kept).await?;
        Ok(begun.elapsed())
    }

    async fn letters(&self) -> Option<Vec<Letter>> {
        letters::list(self.operator.bus(), &Selector::default()).await.ok().map(|listing| listing.letters)
    }
}

/// Processes that are killed with everything in hand, until each delivery was the last.
async fn die(stage: &Stage<TestCluster>, view: &View, each: u64) -> anyhow::Result<()> {
    let durables = [
        (event_stream(SENDER), format!("{WORKER}_apply")),
        (work_stream("shop.payments.v1.Payments"), format!("{WORKER}_shop-payments-v1-payments")),
    ];
    for round in 1..=MAX_DELIVER {
        let mut worker = stage.worker(None).await?;
        for (stream, durable) in &durables {
            let in_hand = || async {
                let state = view.operator.bus().consumer_state(stream, durable).await.ok()??;
                (state.in_flight == each && state.deliveries >= each * round).then_some(())
            };
            until(&format!("delivery {round} of everything"), in_hand).await?;
        }
        worker.kill9().await?;
    }
    Ok(())
}

async fn replay_all(view: &View) -> anyhow::Result<Job> {
    let bus = view.operator.bus();
    let selection = Selection::new(BTreeSet::new(), &letters::Selection::default());
    let preview = jobs::preview(bus, &selection).await?;
    let ask = Ask {
        selection,
        cut_off: preview.cut_off,
        selected: preview.letters,
        rate: "8/s".parse().ok(),
        canary: Canary::default(),
        abort_if: None,
        at_ms: None,
        max_in_flight: 0,
        by: "ada".into(),
        why: "mended".into(),
    };
    Ok(jobs::create(bus, ask).await?)
}

/// The active keeper and the server that it stands at are killed at one moment, twice; another keeper takes over.
pub(crate) async fn killed(run: &mut Run) -> anyhow::Result<Played> {
    let each = run.sized(12, 30);
    let base = StageSettings::default();
    let max_deliver = i64::try_from(MAX_DELIVER)?;
    let settings = StageSettings { limits: StreamLimits { max_deliver, ..base.limits }, rest: PATIENCE, ..base };
    let cluster = TestCluster::start(&settings.limits).await?;
    let mut stage = Stage::around(cluster, run, settings).await?;
    let (jetstream, view) = (stage.jetstream().await?, View::of(&stage).await?);
    let first = stage.broker.leader_of(&jetstream, &store_stream(KEEPER)).await?;
    let second = (first + 1) % stage.broker.servers.len();
    let (mut host, one) = stage.keeper(&stage.broker.servers[first].client_url()).await?;
    view.kept_by(&one).await?;
    let (mut other_host, two) = stage.keeper(&stage.broker.servers[second].client_url()).await?;

    stage.counter.rule("late", Rule::Hang(u32::MAX)).await?;
    let ids: Vec<String> = ["e", "w"].iter().flat_map(|k| (0..each).map(move |n| format!("{k}-late-{n}"))).collect();
    let sent = stage.send(&ids, 0).await?;
    die(&stage, &view, each).await?;
    let (server, keeper) = tokio::join!(stage.broker.servers[first].kill9(), host.kill9());
    server?;
    keeper?;
    let took = view.kept_by(&two).await?;
    run.note("takeover-ms", took.as_millis());
    run.require(took < Duration::from_secs(15), format!("the other keeper took over after {took:?}"));
    let every = || async { view.letters().await.filter(|letters| letters.len() == ids.len()) };
    let died = Instant::now();
    let letters = until("a letter of each", every).await?;
    run.note("letters-ms", died.elapsed().as_millis());
    run.note("captured", letters.len());
    stage.broker.servers[first].restart().await?;
    stage.broker.leader_of(&jetstream, &store_stream(KEEPER)).await?;
    let (_three, three) = stage.keeper(&stage.broker.servers[first].client_url()).await?;

    stage.counter.rule("late", Rule::Accept).await?;
    let _worker = stage.worker(None).await?;
    let job = replay_all(&view).await?;
    ensure!(job.replay.selected == ids.len() as u64, "{} letters are meant", job.replay.selected);
    let is_under_way = || async {
        let letters = view.letters().await?;
        (letters.iter().filter(|letter| letter.history.len() > 1).count() > ids.len() / 4).then_some(())
    };
    until("a quarter of the job", is_under_way).await?;
    let (server, keeper) = tokio::join!(stage.broker.servers[second].kill9(), other_host.kill9());
    server?;
    keeper?;
    let took = view.kept_by(&three).await?;
    run.note("takeover-in-job-ms", took.as_millis());
    run.require(took < Duration::from_secs(15), format!("the other keeper took the job over after {took:?}"));
    stage.broker.servers[second].restart().await?;
    let finished = || async { jobs::find(view.operator.bus(), &job.id).await.ok().filter(Job::is_finished) };
    let job = until("the end of the job", finished).await?;
    let counts = job.counts();
    run.note("dispatched", counts.dispatched);
    let all = ids.len() as u64;
    run.require((counts.dispatched, counts.resolved) == (all, all), format!("{counts:?}"));
    each_once(run, &until("the letters", || async { view.letters().await }).await?);
    Ok(Played::Account(stage.account(&sent).await?))
}

/// Captured, sent and handled, once each.
pub(crate) fn each_once(run: &mut Run, letters: &[Letter]) {
    const LIFE: [ActKind; 3] = [ActKind::Captured, ActKind::Replayed, ActKind::Resolved];
    let lives = |letter: &&Letter| !letter.history.iter().map(|act| act.kind).eq(LIFE);
    let others: Vec<_> = letters.iter().filter(lives).map(|letter| &letter.letter.source).collect();
    run.require(others.is_empty(), format!("not captured, sent and handled once: {others:?}"));
}
