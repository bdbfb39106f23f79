//! A checkpoint folder to one file, in code.
//!
//!     cargo run --release --example convert -- weights/demo demo.nsv

use nanoserve_converter::{Options, convert};
use nanoserve_format::{Encoding, Recipe, Role};
use std::error::Error;
use std::sync::atomic::AtomicBool;

/// Converts with 8 bits a weight, and 16 for the embedding and the head; how many tensors the file has.
pub fn run(source: &str, output: &str) -> Result<usize, Box<dyn Error>> {
    let recipe = Recipe::uniform(Encoding::Q8).with(Role::Embedding, Encoding::F16).with(Role::Head, Encoding::F16);
    let options = Options::new(source, output, recipe);
    // The second argument sees the progress, setting the third stops the conversion.
    let report = convert(&options, &(), &AtomicBool::new(false))?;
    println!("{} tensors, {:.2} bits a weight, {} bytes", report.tensors, report.bits_per_weight, report.bytes);
    Ok(report.tensors)
}

#[allow(dead_code, reason = "a test calls `run`")]
fn main() -> Result<(), Box<dyn Error>> {
    let [source, output] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "give FOLDER and OUTPUT")?;
    run(&source, &output).map(|_| ())
}
