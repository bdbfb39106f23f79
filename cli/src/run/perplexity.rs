//! `--perplexity`: how well a model predicts a text.

use super::Arguments;
use crate::{console, machine};
use anyhow::{Result, bail};
use nanoserve_runtime::RuntimeError;
use nanoserve_runtime::backend::DEFAULT_CHUNK;
use nanoserve_runtime::diagnose::perplexity::{Perplexity, perplexity, windows};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tokens of a window, unless --ctx says otherwise.
const DEFAULT_WINDOW: usize = 512;

/// Scores a text, and prints a row with its perplexity.
pub fn run(engine: &mut machine::Engine, a: &Arguments, text: &str, interrupted: &AtomicBool) -> Result<ExitCode> {
    let tokenizer = engine.tokenizer()?;
    let tokens = tokenizer.encode(text, true).map_err(RuntimeError::from)?;
    // Every row of logits is kept until its step ends, so the CPU's chunk is the default on every device.
    let chunk = a.chunk.unwrap_or(DEFAULT_CHUNK);
    if chunk == 0 {
        bail!("--chunk is 0, expected at least 1");
    }
    let ctx = a.ctx.unwrap_or(DEFAULT_WINDOW.min(engine.file().spec().context_length));
    let count = windows(tokens.len(), ctx)?;
    // The token that every prompt begins with, if there is exactly one.
    let bos = match tokenizer.encode("", true).map_err(RuntimeError::from)?[..] {
        [bos] => Some(bos),
        _ => None,
    };
    let kv_type = a.machine.how.kv_type(engine.file());
    let encodings = engine.file().layout().encodings().to_string();
    let mut session = engine.session(ctx, kv_type)?;
    let device = machine::device_name(session.engine());
    let start = Instant::now();
    let speed = |p: &Perplexity| (p.windows * ctx) as f64 / start.elapsed().as_secs_f64();
    let done = perplexity(&mut session, &tokens, ctx, chunk, bos, &mut |p| {
        if !a.quiet {
            let (windows, value, speed) = (p.windows, p.value(), speed(p));
            console::tell(format_args!("window {windows} of {count}: perplexity {value:.4}, {speed:.1} tok/s"));
        }
        !interrupted.load(Ordering::SeqCst)
    })?;
    let (value, error, speed) = (done.value(), done.error(), speed(&done));
    let mut out = std::io::stdout().lock();
    let written = if a.json {
        let object = serde_json::json!({
            "model": a.model,
            "encoding": encodings,
            "kv": kv_type.name(),
            "device": device,
            "perplexity": value,
            "standard_error": error,
            "nats_per_token": done.mean(),
            "tokens": tokens.len(),
            "scored": done.scored,
            "windows": done.windows,
            "ctx": ctx,
            "bos": bos,
            "tok_s": speed,
        });
        writeln!(out, "{object}")
    } else {
        // A row of a table, so that runs of several models together print a table.
        let (model, encodings, kv) = (a.model.display(), encodings, kv_type.name());
        writeln!(
            out,
            "| {model} | {encodings} | kv {kv} | perplexity {value:.4} | +- {error:.4} | {} tokens in {} windows of {ctx} | \
             {speed:.1} tok/s |",
            done.scored, done.windows,
        )
    };
    if let Err(e) = written {
        return console::broken_pipe(e);
    }
    Ok(if interrupted.load(Ordering::SeqCst) { ExitCode::from(130) } else { ExitCode::SUCCESS })
}
