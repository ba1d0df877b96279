//! S20: a newer and an older contract on the two sides. What the reader does not know of a message goes with it: into its
//! letter, through an edit, and back with its replay.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use async_nats::{
    HeaderMap,
    jetstream::{AckKind, consumer::PullConsumer},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use mesh_core::{
    dead_letter::Letter,
    envelope::{Note, header},
    operate::letters::{Order, Selector, list, replay},
};
use mesh_tests::{
    TestBroker,
    campaign::{
        Run, Stage, StageSettings,
        account::{WORK, is_bad},
        counter::Rule,
        stage::{Broker as _, OPERATOR, WORKER, jetstream_as},
    },
    mesh_binary,
};
use prost::Message as _;
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeRequest};
use tokio::process::Command;

use crate::Played;

/// What the sender's contract has and the reader's has not. A newer one has added fields: a text, eight bytes, a message; an
/// older one still has two that were taken out since.
const UNKNOWN: [(&str, &[u8]); 2] = [
    ("newer", b"\xa2\x06\x04gift\xa9\x06\x01\x02\x03\x04\x05\x06\x07\x08\xb2\x06\x02\x08\x2a"),
    ("older", b"\xd2\x05\x03vip\xd8\x05\x01"),
];
/// What is done with the letters: nothing; sent again as they are; mended and sent again.
const FATES: [&str; 3] = ["left", "plain", "mended"];
const CENTS: i64 = 900;
const MENDED_CENTS: i64 = 901;
const LANE: &str = "mesh1-lane-worker";
const DURABLES: [&str; 2] = ["worker_apply", "worker_shop-payments-v1-payments"];

type Bodies = BTreeMap<String, Bytes>;

/// The fields that the reader knows, as it writes them. Those that an older sender does not know are not there.
fn known(id: &str, cents: i64) -> Vec<u8> {
    let currency = if id.contains("-newer-") { "USD" } else { "" };
    let (order_id, currency) = (id.to_owned(), currency.to_owned());
    match id.starts_with(WORK) {
        true => ChargeRequest { order_id, amount_cents: cents, currency, ..Default::default() }.encode_to_vec(),
        false => OrderPlaced { order_id, total_cents: cents, currency, ..Default::default() }.encode_to_vec(),
    }
}

fn unknown(id: &str) -> &'static [u8] {
    UNKNOWN.iter().find(|(word, _)| id.contains(*word)).map_or(&[], |(_, fields)| fields)
}

/// As no writer of ours would order them, and with a value that says nothing: who writes them anew writes other bytes.
fn as_sent(id: &str) -> Bytes {
    // The description of a charge, the count of an order: empty, and said.
    let in_vain: &[u8] = if id.starts_with(WORK) { b"\x2a\x00" } else { b"\x20\x00" };
    [unknown(id), in_vain, &known(id, CENTS)].concat().into()
}

/// What an edit of one value leaves: the reader's fields as it writes them, then the others byte for byte.
fn as_mended(id: &str) -> Bytes {
    [&known(id, MENDED_CENTS), unknown(id)].concat().into()
}

fn messages(of_each: u64) -> Bodies {
    let mut bodies = Bodies::new();
    for number in 0..of_each {
        for (word, _) in UNKNOWN {
            for side in ["e", "w"] {
                let ids = FATES.map(|fate| format!("{side}-bad-{word}-{fate}-{number}"));
                let busy = ["good", "busy"].map(|kind| format!("{side}-{kind}-{word}-{number}"));
                bodies.extend(ids.into_iter().chain(busy).map(|id| (id.clone(), as_sent(&id))));
            }
        }
    }
    bodies
}

/// Events and work of both kinds: those that fail are letters, some of them are mended, and go their way again.
pub(crate) async fn both_ways(run: &mut Run) -> anyhow::Result<Played> {
    let stage = Stage::start(run, StageSettings::default()).await?;
    let bodies = messages(run.sized(4, 250));
    let mut worker = stage.worker(None).await?;
    let sent = stage.send_bytes(bodies.iter().map(own).collect(), Duration::ZERO).await?;
    let before = stage.account(&sent).await?;
    run.require(before.wrong().is_empty(), format!("before the replay: {:?}", before.wrong()));
    run.note("letters-before", before.letters());
    worker.stop().await?;

    let captured = bodies.into_iter().filter(|(id, _)| is_bad(id)).collect();
    same(run, "a letter", &captured, &letters(&stage).await?);
    for (contract, value) in [("OrderPlaced", "total_cents"), ("Payments/Charge", "amount_cents")] {
        let value = format!("{value}={MENDED_CENTS}");
        mend(&stage, contract, &value).await?;
    }
    let mended: Bodies = captured
        .into_iter()
        .map(|(id, body)| if id.contains("-mended-") { (id.clone(), as_mended(&id)) } else { (id, body) })
        .collect();
    same(run, "a letter after the edit", &mended, &letters(&stage).await?);

    send_again(&stage).await?;
    let replayed: Bodies = mended.iter().filter(|(id, _)| !id.contains("-left-")).map(own).collect();
    same(run, "a replay", &replayed, &on_the_lane(&stage, replayed.len()).await?);
    stage.counter.rule("bad", Rule::Accept).await?;
    let _worker = stage.worker(None).await?;
    let account = stage.account(&sent).await?;
    same(run, "a letter at the end", &mended, &letters(&stage).await?);
    run.note("replayed", replayed.len());
    Ok(Played::Account(account))
}

fn own((id, body): (&String, &Bytes)) -> (String, Bytes) {
    (id.clone(), body.clone())
}

/// Each of them is there, with these bytes, and nothing else.
fn same(run: &mut Run, what: &str, expected: &Bodies, found: &Bodies) {
    run.require(expected.len() == found.len(), format!("{what}: {} of {}", found.len(), expected.len()));
    let other = expected.iter().find(|(id, body)| found.get(*id) != Some(*body));
    let why = other.map(|(id, body)| format!("{what}: {id} is {:?} and was {body:?}", found.get(id)));
    run.require(why.is_none(), why.unwrap_or_default());
}

fn local_id(message_id: &str) -> String {
    message_id.rsplit('/').next().unwrap_or_default().to_owned()
}

async fn all(stage: &Stage<TestBroker>) -> anyhow::Result<Vec<(String, Letter)>> {
    let operator = stage.operator().await?;
    let letters = list(operator.bus(), &Selector::default()).await?.letters;
    operator.drain().await;
    let id = |letter: &Letter| local_id(&letter.letter.source.clone().unwrap_or_default().message_id);
    Ok(letters.into_iter().map(|letter| (id(&letter), letter)).collect())
}

/// What the letters carry.
async fn letters(stage: &Stage<TestBroker>) -> anyhow::Result<Bodies> {
    Ok(all(stage).await?.into_iter().map(|(id, letter)| (id, letter.letter.payload)).collect())
}

/// One value of all that are to be mended, as a person sets it.
async fn mend(stage: &Stage<TestBroker>, contract: &str, value: &str) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let seed = home.path().join("seed");
    std::fs::write(&seed, stage.broker.seed(OPERATOR).unwrap_or_default())?;
    let mut command = Command::new(mesh_binary());
    command.env_clear().env("HOME", home.path()).env("USER", "ada").stdin(Stdio::null()).kill_on_drop(true);
    command.args(["--url", &stage.broker.url()]).arg("--seed-file").arg(seed);
    command.args(["dead-letter", "edit", "--type", contract, "--where", "payload.order_id.contains('-mended-')"]);
    let ended = command.args(["--set", value, "--why", "it was too little", "--yes"]).output().await?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(())
}

async fn send_again(stage: &Stage<TestBroker>) -> anyhow::Result<()> {
    let order = Order { by: "campaign".into(), why: "mended".into(), again: false, job: String::new() };
    let operator = stage.operator().await?;
    for (id, letter) in all(stage).await? {
        if !id.contains("-left-") {
            replay(operator.bus(), &letter, &order).await?;
        }
    }
    operator.drain().await;
    Ok(())
}

/// What a client that is not ours gets of the worker's lane. It hands all of it back.
async fn on_the_lane(stage: &Stage<TestBroker>, count: usize) -> anyhow::Result<Bodies> {
    let jetstream = jetstream_as(&stage.broker, WORKER).await?;
    let mut taken = Vec::new();
    for durable in DURABLES {
        let consumer: PullConsumer = jetstream.get_consumer_from_stream(durable, LANE).await?;
        let mut messages = consumer.fetch().max_messages(count).messages().await?;
        while let Some(message) = messages.next().await {
            taken.push(message.map_err(|error| anyhow!("{durable}: {error}"))?);
        }
    }
    let mut bodies = Bodies::new();
    for message in taken {
        bodies.insert(original(message.headers.as_ref())?, message.payload.clone());
        message.ack_with(AckKind::Nak(None)).await.map_err(|error| anyhow!("it is not handed back: {error}"))?;
    }
    Ok(bodies)
}

/// The id of what a copy is of.
fn original(headers: Option<&HeaderMap>) -> anyhow::Result<String> {
    let note = headers.and_then(|headers| headers.get(header::MESH)).context("a copy without a note")?;
    let lane = Note::parse(note.as_str())?.lane.context("a copy that does not say of what")?;
    Ok(local_id(&lane.message_id))
}
