//! `--perplexity`: how well a model predicts a text.

use super::Arguments;
use crate::{console, machine, sandbox, values};
use anyhow::Result;
use clap::Args;
use nanoserve_runtime::RuntimeError;
use nanoserve_runtime::backend::DEFAULT_CHUNK;
use nanoserve_runtime::diagnose::perplexity::base::{Base, BaseWriter};
use nanoserve_runtime::diagnose::perplexity::divergence::Divergence;
use nanoserve_runtime::diagnose::perplexity::{Perplexity, Text, perplexity};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tokens of a window, unless --ctx says otherwise.
const DEFAULT_WINDOW: usize = 512;

/// More about scoring a text.
#[derive(Debug, Args)]
#[command(next_help_heading = "With --perplexity")]
pub struct Score {
    /// Score the first N windows only
    #[arg(long, value_name = "N", requires = "perplexity", value_parser = values::positive)]
    chunks: Option<usize>,
    /// Keep the model's probabilities for the text in FILE: for each scored token, 2 bytes for each token of the vocabulary
    #[arg(long, value_name = "FILE", requires = "perplexity")]
    kl_base: Option<PathBuf>,
    /// Compare with the file of --kl-base, which another model with the same vocabulary wrote for the same text
    #[arg(long, requires = "kl_base")]
    kl_divergence: bool,
}

impl Score {
    /// The folder that the file of probabilities will be written in, if it is written.
    pub fn written(&self) -> Option<PathBuf> {
        let path = self.kl_base.as_ref().filter(|_| !self.kl_divergence)?;
        sandbox::folder_of(path)
    }
}

/// What is done with each row of logits.
enum Rows {
    /// Nothing.
    Pass,
    /// They are kept.
    Keep(Box<BaseWriter>),
    /// They are compared.
    Compare(Box<Base>, Divergence),
}

/// Scores a text, and prints a row with its perplexity.
pub fn run(engine: &mut machine::Engine, a: &Arguments, text: &str, interrupted: &AtomicBool) -> Result<ExitCode> {
    let tokenizer = engine.tokenizer()?;
    let tokens = tokenizer.encode(text, true).map_err(RuntimeError::from)?;
    // Every row of logits is kept until its step ends, so the CPU's chunk is the default on every device.
    let chunk = a.chunk.unwrap_or(DEFAULT_CHUNK);
    let (most, vocab_size) = (engine.file().spec().context_length, engine.file().spec().vocab_size);
    let ctx = match a.ctx {
        Some(0) => most,
        Some(ctx) => ctx,
        None => DEFAULT_WINDOW.min(most),
    };
    // The token that every prompt begins with, if there is exactly one.
    let bos = match tokenizer.encode("", true).map_err(RuntimeError::from)?[..] {
        [bos] => Some(bos),
        _ => None,
    };
    let mut text = Text { tokens: &tokens, ctx, bos, most: a.score.chunks };
    let mut count = text.windows()?;
    let mut rows = match &a.score.kl_base {
        None => Rows::Pass,
        Some(path) if a.score.kl_divergence => {
            let base = Base::open(path, vocab_size)?;
            count = count.min(base.windows);
            text.most = Some(count);
            base.check(&text, count)?;
            Rows::Compare(Box::new(base), Divergence::default())
        }
        Some(path) => {
            Rows::Keep(Box::new(BaseWriter::begin(path, &text, count, vocab_size, &engine.file().layout().root)?))
        }
    };
    let kv_type = a.machine.how.kv_type(engine.file());
    let encodings = engine.file().layout().encodings().to_string();
    let mut session = engine.session(ctx, kv_type)?;
    let device = machine::device_name(session.engine());
    let start = Instant::now();
    let speed = |p: &Perplexity| (p.windows * ctx) as f64 / start.elapsed().as_secs_f64();
    let mut on_row = |logits: &[f32], next: u32| match &mut rows {
        Rows::Pass => Ok(()),
        Rows::Keep(writer) => writer.push(logits),
        Rows::Compare(base, all) => {
            all.add(&base.next_row()?, logits, next);
            Ok(())
        }
    };
    let done = perplexity(&mut session, &text, chunk, &mut on_row, &mut |p| {
        if !a.quiet {
            let (windows, value, speed) = (p.windows, p.value(), speed(p));
            console::tell(format_args!("window {windows} of {count}: perplexity {value:.4}, {speed:.1} tok/s"));
        }
        !interrupted.load(Ordering::SeqCst)
    })?;
    let compared = match rows {
        // What was interrupted is not whole: nothing is left.
        Rows::Keep(writer) if done.windows == count => writer.finish().map(|()| None)?,
        Rows::Compare(_, all) => Some(all),
        _ => None,
    };
    let (value, error, speed) = (done.value(), done.error(), speed(&done));
    let mut out = std::io::stdout().lock();
    let written = if a.json {
        let mut object = json!({
            "model": a.model,
            "encoding": encodings,
            "kv": kv_type.name(),
            "device": device,
            "sandbox": sandbox::held().name(),
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
        if let Some(all) = &compared {
            object["divergence"] = divergence_json(all);
        }
        writeln!(out, "{}", console::json(&object))
    } else {
        // A row of a table, so that runs of several models together print a table.
        let (model, encodings, kv) = (a.model.display(), encodings, kv_type.name());
        writeln!(
            out,
            "| {model} | {encodings} | kv {kv} | perplexity {value:.4} | +- {error:.4} | {} tokens in {} windows of {ctx} | \
             {speed:.1} tok/s |",
            done.scored, done.windows,
        )
        .and_then(|()| compared.iter().try_for_each(|all| out.write_all(divergence(all).as_bytes())))
        // As llama-perplexity ends, so that scripts find it; -q leaves the row alone.
        .and_then(|()| if a.quiet { Ok(()) } else { writeln!(out, "Final estimate: PPL = {value:.4} +/- {error:.5}") })
    };
    if let Err(e) = written {
        return console::broken_pipe(e);
    }
    Ok(if interrupted.load(Ordering::SeqCst) { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Shares of the tokens at which the divergence is shown, and their names.
const SHARES: [(&str, f64); 6] =
    [("Maximum", 1.0), ("99.9%", 0.999), ("99.0%", 0.99), ("95.0%", 0.95), ("90.0%", 0.9), ("Median", 0.5)];

/// A comparison for a person.
fn divergence(all: &Divergence) -> String {
    let [mean, ratio, delta, top] = [all.mean(), all.log_ratio(), all.delta(), all.same_top()];
    let mut text = format!("Mean    KLD: {:10.6} +/- {:.6}\n", mean.value, mean.error);
    for ((name, _), value) in SHARES.iter().zip(all.percentiles(SHARES.map(|(_, share)| share))) {
        text += &format!("{name:<7} KLD: {value:10.6}\n");
    }
    text += &format!("Mean ln(PPL(model)/PPL(base)): {:.6} +/- {:.6}\n", ratio.value, ratio.error);
    let (percent, rms) = (100.0, 100.0 * all.delta_rms());
    text += &format!("Mean delta p: {:.3} +/- {:.3} %, RMS {rms:.3} %\n", percent * delta.value, percent * delta.error);
    text + &format!("Same top p: {:.3} +/- {:.3} %\n", percent * top.value, percent * top.error)
}

/// A comparison for a program.
fn divergence_json(all: &Divergence) -> serde_json::Value {
    let mean = |m: nanoserve_runtime::diagnose::perplexity::divergence::Mean| json!({"mean": m.value, "standard_error": m.error});
    let [maximum, p999, p99, p95, p90, median] = all.percentiles(SHARES.map(|(_, share)| share));
    json!({
        "kld": mean(all.mean()),
        "kld_maximum": maximum, "kld_99.9": p999, "kld_99": p99, "kld_95": p95, "kld_90": p90, "kld_median": median,
        "log_ratio": mean(all.log_ratio()),
        "delta_p": mean(all.delta()),
        "delta_p_rms": all.delta_rms(),
        "same_top": mean(all.same_top()),
    })
}
