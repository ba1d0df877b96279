//! What callers keep: everything about one message, operation, consumer or vendor call, found once and then only added to.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{
    family::{Cases, Family},
    seconds::Seconds,
};
use crate::fault::{Code, Fault, Reason};

/// A counter with two labels: the first is the handle's name, the second one of a closed set of cases.
struct ByCase {
    name: String,
    family: Family<2, Counter>,
    cases: Cases,
}

impl ByCase {
    fn new(name: &str, family: &Family<2, Counter>, cases: usize) -> ByCase {
        ByCase { name: name.to_owned(), family: family.clone(), cases: Cases::new(cases) }
    }

    fn add(&self, case: usize, label: &str) {
        self.cases.add(case, || self.family.get([&self.name, label]));
    }

    /// Case 0 is success; the reasons follow in their order.
    fn add_result(&self, result: Result<(), &Fault>) {
        match result {
            Ok(()) => self.add(0, "ok"),
            Err(fault) => self.add(fault.reason() as usize + 1, fault.reason().code()),
        }
    }

    fn add_code(&self, result: Result<(), &Fault>) {
        let code = result.err().map_or(Code::Ok, Fault::code);
        let name = code.as_str_name();
        self.add(usize::try_from(i32::from(code)).unwrap_or(usize::MAX), name.strip_prefix("CODE_").unwrap_or(name));
    }
}

const RESULTS: usize = Reason::ALL.len() + 1;
const CODES: usize = 17;

/// What became of the messages of one type that this service publishes.
#[derive(Clone)]
pub struct PublisherMetrics(Arc<ByCase>);

impl PublisherMetrics {
    pub(super) fn new(message: &str, published: &Family<2, Counter>) -> PublisherMetrics {
        PublisherMetrics(Arc::new(ByCase::new(message, published, RESULTS)))
    }

    /// Counts one message: confirmed, or why not.
    pub fn published(&self, result: Result<(), &Fault>) {
        self.0.add_result(result);
    }
}

/// One operation: what it answered when it was called, here or from here, and what became of work queued for it.
#[derive(Clone)]
pub struct OperationMetrics(Arc<Operation>);

struct Operation {
    calls: ByCase,
    call_seconds: Seconds,
    call_retries: ByCase,
    served: ByCase,
    serving_seconds: Seconds,
    enqueued: ByCase,
}

impl OperationMetrics {
    pub(super) fn new(operation: &str, families: &super::Families) -> OperationMetrics {
        OperationMetrics(Arc::new(Operation {
            calls: ByCase::new(operation, &families.calls, CODES),
            call_seconds: families.call_seconds.get([operation]),
            call_retries: ByCase::new(operation, &families.call_retries, 2),
            served: ByCase::new(operation, &families.served, CODES),
            serving_seconds: families.serving_seconds.get([operation]),
            enqueued: ByCase::new(operation, &families.enqueued, RESULTS),
        }))
    }

    /// Counts one call from here: its answer, and how long the caller waited.
    pub fn called(&self, result: Result<(), &Fault>, took: Duration) {
        self.0.calls.add_code(result);
        self.0.call_seconds.observe(took);
    }

    /// Counts one repeat of a call from here: whether the budget granted it.
    pub fn call_retried(&self, granted: bool) {
        self.0.call_retries.add(usize::from(granted), if granted { "made" } else { "budget_spent" });
    }

    /// Counts one call that was answered here.
    pub fn served(&self, result: Result<(), &Fault>, took: Duration) {
        self.0.served.add_code(result);
        self.0.serving_seconds.observe(took);
    }

    /// Counts one piece of queued work: confirmed, or why not.
    pub fn enqueued(&self, result: Result<(), &Fault>) {
        self.0.enqueued.add_result(result);
    }
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is done.
    Accept,
    /// It comes again later.
    Delay,
    /// It became a dead letter.
    DeadLetter,
    /// It went back to the queue, untouched.
    Release,
}

impl How {
    /// The word for it, as metrics and logs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            How::Accept => "accept",
            How::Delay => "delay",
            How::DeadLetter => "dead_letter",
            How::Release => "release",
        }
    }
}

/// One consumer: what it has in hand and how its deliveries ended.
#[derive(Clone)]
pub struct ConsumerMetrics(Arc<Consumer>);

struct Consumer {
    settled: ByCase,
    handling_seconds: Seconds,
    dead_letters: ByCase,
    in_flight: Gauge,
    partitions: Gauge,
    keys_blocked: Gauge,
    followers_held: Gauge,
    waiting: Gauge,
}

impl ConsumerMetrics {
    pub(super) fn new(consumer: &str, families: &super::Families) -> ConsumerMetrics {
        ConsumerMetrics(Arc::new(Consumer {
            settled: ByCase::new(consumer, &families.settled, How::Release as usize + 1),
            handling_seconds: families.handling_seconds.get([consumer]),
            dead_letters: ByCase::new(consumer, &families.dead_letters, RESULTS),
            in_flight: families.in_flight.get([consumer]),
            partitions: families.partitions.get([consumer]),
            keys_blocked: families.keys_blocked.get([consumer]),
            followers_held: families.followers_held.get([consumer]),
            waiting: families.handovers_waiting.get([consumer]),
        }))
    }

    /// Counts a delivery as in hand until the answer is dropped.
    #[must_use = "the delivery is in flight until this is dropped"]
    pub fn begin(&self) -> InFlight {
        self.0.in_flight.inc();
        InFlight(Arc::clone(&self.0))
    }

    /// Counts partitions, blocked keys and what is put aside behind them, by how many more or fewer there are.
    pub fn order(&self, partitions: i64, keys_blocked: i64, followers_held: i64) {
        self.0.partitions.inc_by(partitions);
        self.0.keys_blocked.inc_by(keys_blocked);
        self.0.followers_held.inc_by(followers_held);
    }

    /// Counts deliveries that wait for the broker to take what follows from them, by how many more or fewer there are.
    pub fn waits(&self, more: i64) {
        self.0.waiting.inc_by(more);
    }

    /// Counts one settled delivery, and how long its handler had it.
    pub fn settled(&self, how: How, took: Duration) {
        self.0.settled.add(how as usize, how.as_str());
        self.0.handling_seconds.observe(took);
    }

    /// Counts one captured dead letter.
    pub fn dead_letter(&self, reason: Reason) {
        self.0.dead_letters.add(reason as usize, reason.code());
    }
}

/// A delivery in hand. Dropping it takes it off the gauge, however its task ended.
pub struct InFlight(Arc<Consumer>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// One kind of call of a third party.
#[derive(Clone)]
pub struct VendorMetrics(Arc<Vendor>);

struct Vendor {
    vendor: String,
    operation: String,
    calls: Family<3, Counter>,
    statuses: Cases,
    seconds: Seconds,
}

impl VendorMetrics {
    pub(super) fn new(vendor: &str, operation: &str, families: &super::Families) -> VendorMetrics {
        VendorMetrics(Arc::new(Vendor {
            vendor: vendor.to_owned(),
            operation: operation.to_owned(),
            calls: families.vendor_calls.clone(),
            statuses: Cases::new(600),
            seconds: families.vendor_seconds.get([vendor, operation]),
        }))
    }

    /// Counts one HTTP call; `status` 0 says that no answer came.
    pub fn called(&self, status: u16, took: Duration) {
        let this = &*self.0;
        this.seconds.observe(took);
        this.statuses.add(usize::from(status), || match status {
            0 => this.calls.get([&this.vendor, &this.operation, "none"]),
            status => this.calls.get([&this.vendor, &this.operation, &status.to_string()]),
        });
    }
}

/// Handles show their names only, so that what holds one can be shown.
macro_rules! shown {
    ($($handle:ident: $this:ident => $name:expr;)*) => {$(
        impl fmt::Debug for $handle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let $this = &*self.0;
                f.debug_tuple(stringify!($handle)).field($name).finish()
            }
        }
    )*};
}

shown! {
    PublisherMetrics: this => &this.name;
    OperationMetrics: this => &this.calls.name;
    ConsumerMetrics: this => &this.settled.name;
    InFlight: this => &this.settled.name;
    VendorMetrics: this => &format_args!("{} {}", this.vendor, this.operation);
}
