//! Pull, run, settle.
//!
//! A consumer is two of the broker's: one on the stream of the messages, one on its own lane. Deliveries of both run
//! through [`worker`]: opened by the gate, counted, handled under a lease that is kept alive, and settled by hand-over: the
//! broker confirms the successor (outcome, delayed copy, letter) before the delivery is acknowledged.

mod admit;
mod age;
mod attempt;
mod call_back;
mod feed;
mod handed_back;
mod holders;
mod inbox;
mod key_locks;
mod lease;
mod ordered;
mod quarantine;
mod sent_again;
mod settle;
mod targets;
mod tenure;
mod unbegun;
mod unwritten;
mod work;
mod worker;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    contract::admission::{Admission, Open},
    policy::{budget::BudgetRule, inbox::InboxRule, isolation::IsolationRule, retry::RetryRule},
};

pub use ordered::OrderSettings;
pub use quarantine::Quarantine;
pub use work::{EventWork, ServiceWork, TargetOf, Work};
pub(crate) use worker::DRAIN_GRACE;
pub use worker::{Home, Worker};

/// The limits of one consumer.
#[derive(Clone)]
pub struct ConsumerSettings {
    /// Deliveries that are handled at once.
    pub concurrency: usize,
    /// Deliveries that may wait here for a place, leased; handed back when the service drains.
    pub prefetch: usize,
    /// How long one attempt may take; it is given up then, with an unknown outcome. Ten minutes where nothing is said: work of
    /// five must not meet it.
    pub handler_limit: Duration,
    /// How long the broker waits for a sign of life: as the consumer was made.
    pub ack_wait: Duration,
    /// Whether and when a failed attempt is made again.
    pub retry: RetryRule,
    /// The same for single operations, by method: where nothing stands, `retry` holds.
    pub retry_of: BTreeMap<String, RetryRule>,
    /// How long it is remembered that a message was done (whole seconds), so that one that comes again is not done again.
    /// It costs two durable writes for each message. `None`: only what the broker delivered before is looked up, and what
    /// may not be repeated blindly.
    pub inbox: Option<Duration>,
    /// How often a message may be started without a word of its end.
    pub inbox_rule: InboxRule,
    /// How many retries may be begun, as a share of first attempts.
    pub retry_budget: BudgetRule,
    /// How targets are kept apart, where the work names them. `None`: not at all.
    pub isolation: Option<IsolationRule>,
    /// Asked before anything is fetched or begun.
    pub admission: Arc<dyn Admission>,
    /// Whether messages of one key are handled one after the other, as the consumer was made, and how.
    pub order: Option<OrderSettings>,
}

impl Default for ConsumerSettings {
    fn default() -> ConsumerSettings {
        ConsumerSettings {
            concurrency: 64,
            prefetch: 64,
            handler_limit: Duration::from_secs(600),
            ack_wait: Duration::from_secs(30),
            retry: RetryRule::default(),
            retry_of: BTreeMap::new(),
            inbox: None,
            inbox_rule: InboxRule::default(),
            retry_budget: BudgetRule::default(),
            isolation: None,
            admission: Arc::new(Open),
            order: None,
        }
    }
}
