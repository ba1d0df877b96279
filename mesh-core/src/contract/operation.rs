//! Operations: one contract, answered now (`call`) or done later (`enqueue`).

use std::{borrow::Cow, future::Future, pin::Pin};

use bytes::Bytes;

use super::{Context, Contract};
use crate::fault::Fault;

/// A future behind a pointer, for the one place where operations of many types stand in one table.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a repeat of an operation does, as its contract states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Reads only: repeat at will (`idempotency_level = NO_SIDE_EFFECTS`).
    NoSideEffects,
    /// A repeat changes nothing (`idempotency_level = IDEMPOTENT`).
    Idempotent,
    /// Safe with the same idempotency key.
    Keyed,
    /// Ask whether it happened before repeating it.
    LookUp,
    /// Never repeat blindly. The default of a contract that says nothing.
    Once,
}

impl Repeat {
    /// Whether an attempt with an unknown outcome may be repeated without asking.
    #[must_use]
    pub const fn is_safe_when_unknown(self) -> bool {
        matches!(self, Repeat::NoSideEffects | Repeat::Idempotent | Repeat::Keyed)
    }
}

/// An rpc of a contract: a type without values, generated.
#[diagnostic::on_unimplemented(message = "`{Self}` is not an operation of a contract")]
pub trait Operation: Send + Sync + 'static {
    /// What is asked.
    type Request: Contract;
    /// What is answered.
    type Reply: Contract;
    /// `package.Service`
    const SERVICE: &'static str;
    /// The rpc's name.
    const METHOD: &'static str;
    /// What a repeat does.
    const REPEAT: Repeat;

    /// The ordering key of a request; empty where the contract names none.
    fn key(request: &Self::Request) -> Cow<'_, str>;

    /// The same as a value.
    #[must_use]
    fn info() -> OperationInfo {
        OperationInfo {
            service: Cow::Borrowed(Self::SERVICE),
            method: Cow::Borrowed(Self::METHOD),
            repeat: Self::REPEAT,
            request: Cow::Borrowed(<Self::Request as Contract>::FULL_NAME),
            reply: Cow::Borrowed(<Self::Reply as Contract>::FULL_NAME),
        }
    }
}

/// An operation as a value: of generated code, or read from descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationInfo {
    /// `package.Service`
    pub service: Cow<'static, str>,
    /// The rpc's name.
    pub method: Cow<'static, str>,
    /// What a repeat does.
    pub repeat: Repeat,
    /// Full name of the request message.
    pub request: Cow<'static, str>,
    /// Full name of the reply message.
    pub reply: Cow<'static, str>,
}

impl OperationInfo {
    /// `package.Service/Method`
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.service, self.method)
    }
}

/// Operations of one rpc service and the code behind them: a generated server, or an adapter.
pub trait Service: Send + Sync + 'static {
    /// `package.Service`
    fn name(&self) -> &str;

    /// The operations that it serves, all of [`name`](Service::name).
    fn operations(&self) -> Vec<OperationInfo>;

    /// What a request is for, where targets are to be kept apart: one that is down then delays no other. `None`: not said.
    fn target(&self, _method: &str, _payload: &Bytes) -> Option<String> {
        None
    }

    /// Handles one request: the bytes of the request message in, those of the reply message out.
    ///
    /// # Errors
    /// What the handler said, or a fault that names the undecodable payload or the unknown method.
    fn dispatch<'a>(&'a self, method: &'a str, cx: Context, payload: Bytes) -> BoxFuture<'a, Result<Bytes, Fault>>;
}
