//! Tests of the parts, and of whole files.

mod build;
mod container;
mod model;
