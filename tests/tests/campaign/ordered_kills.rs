//! S24: a worker that keeps the order of keys is killed at random moments and between any two steps.

use std::time::Duration;

use anyhow::Context as _;
use mesh_core::{
    Fault, Mesh,
    dead_letter::{Letter, LetterState},
    fault::{ORDER_POINTS, WORKER_POINTS},
    operate::{
        keys,
        letters::{self, Order, Selector},
    },
};
use mesh_tests::{
    TestBroker,
    campaign::{Run, Stage, StageSettings, counter::Rule, order, process::Sent},
};

use crate::{Played, keepers::until, ordered::effects};

/// Keys that all messages have in turn, but for those that a letter blocks.
const KEYS: usize = 12;
/// Messages of each key that are sent before each kill.
const EACH: usize = 2;
/// Of so many messages one finds the counter busy once.
const BUSY: usize = 6;
/// Messages of a key whose first one is refused until it is mended.
const BEHIND_A_LETTER: usize = 3;
/// The points that only the good end of a replay meets: of one behind which others were put aside, where a key is to drain.
const OF_A_REPLAY: [&str; 3] = ["order.resolved", "order.drained", "settle.resolved"];

/// Kills at random, then at each point, first hit / first and second. Each time so much is sent before that the point is met, and
/// afterwards a worker brings all to its end in peace: two ends of one message, alone, rightly make a letter of it. At last the
/// letters are mended and replayed, some by workers that end at the points of a replay.
pub(crate) async fn worker(run: &mut Run) -> anyhow::Result<Played> {
    // What is to be tried again waits on the lane, unless it is due at once.
    let settings = StageSettings { ordered: true, short_wait: Duration::ZERO, ..StageSettings::default() };
    let stage = Stage::start(run, settings).await?;
    // So slow that each worker has several messages in hand when it ends.
    stage.counter.rule("good", Rule::Slow(20)).await?;
    stage.counter.rule("busy", Rule::Busy(1)).await?;
    let mut played = Ordered { stage, sent: Sent::default(), rounds: 0, blocked: 0, healthy: 0 };
    let (kills, mut cut_off) = (run.sized(2, 25), 0);
    for _ in 0..kills {
        let before = played.healthy;
        played.more(1).await?;
        let mut worker = played.stage.worker(None).await?;
        effects(&played.stage, before + 1).await?;
        // Waits for nothing: a random moment is the fault.
        tokio::time::sleep(run.some_ms(0, 100)).await;
        worker.kill9().await?;
        cut_off += played.healthy - played.stage.counter.count("").await?;
        played.in_peace().await?;
    }
    run.require(cut_off > 0, "each worker was killed after its work: nothing was shown");
    let hits = run.sized(1..=1, 1..=2);
    let mut points = 0;
    let named = WORKER_POINTS.into_iter().chain(ORDER_POINTS).filter(|point| !OF_A_REPLAY.contains(point));
    for (point, hit) in named.flat_map(|point| hits.clone().map(move |hit| (point, hit))) {
        played.more(hit).await?;
        if point.starts_with("inbox.") {
            // Only what was in hand when a process ended is written down before it is tried again.
            played.stage.worker(Some(("attempt.handled", 1))).await?.crashed().await?;
        }
        played.ends_at(point, hit).await?;
        played.in_peace().await?;
        points += 1;
    }
    points += played.replay(hits).await?;
    run.note("kills", kills);
    run.note("cut-off", cut_off);
    run.note("points", points);
    played.judge(run).await
}

struct Ordered {
    stage: Stage<TestBroker>,
    sent: Sent,
    /// How often more was sent.
    rounds: usize,
    /// How many keys a letter is to block.
    blocked: usize,
    /// How many messages are to take effect now: none that is behind a letter.
    healthy: usize,
}

impl Ordered {
    /// Sends more of each key, and some of as many new keys whose first one is refused.
    async fn more(&mut self, refused: u32) -> anyhow::Result<()> {
        let at = |n: usize| (n % KEYS, self.rounds * EACH + n / KEYS + 1);
        let word = |n: usize| if n % BUSY == self.rounds % BUSY { "busy" } else { "good" };
        let mut ids: Vec<_> = (0..KEYS * EACH).map(|n| order::id(word(n), at(n).0, at(n).1)).collect();
        for _ in 0..refused {
            let key = KEYS + self.blocked;
            ids.push(order::id("bad", key, 1));
            ids.extend((2..=BEHIND_A_LETTER).map(|position| order::id("good", key, position)));
            self.blocked += 1;
        }
        self.rounds += 1;
        self.healthy += KEYS * EACH;
        self.sent.add(self.stage.send(&ids, 0).await?);
        Ok(())
    }

    async fn ends_at(&self, point: &str, hit: u32) -> anyhow::Result<()> {
        let mut worker = self.stage.worker(Some((point, hit))).await?;
        worker.crashed().await.with_context(|| format!("{point}:{hit}"))
    }

    /// A worker works until all has taken effect that is not behind a letter. Then some may still have to be settled: what each key
    /// gets next comes behind it.
    async fn in_peace(&self) -> anyhow::Result<()> {
        let mut worker = self.stage.worker(None).await?;
        effects(&self.stage, self.healthy).await?;
        worker.stop().await
    }

    /// Replays some letters for each point that only a replay meets, then all that are left.
    async fn replay(&mut self, hits: std::ops::RangeInclusive<u32>) -> anyhow::Result<usize> {
        let mut worker = self.stage.worker(None).await?;
        self.all_letters().await?;
        self.all_aside().await?;
        worker.stop().await?;
        self.stage.counter.rule("bad", Rule::Accept).await?;
        let mut points = 0;
        for (point, hit) in OF_A_REPLAY.into_iter().flat_map(|point| hits.clone().map(move |hit| (point, hit))) {
            self.release(usize::try_from(hit)?).await?;
            self.ends_at(point, hit).await?;
            self.in_peace().await?;
            points += 1;
        }
        self.release(usize::MAX).await?;
        self.in_peace().await?;
        Ok(points)
    }

    /// Each is captured before one is counted as replayed.
    async fn all_letters(&self) -> anyhow::Result<()> {
        let operator = self.stage.operator().await?;
        let all = || async { open_letters(&operator).await.ok().filter(|letters| letters.len() >= self.blocked) };
        until(&format!("{} letters", self.blocked), all).await?;
        operator.drain().await;
        Ok(())
    }

    /// What is behind each letter was put aside: whoever takes over has it in hand when the letter ends, so its key drains.
    async fn all_aside(&self) -> anyhow::Result<()> {
        let operator = self.stage.operator().await?;
        let is_aside =
            |key: &keys::Blocked| matches!(key.by, keys::Head::Letter(_)) && key.followers == BEHIND_A_LETTER - 1;
        let all = || async {
            let blocked = keys::blocked(operator.bus(), None, None).await.ok()?;
            (blocked.iter().filter(|key| is_aside(key)).count() == self.blocked).then_some(())
        };
        until(&format!("what is behind {} letters", self.blocked), all).await?;
        operator.drain().await;
        Ok(())
    }

    /// Replays so many letters: what is behind them is to take effect, too.
    async fn release(&mut self, count: usize) -> anyhow::Result<()> {
        let order = Order { by: "campaign".into(), why: "mended".into(), again: false, job: String::new() };
        let operator = self.stage.operator().await?;
        for letter in open_letters(&operator).await?.iter().take(count) {
            letters::replay(operator.bus(), letter, &order).await?;
            self.healthy += BEHIND_A_LETTER;
        }
        operator.drain().await;
        Ok(())
    }

    /// All has taken effect, in order, and no key is blocked any more.
    async fn judge(self, run: &mut Run) -> anyhow::Result<Played> {
        let _worker = self.stage.worker(None).await?;
        run.note("keys-blocked", self.blocked);
        let account = self.stage.account(&self.sent).await?;
        let violations = order::violations(&self.stage.counter.report().await?);
        let operator = self.stage.operator().await?;
        let blocked = keys::blocked(operator.bus(), None, None).await?.len();
        operator.drain().await;
        run.note("violations", violations.len());
        let some: Vec<_> = violations.iter().take(5).collect();
        run.require(violations.is_empty(), format!("{} out of order: {some:?}", violations.len()));
        run.require(account.letters() == 0, format!("{} letters are left", account.letters()));
        run.require(blocked == 0, format!("{blocked} keys are blocked at the end"));
        Ok(Played::Account(account))
    }
}

async fn open_letters(operator: &Mesh) -> Result<Vec<Letter>, Fault> {
    let mut letters = letters::list(operator.bus(), &Selector::default()).await?.letters;
    letters.retain(|letter| letter.state == LetterState::Open);
    Ok(letters)
}
