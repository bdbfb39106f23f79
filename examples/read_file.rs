//! A .nsv file without the runtime: its description, its tensors, and a row of weights.
//!
//!     cargo run --release --example read_file -- model.nsv

use nanoserve_format::{NsvFile, Shape, panel};
use std::error::Error;

/// Prints what a file holds; the first values of the embedding's first row.
pub fn run(model: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let file = NsvFile::open(model)?;
    let (spec, layout) = (file.spec(), file.layout());
    println!("{} layers of {}, {} tokens", spec.n_layers, spec.hidden_size, spec.vocab_size);
    for tensor in &layout.tensors {
        println!("{:32} {:>14} {} {:?}", tensor.name, tensor.shape.to_string(), tensor.encoding, tensor.range);
    }
    let embed = layout.tensor("embed.weight").ok_or("there is no embedding")?;
    let Shape::Matrix(_, cols) = embed.shape else { return Err("the embedding is no matrix".into()) };
    let mut row = vec![0.0; cols];
    panel::unpack_rows(embed.encoding, cols, &file.bytes()[embed.range.clone()], 0, &mut row);
    row.truncate(4);
    println!("embed.weight[0] begins {row:?}");
    Ok(row)
}

#[allow(dead_code, reason = "a test calls `run`")]
fn main() -> Result<(), Box<dyn Error>> {
    run(&std::env::args().nth(1).ok_or("give MODEL")?).map(|_| ())
}
