//! What people and tools may ask and order: make streams and consumers, look at letters, replay and discard them; and the
//! keeper, which sees to it that nothing is lost while nobody looks.

pub mod keeper;
pub mod letters;
pub mod topology;
