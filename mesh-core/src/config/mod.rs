//! Files and the environment become valid values, or errors with a place.
//!
//! The only module that reads the environment. Everything is checked at load: a vendor file that loads can be run.

mod check;
mod duration;
mod environment;
mod expression;
pub mod mesh_file;
mod problem;
pub(crate) mod record;
mod sorts;
mod template;
pub mod vendor;
mod yaml;

pub(crate) use check::Scope;
pub use environment::{Environment, Unset};
pub(crate) use expression::{ByType, compile_alone};
pub use expression::{Expression, engine};
pub use problem::{Kind, Place, Problem, Problems};
pub(crate) use sorts::Sort;
pub use template::{Part, Template};
