//! From what a service declares to what the broker lets it do: allow-lists only, never a deny rule.
//!
//! An empty list would mean *everything* to the broker, so every list holds at least the service's own inbox.

mod keeper;
mod ordered;

use std::collections::BTreeSet;

use crate::subject::{self, Name, WIRE};

pub use keeper::{GIVEN_UP, keeper, streams as own_streams};
pub use ordered::{ACK_WAIT as ORDERED_ACK_WAIT, LANE_WINDOW, WINDOW};

/// What a service declares that it does. Everything else is refused by the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub service: Name,
    /// Full names of the events that it publishes.
    pub publishes: BTreeSet<String>,
    /// The consumers that it has.
    pub consumes: BTreeSet<Consumes>,
    /// Operations that it calls: rpc service and method.
    pub calls: BTreeSet<(String, String)>,
    /// Operations that it enqueues: rpc service and method.
    pub enqueues: BTreeSet<(String, String)>,
    /// Operations that it serves: rpc service and method.
    pub serves: BTreeSet<(String, String)>,
}

/// One consumer of an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Consumes {
    /// The consumer's name, unique within its service.
    pub consumer: Name,
    /// Who publishes the event.
    pub producer: String,
    /// The event's full name.
    pub event: String,
    /// Whether messages of one key are handled one after the other. Chosen when the consumer is made: its places at the
    /// broker are others.
    pub ordered: bool,
}

impl Declaration {
    /// A service that does nothing yet.
    #[must_use]
    pub fn new(service: Name) -> Declaration {
        Declaration {
            service,
            publishes: BTreeSet::new(),
            consumes: BTreeSet::new(),
            calls: BTreeSet::new(),
            enqueues: BTreeSet::new(),
            serves: BTreeSet::new(),
        }
    }

    /// The rpc services of which it serves operations, each with one worker consumer.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<&str> {
        self.serves.iter().map(|(service, _)| service.as_str()).collect()
    }

    /// Whether it has a consumer: of an event or of queued work.
    #[must_use]
    pub fn handles(&self) -> bool {
        !self.consumes.is_empty() || !self.serves.is_empty()
    }

    /// Every consumer that the broker must have for it.
    #[must_use]
    pub fn consumers(&self, region: &Name) -> Vec<ConsumerSpec> {
        let service = &self.service;
        let mut specs = Vec::new();
        for consumes in &self.consumes {
            let filter = format!("{WIRE}.event.{region}.{}.{}.*", consumes.producer, consumes.event);
            let stream = subject::event_stream(&consumes.producer);
            if consumes.ordered {
                specs.extend(ordered::consumers(region, service, consumes));
            } else {
                specs.extend(with_lane(region, service, &consumes.consumer, (stream, vec![filter])));
            }
        }
        for rpc in self.serving() {
            let filters = self
                .serves
                .iter()
                .filter(|(s, _)| s == rpc)
                .map(|(s, method)| format!("{WIRE}.work.{region}.{s}.{method}.*.*.*"))
                .collect();
            specs.extend(with_lane(region, service, &worker_name(rpc), (subject::work_stream(rpc), filters)));
        }
        specs
    }

    /// Every stream that must exist for it to work.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamSpec> {
        let mut specs = own_streams();
        let producers = self.publishes.iter().map(|_| self.service.as_str());
        for producer in producers.chain(self.consumes.iter().map(|c| c.producer.as_str())) {
            specs.push(StreamSpec {
                name: subject::event_stream(producer),
                subjects: vec![format!("{WIRE}.event.*.{producer}.>")],
                kind: Kind::Events,
            });
        }
        for (rpc, _) in self.serves.iter().chain(&self.enqueues) {
            specs.push(StreamSpec {
                name: subject::work_stream(rpc),
                subjects: vec![format!("{WIRE}.work.*.{rpc}.>")],
                kind: Kind::Work,
            });
        }
        if self.handles() {
            specs.push(StreamSpec {
                name: subject::lane_stream(self.service.as_str()),
                subjects: vec![format!("{WIRE}.lane.*.{}.>", self.service)],
                kind: Kind::Lane,
            });
            specs.push(store_spec(&self.service));
        }
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs.dedup();
        specs
    }
}

/// The name of the consumer that works off what is queued for an rpc service: its name in lower case, dots as `-`.
#[must_use]
pub fn worker_name(rpc_service: &str) -> Name {
    Name::of_text(rpc_service)
}

/// How a stream keeps what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Limits: kept for its age; every consumer on its own.
    Events,
    /// Work queue: an ack deletes.
    Work,
    /// Work queue with scheduled messages.
    Lane,
    /// Limits, without an age: a letter stays until a person ends it.
    Letters,
    /// Limits, the newest of each subject; a record may go by itself after its time.
    Store,
    /// Limits, kept for its age: what the broker says of deliveries that it gave up.
    Advisories,
    /// Limits, the newest of each subject: taken away once nothing refers to it.
    Claims,
}

/// A stream that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// The subjects that it takes.
    pub subjects: Vec<String>,
    /// How it keeps what it holds.
    pub kind: Kind,
}

/// A durable consumer that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// The stream that it reads.
    pub stream: String,
    /// Its name at the broker.
    pub durable: String,
    /// What it reads there.
    pub filters: Vec<String>,
    /// Where the order of keys is kept: its deliveries that may be under way.
    pub window: Option<i64>,
}

impl ConsumerSpec {
    /// What a consumer of queued work reads while it is to read nothing: where no filter stands, the broker gives it all. It lies in
    /// its stream, is its own, and nobody may send there: a method has three places behind it.
    #[must_use]
    pub fn nothing(&self) -> String {
        let rpc = self.filters.first().and_then(|filter| filter.rsplitn(5, '.').nth(4)).unwrap_or(WIRE);
        format!("{rpc}.nothing.{}", self.durable)
    }
}

fn store_spec(service: &Name) -> StreamSpec {
    StreamSpec {
        name: subject::store_stream(service.as_str()),
        subjects: vec![format!("{WIRE}.store.*.{service}.>")],
        kind: Kind::Store,
    }
}

fn with_lane(region: &Name, service: &Name, consumer: &Name, main: (String, Vec<String>)) -> [ConsumerSpec; 2] {
    let durable = subject::durable(service, consumer);
    let (stream, filters) = main;
    let due = format!("{WIRE}.lane.{region}.{service}.{consumer}.due.*.*");
    let lane = subject::lane_stream(service.as_str());
    [
        ConsumerSpec { stream, durable: durable.clone(), filters, window: None },
        ConsumerSpec { stream: lane, durable, filters: vec![due], window: None },
    ]
}

/// What the broker lets a user do: subjects that it may publish to and subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that it may publish to.
    pub publish: Vec<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: Vec<String>,
    /// Whether it may answer a message that it received, once.
    pub may_answer: bool,
}

/// The allow-list of a service in `region`.
#[must_use]
pub fn compile(declaration: &Declaration, region: &Name) -> Permissions {
    let service = &declaration.service;
    let inbox = format!("{}.>", subject::inbox_prefix(service));
    let mut publish = vec![inbox.clone()];
    let mut subscribe = vec![inbox];
    for event in &declaration.publishes {
        publish.push(format!("{WIRE}.event.{region}.{service}.{event}.*"));
    }
    for (rpc, method) in &declaration.calls {
        publish.push(subject::call(region, rpc, method, service));
    }
    for (rpc, method) in &declaration.enqueues {
        publish.push(format!("{WIRE}.work.{region}.{rpc}.{method}.*.*.{service}"));
    }
    for (rpc, method) in &declaration.serves {
        publish.push(format!("{WIRE}.outcome.{region}.{rpc}.{method}.*"));
        subscribe.push(format!("{WIRE}.call.{region}.{rpc}.{method}.*"));
    }
    if !declaration.serves.is_empty() {
        subscribe.extend(discovery(service));
    }
    for spec in declaration.consumers(region) {
        publish.extend(pull(&spec));
    }
    if declaration.handles() {
        publish.extend(own_store(region, service));
        // And what others put aside that are gone. All that lies on its lanes was sent to it.
        publish.push(format!("$JS.API.STREAM.MSG.GET.{}", subject::lane_stream(service.as_str())));
    }
    let consumers = declaration.consumes.iter().map(|c| c.consumer.clone());
    for consumer in consumers.chain(declaration.serving().into_iter().map(worker_name)) {
        publish.push(format!("{WIRE}.lane.{region}.{service}.{consumer}.due.*.*"));
        // What it put aside, to write, and to read one by one: it is called back.
        let held = format!("{WIRE}.lane.{region}.{service}.{consumer}.hold.*");
        publish.push(format!("$JS.API.DIRECT.GET.{}.{held}", subject::lane_stream(service.as_str())));
        publish.push(held);
        publish.push(format!("{WIRE}.dead.{region}.{service}.{consumer}.*"));
        // What lies apart of its messages, to write, and to read part by part.
        let apart = format!("{WIRE}.claim.{region}.{service}.{consumer}.*.*.*");
        publish.push(format!("$JS.API.DIRECT.GET.{}.{apart}", subject::CLAIM_STREAM));
        publish.push(apart);
    }
    for consumes in declaration.consumes.iter().filter(|consumes| consumes.ordered) {
        // Its own letters, each by its subject: a letter that ends releases its key.
        let letters = format!("{WIRE}.dead.{region}.{service}.{}.*", consumes.consumer);
        publish.push(format!("$JS.API.DIRECT.GET.{}.{letters}", subject::DEAD_LETTER_STREAM));
        subscribe.push(letters);
    }
    Permissions { publish, subscribe, may_answer: !declaration.serves.is_empty() }
}

/// NEXT, ACK (both forms of its subject) and INFO of one consumer.
fn pull(spec: &ConsumerSpec) -> [String; 4] {
    let (stream, durable) = (&spec.stream, &spec.durable);
    [
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
        format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"),
        format!("$JS.ACK.{stream}.{durable}.>"),
        format!("$JS.ACK.*.*.{stream}.{durable}.>"),
    ]
}

/// Its own store, to write and to read at the leader.
fn own_store(region: &Name, service: &Name) -> [String; 2] {
    let stream = subject::store_stream(service.as_str());
    [format!("{WIRE}.store.{region}.{service}.>"), format!("$JS.API.STREAM.MSG.GET.{stream}")]
}

/// The subjects of NATS micro (ADR-32) that a service answers on.
fn discovery(service: &Name) -> impl Iterator<Item = String> {
    ["PING", "INFO", "STATS"].into_iter().flat_map(move |verb| {
        [format!("$SRV.{verb}"), format!("$SRV.{verb}.{service}"), format!("$SRV.{verb}.{service}.*")]
    })
}

/// The allow-list of a person at the command line: everything of the mesh, nothing of other inboxes.
#[must_use]
pub fn operator(name: &Name) -> Permissions {
    let inbox = format!("{}.>", subject::inbox_prefix(name));
    let mesh = format!("{WIRE}.>");
    Permissions {
        publish: [inbox.as_str(), &mesh, "$JS.API.>", "$JS.ACK.>", "$SRV.>"].map(str::to_owned).into(),
        subscribe: [inbox.as_str(), &mesh, "$JS.EVENT.ADVISORY.>"].map(str::to_owned).into(),
        may_answer: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn payments() -> Declaration {
        let mut payments = Declaration::new(name("payments"));
        payments.consumes.insert(Consumes {
            consumer: name("charge"),
            producer: "orders".into(),
            event: "shop.orders.v1.OrderPlaced".into(),
            ordered: false,
        });
        payments.enqueues.insert(("shop.payments.v1.Payments".into(), "Charge".into()));
        payments
    }

    #[test]
    fn a_service_that_declares_nothing_has_only_its_inbox() {
        let permissions = compile(&Declaration::new(name("idle")), &name("local"));
        assert_eq!(permissions.publish, ["_INBOX.idle.>"]);
        assert_eq!(permissions.subscribe, ["_INBOX.idle.>"]);
        assert!(!permissions.may_answer);
    }

    #[test]
    fn a_consumer_that_enqueues_may_do_just_that() {
        let permissions = compile(&payments(), &name("local"));
        assert_eq!(
            permissions.publish,
            [
                "_INBOX.payments.>",
                "mesh1.work.local.shop.payments.v1.Payments.Charge.*.*.payments",
                "$JS.API.CONSUMER.MSG.NEXT.mesh1-event-orders.payments_charge",
                "$JS.API.CONSUMER.INFO.mesh1-event-orders.payments_charge",
                "$JS.ACK.mesh1-event-orders.payments_charge.>",
                "$JS.ACK.*.*.mesh1-event-orders.payments_charge.>",
                "$JS.API.CONSUMER.MSG.NEXT.mesh1-lane-payments.payments_charge",
                "$JS.API.CONSUMER.INFO.mesh1-lane-payments.payments_charge",
                "$JS.ACK.mesh1-lane-payments.payments_charge.>",
                "$JS.ACK.*.*.mesh1-lane-payments.payments_charge.>",
                "mesh1.store.local.payments.>",
                "$JS.API.STREAM.MSG.GET.mesh1-store-payments",
                "$JS.API.STREAM.MSG.GET.mesh1-lane-payments",
                "mesh1.lane.local.payments.charge.due.*.*",
                "$JS.API.DIRECT.GET.mesh1-lane-payments.mesh1.lane.local.payments.charge.hold.*",
                "mesh1.lane.local.payments.charge.hold.*",
                "mesh1.dead.local.payments.charge.*",
                "$JS.API.DIRECT.GET.mesh1-claim.mesh1.claim.local.payments.charge.*.*.*",
                "mesh1.claim.local.payments.charge.*.*.*",
            ]
        );
        assert_eq!(permissions.subscribe, ["_INBOX.payments.>"]);
    }

    #[test]
    fn a_consumer_that_keeps_order_has_one_consumer_for_each_partition_and_lane_and_hears_of_its_letters() {
        let mut ordered = payments();
        ordered.consumes = ordered.consumes.into_iter().map(|c| Consumes { ordered: true, ..c }).collect();
        let specs = ordered.consumers(&name("local"));
        assert_eq!(specs.len(), 32);
        let lane =
            specs.iter().find(|s| s.stream == "mesh1-lane-payments" && s.durable == "payments_charge_p7").unwrap();
        assert_eq!(lane.filters, ["mesh1.lane.local.payments.charge.due.7.*"]);
        let permissions = compile(&ordered, &name("local"));
        assert_eq!(permissions.subscribe, ["_INBOX.payments.>", "mesh1.dead.local.payments.charge.*"]);
        let letters = "$JS.API.DIRECT.GET.mesh1-dead-letter.mesh1.dead.local.payments.charge.*";
        assert!(permissions.publish.iter().any(|subject| subject == letters));
    }

    #[test]
    fn streams_follow_from_what_is_declared() {
        let streams: Vec<_> = payments().streams().into_iter().map(|s| s.name).collect();
        assert_eq!(
            streams,
            [
                "mesh1-advisory",
                "mesh1-claim",
                "mesh1-dead-letter",
                "mesh1-event-orders",
                "mesh1-job",
                "mesh1-lane-payments",
                "mesh1-outcome",
                "mesh1-store-keeper",
                "mesh1-store-payments",
                "mesh1-work-shop-payments-v1-Payments"
            ]
        );
    }

    #[test]
    fn what_nobody_may_send_lies_in_the_queue_and_is_of_one_consumer() {
        let mut bank = Declaration::new(name("bank"));
        bank.serves.insert(("shop.payments.v1.Payments".into(), "Charge".into()));
        let spec = bank.consumers(&name("local")).swap_remove(0);
        let nothing = "mesh1.work.local.shop.payments.v1.Payments.nothing.bank_shop-payments-v1-payments";
        assert_eq!(
            (spec.nothing().as_str(), spec.filters[0].split('.').count()),
            (nothing, nothing.split('.').count() + 2)
        );
    }

    #[test]
    fn nobody_may_reach_all_subjects() {
        for subject in operator(&name("ada")).subscribe {
            assert!(subject != ">" && !subject.starts_with("_INBOX.>") && !subject.starts_with("_INBOX.*"));
        }
    }
}
