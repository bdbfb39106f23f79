//! Tests of the parts, and of whole files.

mod container;
