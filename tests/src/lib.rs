//! What the tests of the whole share: the program `mesh`, a real broker with real users, and waiting for a condition.

pub mod binary;
pub mod broker;
pub mod callers;
pub mod campaign;
pub mod charges;
pub mod contested;
pub mod foreign;
pub mod keeper;
pub mod letters;
pub mod many_letters;
pub mod measured;
pub mod postgres;
pub mod ready_made;
pub mod seen;
pub mod wait;

pub use binary::{mesh_binary, person};
pub use broker::TestBroker;
pub use postgres::TestPostgres;
pub use seen::Seen;
pub use wait::{Growing, eventually, within};
