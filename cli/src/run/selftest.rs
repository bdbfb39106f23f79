//! `--self-test`: replays the file's golden vectors on every kernel path of this machine.

use super::Arguments;
use crate::{console, machine};
use anyhow::{Result, bail};
use nanoserve_format::{Foreign, NsvFile};
use nanoserve_runtime::RuntimeError;
use nanoserve_runtime::diagnose::selftest::{self, DeviceResult, PathResult, ReferenceResult};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

/// The results of all parts of the self-test.
struct Answers {
    made_by: String,
    paths: Vec<PathResult>,
    /// The GPU's name and its results, if a GPU has layers.
    device: Option<(String, Vec<DeviceResult>)>,
    /// How many texts the tokenizer was compared with; None if the file keeps none.
    texts: Option<usize>,
    reference: Option<ReferenceResult>,
}

/// Runs the self-test, and prints a row for each path.
pub fn run(engine: &mut machine::Engine, a: &Arguments) -> Result<ExitCode> {
    let (file, threads): (Arc<NsvFile>, _) = (engine.file().clone(), a.machine.threads);
    let file = &file;
    let Some(golden) = file.golden().map_err(RuntimeError::from)? else {
        bail!(
            "the file holds no golden vectors: `nanoserve convert` makes a file with them, unless --no-golden is given"
        );
    };
    let vectors = file.tokenizer_vectors().map_err(RuntimeError::from)?;
    if vectors.is_some() {
        // Opening the tokenizer compares it with these texts.
        engine.tokenizer()?;
    }
    let device = match engine.backend().on_gpu() {
        Some(_) => Some((machine::device_name(engine), selftest::device_test(engine)?)),
        None => None,
    };
    let answers = Answers {
        device,
        made_by: golden.made_by,
        paths: selftest::self_test(file, threads, a.machine.how.isa.as_deref())?,
        texts: vectors.map(|v| v.texts.len()),
        reference: selftest::against_reference(file, threads)?,
    };
    let device_pass = answers.device.iter().all(|(_, results)| results.iter().all(DeviceResult::pass));
    let pass = device_pass && answers.paths.iter().all(|path| path.failed.is_none());
    let text = match (a.json, a.quiet) {
        (true, _) => console::json(&object(&answers, pass)) + "\n",
        (false, true) => String::new(),
        (false, false) => table(&answers, pass)?,
    };
    console::print(text, pass)
}

fn table(answers: &Answers, pass: bool) -> Result<String> {
    let mut text = format!("golden vectors of {}\n", Foreign(&answers.made_by));
    for PathResult { isa, kv, feed, positions, failed } in &answers.paths {
        let verdict = if failed.is_none() { "PASS" } else { "FAIL" };
        write!(text, "{verdict}  {isa:<8} kv {kv:<4} {feed:<15} {positions} positions")?;
        match failed {
            None => writeln!(text, ", every bit the same")?,
            Some((position, difference)) => {
                writeln!(text, ", other bits at position {position}, largest difference {difference:e}")?;
            }
        }
    }
    if let Some((name, results)) = &answers.device {
        for r in results {
            let verdict = if r.pass() { "PASS" } else { "FAIL" };
            let DeviceResult { kv, feed, positions, difference, tolerance } = r;
            writeln!(
                text,
                "{verdict}  {name:<8} kv {kv:<4} {feed:<15} {positions} positions, within {tolerance:e} of the largest logit: \
                 {difference:.1e}"
            )?;
        }
    }
    if let Some(texts) = answers.texts {
        writeln!(text, "PASS  tokenizer: {texts} texts as the one it was made from")?;
    }
    if let Some(r) = &answers.reference {
        writeln!(
            text,
            "reference {}: same first token at {} of {} positions, largest difference {:.2e}",
            Foreign(&r.made_by),
            r.same_first,
            r.positions,
            r.max_abs
        )?;
    }
    if !pass {
        writeln!(
            text,
            "this machine computes something else than the one that made the file: nanoserve-verify --bisect"
        )?;
    }
    Ok(text)
}

fn object(answers: &Answers, pass: bool) -> Value {
    let path = |p: &PathResult| {
        json!({
            "isa": p.isa,
            "kv": p.kv,
            "feed": p.feed.to_string(),
            "positions": p.positions,
            "pass": p.failed.is_none(),
            "position": p.failed.map(|f| f.0),
            "max_abs": p.failed.map(|f| f.1),
        })
    };
    let reference = answers.reference.as_ref().map(
        |r| json!({"made_by": r.made_by, "positions": r.positions, "same_first": r.same_first, "max_abs": r.max_abs}),
    );
    json!({
        "made_by": answers.made_by,
        "paths": answers.paths.iter().map(path).collect::<Vec<_>>(),
        "device": answers.device.as_ref().map(|(name, results)| json!({
            "name": name,
            "paths": results.iter().map(|r| json!({
                "kv": r.kv, "feed": r.feed.to_string(), "positions": r.positions, "difference": r.difference,
                "tolerance": r.tolerance, "pass": r.pass(),
            })).collect::<Vec<_>>(),
        })),
        "tokenizer_texts": answers.texts,
        "reference": reference,
        "pass": pass,
    })
}
