//! An open file, bound to a backend, and sequences of tokens on it.

pub mod admission;
pub mod load;
pub mod model;
pub mod prompt_cache;
pub mod session;
pub mod step;
