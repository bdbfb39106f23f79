//! Diagnosis: whether a file and a machine compute what they should, and how fast they could be.

pub mod bisect;
pub mod perplexity;
pub mod roofline;
pub mod rule;
pub mod selftest;
pub mod verify;
