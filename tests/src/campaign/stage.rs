//! What every scenario stands on: a broker, a counter, a publisher, workers; and the account at the end.

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, time::Duration};

use bytes::Bytes;
use mesh::engine::JetStream;
use mesh_core::{
    Fault, Mesh,
    bus::StreamLimits,
    identity::Credential,
    operate::topology::Topology,
    policy::{
        compile::{Consumes, Declaration},
        isolation::IsolationRule,
    },
    subject::{KEEPER, inbox_prefix},
};
use tempfile::TempDir;

use super::{
    Account, Run,
    account::{Books, WORK},
    client::CounterClient,
    counter::Rule,
    ledger::{self, Sides},
    process::{Process, Publisher, Sent, Starter, Worker},
};
use crate::{TestBroker, broker::REGION};

/// Who publishes.
pub const SENDER: &str = "orders";
/// Who handles.
pub const WORKER: &str = "worker";
/// Others that handle the same events, each for itself.
pub const BYSTANDERS: [&str; 2] = ["bystander", "onlooker"];
/// The consumer of events.
pub const CONSUMER: &str = "apply";
/// Who looks and replays.
pub const OPERATOR: &str = "operator";

const EVENT: &str = "shop.orders.v1.OrderPlaced";
const PAYMENTS: &str = "shop.payments.v1.Payments";

/// What takes part: one sender of events and work, one worker for both.
///
/// # Errors
/// Never: the names are good.
pub fn declarations() -> anyhow::Result<Vec<Declaration>> {
    declared(&StageSettings::default())
}

/// The same, with a consumer that keeps the order of keys or does not, and with others of the same events or alone.
fn declared(settings: &StageSettings) -> anyhow::Result<Vec<Declaration>> {
    let charge = BTreeSet::from([(PAYMENTS.to_owned(), "Charge".to_owned())]);
    let consumer = CONSUMER.parse()?;
    let consumes = Consumes { consumer, producer: SENDER.into(), event: EVENT.into(), ordered: settings.ordered };
    let mut declared = vec![
        Declaration {
            publishes: BTreeSet::from([EVENT.into()]),
            enqueues: charge.clone(),
            ..Declaration::new(SENDER.parse()?)
        },
        Declaration {
            consumes: BTreeSet::from([consumes.clone()]),
            serves: charge,
            ..Declaration::new(WORKER.parse()?)
        },
    ];
    for name in settings.bystanders() {
        let consumes = BTreeSet::from([consumes.clone()]);
        declared.push(Declaration { consumes, ..Declaration::new(name.parse()?) });
    }
    Ok(declared)
}

/// Who stores: one server or three.
pub trait Broker {
    /// The address, or several joined by commas.
    fn url(&self) -> String;
    /// The seed of a user.
    fn seed(&self, service: &str) -> Option<&str>;
}

impl Broker for TestBroker {
    fn url(&self) -> String {
        self.server.client_url()
    }

    fn seed(&self, service: &str) -> Option<&str> {
        TestBroker::seed(self, service)
    }
}

/// The broker's own interface, as the operator.
pub(super) async fn jetstream(broker: &impl Broker) -> anyhow::Result<async_nats::jetstream::Context> {
    jetstream_as(broker, OPERATOR).await
}

/// The same, as any user.
///
/// # Errors
/// The broker can't be reached.
pub async fn jetstream_as(broker: &impl Broker, user: &str) -> anyhow::Result<async_nats::jetstream::Context> {
    let seed = broker.seed(user).unwrap_or_default().to_owned();
    let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix(inbox_prefix(&user.parse()?));
    let servers: Vec<String> = broker.url().split(',').map(str::to_owned).collect();
    Ok(async_nats::jetstream::new(options.connect(servers).await?))
}

/// What a scenario may choose.
#[derive(Debug, Clone)]
pub struct StageSettings {
    /// How the broker stores.
    pub jetstream: JetStream,
    /// What its streams may hold.
    pub limits: StreamLimits,
    /// Messages per second.
    pub rate: u64,
    /// Of a thousand, so many are refused by the counter.
    pub bad: u32,
    /// Of a thousand, so many find it busy at first, and so many get no answer at first.
    pub troubled: u32,
    /// Every message is sent so often.
    pub times: u32,
    /// Bytes of ballast in each message.
    pub ballast: usize,
    /// How long everything may take to come to rest.
    pub rest: Duration,
    /// Attempts at one message.
    pub attempts: u32,
    /// Whether a worker remembers what it handled.
    pub inbox: bool,
    /// Whether a worker keeps targets apart: the words in the messages' ids.
    pub isolate: bool,
    /// After so long comes back what was put aside by a process that nobody knew yet.
    pub aside_unknown: Duration,
    /// Whether the consumer of events keeps the order of keys.
    pub ordered: bool,
    /// Whether [`BYSTANDERS`] handle the events as well.
    pub watched: bool,
    /// The longest wait before the next attempt that a worker which keeps the order of keys spends in hand.
    pub short_wait: Duration,
    /// Messages that a worker handles at once.
    pub concurrency: usize,
    /// How long one attempt of a worker may take.
    pub handler_limit: Duration,
    /// How long a worker works on a message with `long` in its id.
    pub long: Duration,
}

impl Default for StageSettings {
    fn default() -> StageSettings {
        StageSettings {
            jetstream: JetStream::default(),
            // Short, so that what a killed worker held comes again soon.
            limits: StreamLimits { ack_wait: Duration::from_secs(2), ..StreamLimits::default() },
            rate: 150,
            bad: 50,
            troubled: 50,
            times: 1,
            ballast: 0,
            rest: Duration::from_secs(90),
            attempts: 5,
            inbox: false,
            isolate: false,
            aside_unknown: IsolationRule::default().aside_unknown,
            ordered: false,
            watched: false,
            short_wait: Duration::from_secs(2),
            concurrency: 16,
            handler_limit: Duration::from_secs(60),
            long: Duration::ZERO,
        }
    }
}

impl StageSettings {
    fn bystanders(&self) -> &'static [&'static str] {
        if self.watched { &BYSTANDERS } else { &[] }
    }
}

/// A broker and a counter, ready for publishers and workers.
pub struct Stage<B> {
    /// The broker, to be hurt.
    pub broker: B,
    /// The counter.
    pub counter: CounterClient,
    /// Where publishers and workers find the broker, if not directly.
    pub through: Option<String>,
    settings: StageSettings,
    starter: Starter,
    folder: TempDir,
    _counter: Process,
}

/// Who handles the same events as the worker.
pub struct Bystander {
    /// What it calls.
    pub counter: CounterClient,
    _processes: [Process; 2],
}

/// A counter at work, with the rules that most scenarios have.
async fn counter(starter: &Starter) -> anyhow::Result<(Process, CounterClient)> {
    let process = starter.start("counter", Vec::new(), None).await?;
    let counter = CounterClient::new(&process.line("ready").await?);
    for (word, rule) in [("bad", Rule::Refuse), ("busy", Rule::Busy(2)), ("mute", Rule::Mute(1))] {
        counter.rule(word, rule).await?;
    }
    Ok((process, counter))
}

impl Stage<TestBroker> {
    /// One server.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(run: &Run, settings: StageSettings) -> anyhow::Result<Stage<TestBroker>> {
        let broker = TestBroker::on(&declared(&settings)?, settings.jetstream.clone(), &settings.limits).await?;
        Stage::around(broker, run, settings).await
    }
}

impl<B: Broker> Stage<B> {
    /// Around a broker that runs and has its streams.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn around(broker: B, run: &Run, settings: StageSettings) -> anyhow::Result<Stage<B>> {
        let folder = tempfile::tempdir()?;
        for service in [SENDER, WORKER, OPERATOR, KEEPER].iter().chain(settings.bystanders()) {
            let seed = broker.seed(service).unwrap_or_default();
            std::fs::write(folder.path().join(format!("{service}.seed")), seed)?;
        }
        let starter = Starter::new(&run.program, folder.path());
        let (process, counter) = counter(&starter).await?;
        Ok(Stage { broker, counter, through: None, settings, starter, folder, _counter: process })
    }

    /// The folder of this run: seeds and logs.
    #[must_use]
    pub fn log(&self, role: &str) -> PathBuf {
        self.folder.path().join(format!("{role}.log"))
    }

    fn place(&self, service: &str) -> Vec<OsString> {
        self.place_at(service, self.through.clone().unwrap_or_else(|| self.broker.url()))
    }

    fn place_at(&self, service: &str, url: String) -> Vec<OsString> {
        let seed_file = self.folder.path().join(format!("{service}.seed"));
        vec!["--url".into(), url.into(), "--seed-file".into(), seed_file.into()]
    }

    /// A publisher at work.
    ///
    /// # Errors
    /// It does not start.
    pub async fn publisher(&self, run: &Run) -> anyhow::Result<Publisher> {
        let mut arguments = self.place(SENDER);
        for (name, value) in [
            ("--rate", self.settings.rate),
            ("--seed", run.seed),
            ("--bad", self.settings.bad.into()),
            ("--troubled", self.settings.troubled.into()),
            ("--times", self.settings.times.into()),
            ("--ballast", self.settings.ballast as u64),
        ] {
            arguments.extend([name.into(), value.to_string().into()]);
        }
        Ok(Publisher::new(self.starter.start("publisher", arguments, None).await?))
    }

    /// Sends these ids once more, or for the first time, with `ballast` bytes in each, and says what became of them.
    ///
    /// # Errors
    /// The publisher does not start or end.
    pub async fn send<'a>(&self, ids: impl IntoIterator<Item = &'a String>, ballast: usize) -> anyhow::Result<Sent> {
        Self::sent_by(self.sending(ids, ballast).await?).await
    }

    /// The same, under way: as fast as it can, 512 at once, until each is acknowledged.
    ///
    /// # Errors
    /// The publisher does not start.
    pub async fn sending<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a String>,
        ballast: usize,
    ) -> anyhow::Result<Publisher> {
        let file = self.folder.path().join("ids");
        std::fs::write(&file, ids.into_iter().map(|id| format!("{id}\n")).collect::<String>())?;
        let mut arguments = self.place(SENDER);
        arguments.extend(["--seed", "0", "--ballast", &ballast.to_string(), "--ids"].map(OsString::from));
        arguments.push(file.into());
        Ok(Publisher::new(self.starter.start("publisher", arguments, None).await?))
    }

    /// Offers these ids at the rate of the stage, whatever becomes of them, and says when each was sent.
    ///
    /// # Errors
    /// The publisher does not start or end.
    pub async fn offer(&self, ids: &[String]) -> anyhow::Result<Sent> {
        let file = self.folder.path().join("offered");
        std::fs::write(&file, ids.join("\n"))?;
        let mut arguments = self.place(SENDER);
        let rate = self.settings.rate.to_string();
        arguments.extend(["--seed", "0", "--paced", "--rate", &rate, "--ids"].map(OsString::from));
        arguments.push(file.into());
        Self::sent_by(Publisher::new(self.starter.start("publisher", arguments, None).await?)).await
    }

    /// What a publisher sends that ends by itself, once it has ended.
    ///
    /// # Errors
    /// It says no last word.
    pub async fn sent_by(mut publisher: Publisher) -> anyhow::Result<Sent> {
        publisher.process.until_ended().await?;
        // Its last words may still be on their way through the pipe.
        publisher.process.line("end").await?;
        Ok(publisher.sent())
    }

    /// Publishes bytes that are no message under these ids, one after the other, with so much time between them.
    ///
    /// # Errors
    /// The broker does not take them.
    pub async fn send_garbled(&self, ids: &[String], between: Duration) -> anyhow::Result<Sent> {
        let messages = ids.iter().map(|id| (id.clone(), Bytes::from_static(&[0xff; 3]))).collect();
        self.send_bytes(messages, between).await
    }

    /// Publishes bytes as they are under these ids, as events or as queued work, one after the other, with so much time
    /// between them.
    ///
    /// # Errors
    /// The broker does not take them.
    pub async fn send_bytes(&self, messages: Vec<(String, Bytes)>, between: Duration) -> anyhow::Result<Sent> {
        let jetstream = jetstream_as(&self.broker, SENDER).await?;
        let mut sent = Sent::default();
        let mut pace = tokio::time::interval(between.max(Duration::from_nanos(1)));
        for (id, payload) in messages {
            pace.tick().await;
            let (subject, contract) = if id.starts_with(WORK) {
                (format!("mesh1.work.{REGION}.{PAYMENTS}.Charge.normal.0.{SENDER}"), format!("{PAYMENTS}.Charge"))
            } else {
                (format!("mesh1.event.{REGION}.{SENDER}.{EVENT}.0"), EVENT.to_owned())
            };
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("{SENDER}/{contract}/{id}"));
            jetstream.publish_with_headers(subject, headers, payload).await?.await?;
            sent.asked.insert(id.clone());
            sent.acknowledged.insert(id);
        }
        Ok(sent)
    }

    /// Waits until so many ids that hold the word have taken effect.
    ///
    /// # Errors
    /// They have not, after the time that the stage has to come to rest.
    pub async fn effects_of(&self, word: &str, count: usize) -> anyhow::Result<()> {
        let waiting = async {
            while self.counter.count(word).await? < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(self.settings.rest, waiting).await?
    }

    /// A worker at work. `crash` names a crash point and the hit that ends it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn worker(&self, crash: Option<(&str, u32)>) -> anyhow::Result<Worker> {
        self.worker_as(WORKER, self.counter.url(), crash).await
    }

    /// One of [`BYSTANDERS`] at work, with a counter of its own.
    ///
    /// # Errors
    /// One of the two does not start.
    pub async fn bystander(&self, name: &str) -> anyhow::Result<Bystander> {
        let (process, counter) = counter(&self.starter).await?;
        let worker = self.worker_as(name, counter.url(), None).await?;
        Ok(Bystander { counter, _processes: [process, worker] })
    }

    async fn worker_as(&self, name: &str, counter: &str, crash: Option<(&str, u32)>) -> anyhow::Result<Worker> {
        let mut arguments = self.place(name);
        arguments.extend(["--service", name].map(OsString::from));
        let ack_wait = self.settings.limits.ack_wait.as_millis().to_string();
        arguments.extend(["--counter", counter, "--ack-wait-ms", &ack_wait].map(OsString::from));
        for (name, time) in [
            ("--handler-limit-ms", self.settings.handler_limit),
            ("--long-ms", self.settings.long),
            ("--short-wait-ms", self.settings.short_wait),
            ("--aside-unknown-ms", self.settings.aside_unknown),
        ] {
            arguments.extend([name.into(), time.as_millis().to_string().into()]);
        }
        arguments.extend(["--concurrency", &self.settings.concurrency.to_string()].map(OsString::from));
        arguments.extend(["--attempts", &self.settings.attempts.to_string()].map(OsString::from));
        arguments.extend(self.settings.inbox.then(|| "--inbox".into()));
        arguments.extend(self.settings.isolate.then(|| "--isolate".into()));
        arguments.extend(self.settings.ordered.then(|| "--ordered".into()));
        self.starter.start("worker", arguments, crash).await
    }

    /// Starts a worker, and another each time that one ends by itself, as a supervisor does. How often one did. Cancel-safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn supervised(&self, deaths: &std::sync::atomic::AtomicUsize) -> anyhow::Result<()> {
        loop {
            // One may end before it can say that it is ready.
            if let Ok(mut worker) = self.worker(None).await {
                worker.until_ended().await?;
            }
            deaths.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// An operator who sends every letter again.
    ///
    /// # Errors
    /// It does not start.
    pub async fn replayer(&self, crash: Option<(&str, u32)>) -> anyhow::Result<Process> {
        self.starter.start("replayer", self.place(OPERATOR), crash).await
    }

    /// An operator at a terminal: `mesh` with these words. What it says on stderr lies in the log `name`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn at_terminal(&self, name: &str, words: &[&str]) -> anyhow::Result<Process> {
        let mut arguments = self.place(OPERATOR);
        arguments.extend(words.iter().map(OsString::from));
        self.starter.person(name, arguments).await
    }

    /// A keeper that knows one address of the broker alone, and what it is called in the lease.
    ///
    /// # Errors
    /// It does not start.
    pub async fn keeper(&self, url: &str) -> anyhow::Result<(Process, String)> {
        let process = self.starter.start("keeper", self.place_at(KEEPER, url.to_owned()), None).await?;
        let holder = process.line("ready").await?;
        Ok((process, holder))
    }

    /// The operator's connection, straight to the broker.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn operator(&self) -> Result<Mesh, Fault> {
        self.connect(OPERATOR).await
    }

    /// A connection as any user, straight to the broker.
    ///
    /// # Errors
    /// What connecting says.
    pub async fn connect(&self, service: &str) -> Result<Mesh, Fault> {
        let seed = self.broker.seed(service).unwrap_or_default().to_owned();
        let builder = Mesh::builder(service).region(REGION).url(&self.broker.url());
        builder.credential(Credential::Nkey(seed.into())).connect().await
    }

    /// The broker's own interface, as the operator, for what Mesh has no command for.
    ///
    /// # Errors
    /// The broker can't be reached.
    pub async fn jetstream(&self) -> anyhow::Result<async_nats::jetstream::Context> {
        jetstream(&self.broker).await
    }

    /// Changes the configuration of a stream.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn change_stream(
        &self,
        name: &str,
        change: impl FnOnce(&mut async_nats::jetstream::stream::Config),
    ) -> anyhow::Result<()> {
        let jetstream = self.jetstream().await?;
        let mut config = jetstream.get_stream(name).await?.cached_info().config.clone();
        change(&mut config);
        jetstream.update_stream(config).await?;
        Ok(())
    }

    async fn sides(&self) -> anyhow::Result<Sides> {
        let operator = self.operator().await?;
        let topology = Topology::of(&declared(&self.settings)?, operator.identity().region());
        Ok(Sides { operator, jetstream: self.jetstream().await?, topology })
    }

    /// What each side says once everything has come to rest.
    ///
    /// # Errors
    /// A side does not answer.
    pub async fn books(&self, sent: &Sent) -> anyhow::Result<Books> {
        let sides = self.sides().await?;
        let books = ledger::books(&sides, &self.counter, sent, self.settings.rest).await;
        sides.operator.drain().await;
        books
    }

    /// Waits until nothing is queued, delayed or in hand.
    ///
    /// # Errors
    /// Something is, after the time that the stage has for it.
    pub async fn at_rest(&self) -> anyhow::Result<()> {
        let sides = self.sides().await?;
        let residue = ledger::at_rest(&sides, self.settings.rest).await;
        sides.operator.drain().await;
        residue.map(drop)
    }

    /// The account once everything has come to rest.
    ///
    /// # Errors
    /// A side does not answer.
    pub async fn account(&self, sent: &Sent) -> anyhow::Result<Account> {
        Ok(Account::of(&self.books(sent).await?))
    }
}
