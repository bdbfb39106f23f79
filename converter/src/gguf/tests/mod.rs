//! Tests of the parts, and of whole files.

pub mod build;
mod container;
mod model;
