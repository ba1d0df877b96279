//! S22: 512 callers that each await their own acknowledgement from a broker that syncs always: together, and each message alone.
//! Beside them batches of 512 that nobody has to make any more: what this broker on this disk gives to anybody who publishes so.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::bus::{Bus, Stop};
use mesh_tests::{
    TestBroker,
    callers::Publishers,
    campaign::{Account, Books, Run, Size},
    letters::declarations,
};

use crate::Played;

const CALLERS: usize = 512;
/// So much more than single publishes is promised.
const WANTED: f64 = 10.0;

/// The three that take turns.
#[derive(Clone, Copy)]
enum Side {
    Single,
    Group,
    ReadyMade,
}

/// All take turns at one broker in the default configuration, and who begins changes each round.
pub(crate) async fn callers(run: &mut Run) -> anyhow::Result<Played> {
    let (rounds, count) = run.sized((2, CALLERS * 2), (7, 20_000));
    let broker = TestBroker::start(&declarations("reader")?).await?;
    let publishers = Publishers::of(&broker, true).await?;
    let (mut single, mut group, mut limit) = (Vec::new(), Vec::new(), Vec::new());
    let mut turns = [Side::Group, Side::Single, Side::ReadyMade];
    for _ in 0..rounds {
        for side in turns {
            match side {
                Side::Single => single.push(publishers.publish(false, CALLERS, count).await?.rate),
                Side::Group => group.push(publishers.publish(true, CALLERS, count).await?.rate),
                Side::ReadyMade => limit.push(publishers.ready_made(&broker, CALLERS, count).await?),
            }
        }
        turns.rotate_left(1);
    }
    let one = publishers.publish(false, 1, count / 10).await?.rate;
    let each = ratios(&group, &single);
    let (ratio, told) = (median(&each), each.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>());
    run.note("callers", CALLERS);
    run.note("single", format!("{:.0}/s", median(&single)));
    run.note("group", format!("{:.0}/s", median(&group)));
    run.note("ratio", format!("{ratio:.2}"));
    run.note("ratios", format!("[{}]", told.join(",")));
    run.note("one-caller", format!("{one:.0}/s"));
    run.note("ready-made", format!("{:.0}/s", median(&limit)));
    run.note("ready-made-ratio", format!("{:.2}", median(&ratios(&limit, &single))));
    run.require(run.size == Size::Quick || ratio >= WANTED, format!("{ratio:.2} times, and {WANTED} were wanted"));
    let operator = broker.connect("operator").await?;
    let stored = stored(operator.bus()).await?;
    operator.drain().await;
    // Each was acknowledged, or a round had failed.
    let asked: BTreeSet<String> = publishers.numbers().map(id_of).collect();
    let calls = stored.values().copied().map(u64::from).sum();
    Ok(Played::Account(Account::of(&Books {
        acknowledged: asked.clone(),
        asked,
        effects: stored,
        calls,
        ..Books::default()
    })))
}

fn id_of(number: impl std::fmt::Display) -> String {
    format!("e-{number}")
}

/// How often each lies in the stream.
async fn stored(bus: &Bus) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut stored = BTreeMap::new();
    let each = |record: mesh_core::gate::Unopened| {
        let message_id = record.open().envelope.message_id;
        *stored.entry(id_of(message_id.rsplit('/').next().unwrap_or_default())).or_default() += 1;
        Stop::No
    };
    bus.read("mesh1-event-orders", ">", each).await?;
    Ok(stored)
}

/// Of each round its own.
fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}
