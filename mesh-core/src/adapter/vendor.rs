//! What a vendor is to an adapter: two pure functions.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost_reflect::DynamicMessage;

use crate::{
    contract::{Context, OperationInfo},
    fault::Fault,
    http::{Answer, Request},
    policy::{budget::BudgetRule, retry::RetryRule},
};

/// One operation of a vendor.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The operation as the contract states it.
    pub info: OperationInfo,
    /// Operations with the same name here wait together.
    pub quota: String,
    /// For one call.
    pub timeout: Duration,
    /// Whether and when queued work that failed is tried again.
    pub retry: RetryRule,
    /// Whether [`Vendor::target`] names what its requests are for.
    pub isolated: bool,
    /// The path without its values, for traces.
    pub route: String,
}

/// Turns operations into requests and answers into replies. No I/O: everything in it can be tested by hand.
///
/// A vendor file is one; code of your own is another, where a file does not suffice.
pub trait Vendor: Send + Sync + 'static {
    /// The vendor's name.
    fn name(&self) -> &str;

    /// Its operations. `operation` below is an index into these.
    fn terms(&self) -> Vec<Terms>;

    /// How many retries of queued work may be begun, for each rpc service of its operations.
    fn retry_budget(&self) -> BudgetRule {
        BudgetRule::default()
    }

    /// What a request is for (a tenant, a shop, a region of the vendor's): one that is down delays no other. `None`: not said.
    fn target(&self, _operation: usize, _message: &DynamicMessage) -> Option<String> {
        None
    }

    /// The request of one call.
    ///
    /// # Errors
    /// The message does not suffice to build it: nothing happened.
    fn request(&self, operation: usize, cx: &Context, message: &DynamicMessage) -> Result<Request, Fault>;

    /// The reply that an answer holds, as bytes of the reply message.
    ///
    /// # Errors
    /// What the answer means where it is no reply.
    fn interpret(&self, operation: usize, answer: &Answer, now: SystemTime) -> Result<Bytes, Fault>;
}
