//! Text from a model.
//!
//!     cargo run --release --example generate -- model.nsv "Once upon a time"

use nanoserve_runtime::{Engine, EngineOptions, GenerateOptions, KvType};
use std::error::Error;

/// Continues a prompt by 64 tokens at most. Text is printed as it is made, whole characters only.
pub fn run(model: &str, prompt: &str) -> Result<String, Box<dyn Error>> {
    let mut engine = Engine::open(model, &EngineOptions::default())?;
    let tokenizer = engine.tokenizer()?;
    let ids = tokenizer.encode(prompt, true)?;
    let mut session = engine.session(ids.len() + 64, KvType::F16)?;
    let mut options = GenerateOptions::default();
    options.max_tokens = Some(64);
    let done = session.generate(&ids, &options, Some(&tokenizer), &mut |text| {
        print!("{text}");
        true // go on
    })?;
    println!("\n{} after {} tokens, logits {}", done.stop_reason, done.ids.len(), done.logits_hash);
    Ok(done.text)
}

#[allow(dead_code, reason = "a test calls `run`")]
fn main() -> Result<(), Box<dyn Error>> {
    let [model, prompt] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "give MODEL and PROMPT")?;
    run(&model, &prompt).map(|_| ())
}
