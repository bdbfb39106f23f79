//! Two sequences in one step: each gets the bits of logits that it gets alone.
//!
//!     cargo run --release --example two_sequences -- model.nsv

use nanoserve_runtime::{Engine, EngineOptions, KvType, Logits, Span, Wants};
use std::error::Error;

/// Steps two prompts together, then one of them alone; whether the bits were the same.
pub fn run(model: &str) -> Result<bool, Box<dyn Error>> {
    let mut engine = Engine::open(model, &EngineOptions::default())?;
    let bits = |logits: &Logits| match logits {
        Logits::Rows(row) => row.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        Logits::Top(_) => unreachable!("rows were asked for"),
    };
    let (mut a, mut b) = (engine.sequence(16, KvType::F16)?, engine.sequence(16, KvType::F16)?);
    // Tokens of `a` with the last one's logits, tokens of `b` for its cache alone.
    let mut spans = [Span::new(&mut a, &[1, 5, 9], Wants::Last), Span::new(&mut b, &[1, 7], Wants::Nothing)];
    let together = bits(&engine.step(&mut spans)?[0]);
    let mut spans = [Span::new(&mut b, &[4], Wants::Last), Span::new(&mut a, &[2], Wants::Last)];
    let again = bits(&engine.step(&mut spans)?[1]);
    let mut alone = engine.sequence(16, KvType::F16)?;
    let first = bits(&engine.step(&mut [Span::new(&mut alone, &[1, 5, 9], Wants::Last)])?[0]);
    let second = bits(&engine.step(&mut [Span::new(&mut alone, &[2], Wants::Last)])?[0]);
    let same = together == first && again == second;
    println!("together and alone: {}", if same { "the same bits" } else { "other bits" });
    Ok(same)
}

#[allow(dead_code, reason = "a test calls `run`")]
fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).ok_or("give MODEL")?;
    if run(&model)? { Ok(()) } else { Err("company changed a bit".into()) }
}
