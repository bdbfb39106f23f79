//! Compares a model with a reference, component by component.

use anyhow::Result;
use clap::Parser;
use nanoserve_runtime::verify::{Reference, Report, compare, dump};
use nanoserve_runtime::{Engine, EngineOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "../cli.rs"]
mod cli;

const EXAMPLES: &str = "\
Examples:
  nanoserve-verify model.nsv reference.safetensors
  nanoserve-verify model.nsv reference.safetensors --dump ours.safetensors --json

The reference holds input_ids (I64 [T]), logits (F32 [T, vocab]) and, optionally, greedy_ids (I64) and activations by
name: embed, layers.N.attn_norm, .attn.q, .attn.k, .attn.v, .attn.out, .mlp_norm, .mlp.out, .out, final_norm.
The first FAIL is the component to look at. A model in f16 or q8 differs by its rounding: read its KL and top-1.
Exit codes: 0 all within tolerance; 1 not; 2 the input or the command line is wrong.";

/// Compare a .nsv model's activations with a reference's.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-verify", version, after_help = EXAMPLES)]
struct Arguments {
    /// The model file
    model: PathBuf,
    /// The reference, a safetensors file
    reference: PathBuf,
    /// Write our own activations, by the same names
    #[arg(long, value_name = "OUT")]
    dump: Option<PathBuf>,
    /// Absolute difference allowed
    #[arg(long, default_value_t = 1e-5, value_name = "X")]
    atol: f64,
    /// Difference allowed relative to the reference's value, added to --atol
    #[arg(long, default_value_t = 1e-5, value_name = "X")]
    rtol: f64,
    #[command(flatten)]
    machine: cli::Machine,
    /// Print nothing but the last line
    #[arg(short, long)]
    quiet: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::begin(&arguments.model);
    cli::exit(run(&arguments))
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let reference = Reference::read(&a.reference)?;
    let mut engine = Engine::open(&a.model, &EngineOptions::try_from(&a.machine)?).map_err(cli::in_file(&a.model))?;
    let kv_type = a.machine.how.kv_type(engine.file());
    let (report, ours) = compare(&mut engine, &reference, kv_type, a.atol, a.rtol)?;
    if let Some(path) = &a.dump {
        dump(path, &reference.input_ids, report.greedy_ids.as_deref(), &ours)?;
    }
    let text = if a.json { format!("{}\n", json(&reference, &report)) } else { table(a, &reference, &report) };
    if let Err(e) = std::io::stdout().write_all(text.as_bytes()) {
        return cli::broken_pipe(e);
    }
    Ok(if report.pass() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn verdict(pass: bool) -> &'static str {
    if pass { "PASS" } else { "FAIL" }
}

fn table(a: &Arguments, reference: &Reference, report: &Report) -> String {
    let mut out = String::new();
    if !a.quiet {
        let width = report.rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(9);
        out += &format!("{:<width$}  {:>9}  {:>9}\n", "component", "max abs", "max rel");
        for r in &report.rows {
            out += &format!("{:<width$}  {:>9.2e}  {:>9.2e}  {}\n", r.name, r.max_abs, r.max_rel, verdict(r.pass));
        }
        if let (Some(expected), Some(got)) = (&reference.greedy_ids, &report.greedy_ids) {
            let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
            let row = format!("{same} of {} equal", expected.len());
            out += &format!("{:<width$}  {row:>20}  {}\n", "greedy", verdict(report.greedy_pass));
        }
        out += &format!(
            "KL to the reference: mean {:.3e}, largest {:.3e} nats; top-1 agreement {:.2} %\n",
            report.kl_mean,
            report.kl_max,
            100.0 * report.top1
        );
    }
    let first = report.rows.iter().find(|r| !r.pass).map(|r| r.name.as_str());
    match first.or((!report.greedy_pass).then_some("greedy")) {
        None => out += &format!("PASS: every component within {:e} + {:e} x |reference|\n", a.atol, a.rtol),
        Some(name) => out += &format!("FAIL: look at {name} first\n"),
    }
    out
}

fn json(reference: &Reference, report: &Report) -> serde_json::Value {
    let rows = report
        .rows
        .iter()
        .map(|r| serde_json::json!({"name": r.name, "max_abs": r.max_abs, "max_rel": r.max_rel, "pass": r.pass}));
    serde_json::json!({
        "pass": report.pass(),
        "prompt": reference.input_ids,
        "greedy": {"expected": reference.greedy_ids, "got": report.greedy_ids, "pass": report.greedy_pass},
        "components": rows.collect::<Vec<_>>(),
        "kl_mean": report.kl_mean,
        "kl_max": report.kl_max,
        "top1": report.top1,
    })
}
