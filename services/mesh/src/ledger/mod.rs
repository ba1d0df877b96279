//! The demonstration's ledger: what became of every order, per operation and as sets of ids, so that one loss can't hide one double.
//!
//! Both sides are counted by others: what was asked for by the broker's streams, what was done by the vendor. Everything
//! in [`account`] is pure; [`read`] fetches what it is made from, [`show`] writes it.
//!
//! `mesh ledger`, which counts any mesh from the broker's side alone, is another: `cli/ledger.rs` and
//! `mesh_core::operate::ledger`.

mod account;
mod ids;
pub mod read;
mod show;

pub use account::{
    Account, Counted, Ended, Ledger, Memory, Operation, Published, Run, VendorCounts, operation, published, verdict,
};
pub use ids::{Effects, Ids};
pub(crate) use show::{counted, grouped};
pub use show::{last_line, text};
