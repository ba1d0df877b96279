//! Files and the environment become valid values, or errors with a place.
//!
//! The only module that reads the environment. Everything is checked at load: a vendor file that loads can be run.

mod duration;
mod environment;
mod expression;
pub mod mesh_file;
mod problem;
pub(crate) mod record;
mod template;
pub mod vendor;
mod yaml;

pub use environment::{Environment, Unset};
pub use expression::{Expression, engine};
pub(crate) use expression::{Scope, compile_alone};
pub use problem::{Kind, Place, Problem, Problems};
pub use template::{Part, Template};
