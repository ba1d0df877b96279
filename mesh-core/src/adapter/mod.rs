//! An operation becomes a vendor's HTTP call, and the answer a reply or a fault.

mod json;
mod retry_after;
mod text;
mod value;
