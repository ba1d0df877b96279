//! S22: 512 callers that each await their own acknowledgement from a broker that syncs always: together, and each message alone.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::bus::{Bus, Stop};
use mesh_tests::{
    TestBroker,
    callers::{Publishers, Round},
    campaign::{Account, Books, Run, Size},
    letters::declarations,
};

use crate::Played;

const CALLERS: usize = 512;
/// So much more than single publishes is promised.
const WANTED: f64 = 10.0;

/// Both take turns at one broker in the default configuration, and who begins changes each round.
pub(crate) async fn callers(run: &mut Run) -> anyhow::Result<Played> {
    let (rounds, count) = run.sized((2, CALLERS * 2), (7, 20_000));
    let broker = TestBroker::start(&declarations("reader")?).await?;
    let publishers = Publishers::of(&broker, true).await?;
    let (mut single, mut group) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for together in [round % 2 == 1, round % 2 == 0] {
            let Round { rate, .. } = publishers.publish(together, CALLERS, count).await?;
            if together { &mut group } else { &mut single }.push(rate);
        }
    }
    let one = publishers.publish(false, 1, count / 10).await?.rate;
    let ratios: Vec<f64> = group.iter().zip(&single).map(|(group, single)| group / single).collect();
    let (ratio, told) = (median(&ratios), ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>());
    run.note("callers", CALLERS);
    run.note("single", format!("{:.0}/s", median(&single)));
    run.note("group", format!("{:.0}/s", median(&group)));
    run.note("ratio", format!("{ratio:.2}"));
    run.note("ratios", format!("[{}]", told.join(",")));
    run.note("one-caller", format!("{one:.0}/s"));
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

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}
