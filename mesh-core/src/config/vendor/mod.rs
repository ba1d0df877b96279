//! The vendor file: how the operations of a contract become calls of a vendor's HTTP API.
//!
//! `docs/adapters.md` explains it key by key. A file that loads fits its contract: operations and fields exist, the
//! expressions compile, the secrets are set.

mod answers;
mod base_url;
mod operation;
mod read;
mod request;
mod retry;
#[cfg(test)]
mod retry_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use ::http::{HeaderName, Method};
pub use base_url::BaseUrl;
use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};
pub use secrecy::{ExposeSecret, SecretString};

use super::{Environment, Expression, Problems, Template};
use crate::{
    contract::{OperationInfo, catalog::Catalog},
    policy::{budget::BudgetRule, retry::RetryRule},
};

/// A vendor file, checked.
#[derive(Debug)]
pub struct VendorFile {
    /// The vendor's name.
    pub vendor: String,
    /// What every path is appended to.
    pub base_url: BaseUrl,
    /// The secrets by their name in the file.
    pub secrets: BTreeMap<String, SecretString>,
    /// How many retries of queued work may be begun, as a share of first attempts.
    pub retry_budget: BudgetRule,
    /// The operations.
    pub operations: Vec<OperationPlan>,
}

/// One operation: what is asked of the vendor, and what its answers mean.
#[derive(Debug)]
pub struct OperationPlan {
    /// The operation as the contract states it.
    pub info: OperationInfo,
    /// The request's message type.
    pub input: MessageDescriptor,
    /// The reply's message type.
    pub output: MessageDescriptor,
    /// Operations with the same name here wait together when the vendor asks to slow down.
    pub quota: String,
    /// For one call, from connection to the end of the answer.
    pub timeout: Duration,
    /// Whether and when queued work that failed is tried again.
    pub retry: RetryRule,
    /// Names what a request is for, where targets are kept apart.
    pub isolate_by: Option<Expression>,
    /// The request.
    pub request: RequestPlan,
    /// The idempotency key's place, where the vendor knows one.
    pub idempotency: Option<IdempotencyPlan>,
    /// Which answers mean what; the first that fits. After them the built-in table.
    pub answers: Vec<AnswerRule>,
    /// Where an error answer says what is wrong.
    pub error: ErrorPlan,
    /// The reply's fields and where their values come from.
    pub reply: Vec<(FieldDescriptor, Expression)>,
    /// The vendor's own id of a call.
    pub request_id: Option<Expression>,
}

/// How the request is made.
#[derive(Debug)]
pub struct RequestPlan {
    /// The method.
    pub method: Method,
    /// The path below the base URL.
    pub path: Template,
    /// Pairs of the query.
    pub query: Vec<(String, Expression)>,
    /// Headers.
    pub headers: Vec<(HeaderName, Template)>,
    /// The body.
    pub body: BodyPlan,
}

/// How the body is made.
#[derive(Debug)]
pub enum BodyPlan {
    /// There is none.
    None,
    /// `application/x-www-form-urlencoded`, keys as written.
    Form(Vec<(String, Expression)>),
    /// `application/json`.
    Json(Json),
}

/// A JSON value with expressions as its leaves.
#[derive(Debug)]
pub enum Json {
    /// What the expression gives.
    Value(Expression),
    /// An object.
    Object(Vec<(String, Json)>),
    /// An array.
    List(Vec<Json>),
}

/// Where the idempotency key goes.
#[derive(Debug)]
pub struct IdempotencyPlan {
    /// The header.
    pub header: HeaderName,
    /// The key itself.
    pub value: Expression,
    /// As a quoted string of RFC 9651.
    pub quoted: bool,
    /// How long the vendor remembers a key.
    pub retention: Duration,
}

/// What an answer means.
#[derive(Debug)]
pub struct AnswerRule {
    /// Whether it fits; an expression that can't be evaluated does not.
    pub when: Expression,
    /// What it then means.
    pub is: Verdict,
    /// Where it says what is wrong; else the operation's.
    pub error: ErrorPlan,
}

/// Where an answer says what is wrong.
#[derive(Debug, Default)]
pub struct ErrorPlan {
    /// The vendor's error code.
    pub code: Option<Expression>,
    /// The vendor's message.
    pub message: Option<Expression>,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was done: the reply is made from it.
    Done,
    /// A refusal by the rules of the business: an answer, not a failure.
    Declined,
    /// The request is wrong: the same will never be taken.
    Refused,
    /// What it names does not exist.
    NotFound,
    /// Slow down; nothing happened.
    Throttled,
    /// The credential was not accepted.
    Unauthenticated,
    /// The vendor is still busy with the same key.
    InProgress,
    /// The vendor failed; it may have acted.
    Failed,
    /// An earlier error, replayed for the same key.
    StoredError,
}

impl Verdict {
    /// Every verdict under its name in the file.
    pub const ALL: &'static [(&'static str, Verdict)] = &[
        ("done", Verdict::Done),
        ("declined", Verdict::Declined),
        ("refused", Verdict::Refused),
        ("not_found", Verdict::NotFound),
        ("throttled", Verdict::Throttled),
        ("unauthenticated", Verdict::Unauthenticated),
        ("in_progress", Verdict::InProgress),
        ("failed", Verdict::Failed),
        ("stored_error", Verdict::StoredError),
    ];
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Verdict::ALL.iter().find(|(_, v)| v == self).map_or("", |(name, _)| name))
    }
}

/// Where operations and messages are looked up: a [`Catalog`], or a bare [`DescriptorPool`].
pub trait Contracts {
    /// The descriptors.
    fn pool(&self) -> DescriptorPool;
}

impl Contracts for DescriptorPool {
    fn pool(&self) -> DescriptorPool {
        self.clone()
    }
}

impl Contracts for Catalog {
    fn pool(&self) -> DescriptorPool {
        self.operations().next().map(|entry| entry.request.parent_pool().clone()).unwrap_or_default()
    }
}

/// Reads and checks a vendor file. `file` is its name for errors, `text` what stands in it.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(
    file: &str,
    text: &str,
    environment: &Environment,
    contracts: &impl Contracts,
) -> Result<VendorFile, Problems> {
    read::read(file, text, environment, &contracts.pool())
}
