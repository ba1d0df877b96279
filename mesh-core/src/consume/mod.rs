//! Pull, run, settle.
//!
//! A consumer is two of the broker's: one on the stream of the messages, one on its own lane. Deliveries of both run
//! through [`worker`]: opened by the gate, counted, handled under a lease that is kept alive, and settled by hand-over: the
//! broker confirms the successor (outcome, delayed copy, letter) before the delivery is acknowledged.

mod attempt;
mod feed;
mod lease;
mod ordered;
mod settle;
mod work;
mod worker;

use std::{sync::Arc, time::Duration};

use crate::{
    contract::admission::{Admission, Open},
    policy::retry::RetryRule,
};

pub use ordered::OrderSettings;
pub use work::{EventWork, ServiceWork, Work};
pub(crate) use worker::DRAIN_GRACE;
pub use worker::Worker;

/// The limits of one consumer.
#[derive(Clone)]
pub struct ConsumerSettings {
    /// Deliveries that are handled at once.
    pub concurrency: usize,
    /// Deliveries that may wait here for a place, leased; handed back when the service drains.
    pub prefetch: usize,
    /// How long one attempt may take; it is given up then, with an unknown outcome.
    pub handler_limit: Duration,
    /// How long the broker waits for a sign of life: as the consumer was made.
    pub ack_wait: Duration,
    /// Whether and when a failed attempt is made again.
    pub retry: RetryRule,
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
            handler_limit: Duration::from_secs(300),
            ack_wait: Duration::from_secs(30),
            retry: RetryRule::default(),
            admission: Arc::new(Open),
            order: None,
        }
    }
}
