//! S23: two operators edit and replay the same letters at the same moments, and the counter counts what is sent.

use std::collections::BTreeMap;

use mesh_tests::{
    TestBroker,
    campaign::{Account, Books, Run, client::CounterClient, process::Starter},
    contested::{Fight, SERVICE, fight},
    letters::declarations,
};

use crate::Played;

/// Each order that was granted is one copy at the consumer, and all that was granted stands in the histories.
pub(crate) async fn operators(run: &mut Run) -> anyhow::Result<Played> {
    let letters = run.sized(60, 1_000);
    let folder = tempfile::tempdir()?;
    let process = Starter::new(&run.program, folder.path()).start("counter", Vec::new(), None).await?;
    let counter = CounterClient::new(&process.line("ready").await?);
    let broker = TestBroker::start(&declarations(SERVICE)?).await?;
    let outcome = fight(&broker, &Fight { letters, seed: run.seed, counter: Some(counter.clone()) }).await?;
    run.note("contested", letters);
    run.note("edits", outcome.edits);
    run.note("replays", outcome.replays.len());
    run.note("refused", outcome.refused);
    run.note("joined", outcome.joined);
    outcome.wrong.into_iter().for_each(|why| run.require(false, why));
    let report = counter.report().await?;
    let calls = report.values().map(|entry| u64::from(entry.calls)).sum();
    let mut effects = BTreeMap::new();
    for (id, entry) in report {
        effects.insert(id, u32::try_from(entry.keys.len())?);
    }
    let asked = outcome.replays;
    Ok(Played::Account(Account::of(&Books { acknowledged: asked.clone(), asked, effects, calls, ..Books::default() })))
}
