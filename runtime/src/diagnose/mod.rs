//! What tells whether a file and a machine compute what they should, and how fast they could.

pub mod bisect;
pub mod perplexity;
pub mod roofline;
pub mod selftest;
pub mod verify;
