//! Shared helpers of the whole-system tests: random numbers, small checkpoints, files, measures and the built programs.
//!
//! The tests themselves are in `tests/tests`, the reference data in `tests/reference`. Where a library would return an
//! error, a helper panics, because its failure is the test's failure.

mod changed;
mod checkpoint;
#[allow(unsafe_code)]
pub mod counting;
#[allow(unsafe_code)]
pub mod emulator;
mod files;
mod fixtures;
pub mod hub;
mod measure;
pub mod mutate;
mod namespace;
pub mod parts;
mod programs;
mod random;
pub mod recorder;
pub mod schema;
mod script;
pub mod specs;
pub mod targets;
#[allow(unsafe_code)]
mod terminal;
mod thorough;
mod twin;

pub use checkpoint::{Source, SourceType, Tiny, TinyRope};
pub use files::{decoded_f32, read_values, write_file};
pub use fixtures::{
    ENCODINGS, FINE_ENCODINGS, Fixture, convert, convert_with, copy_folder, engine, fixture, fixtures, for_each_isa,
};
pub use measure::{Divergence, argmax, divergence, kl, max_abs_diff};
pub use namespace::namespace;
pub use programs::{Run, command, nanoserve, program, root};
pub use random::SplitMix64;
pub use script::{CHATML, Script};
pub use terminal::Terminal;
pub use thorough::thorough;
pub use twin::{Tensors, Twin, random_tensors, write_tensors};
