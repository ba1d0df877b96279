//! An operation becomes a vendor's HTTP call, and the answer a reply or a fault.
//!
//! A [`Vendor`] is two pure functions: message to request, answer to reply or fault. [`Declared`] is one by a vendor file.
//! [`Adapter`] does the rest: it keeps the vendor's quota and the deadline, calls, and serves the operations like any
//! other service.

mod declared;
mod json;
mod outcome;
mod reply;
mod retry_after;
mod service;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod vendor;

pub use declared::Declared;
pub use service::{Adapter, AdapterService};
pub use vendor::{Terms, Vendor};
