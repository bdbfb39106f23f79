//! Compares a model with a reference, component by component.

use crate::programs::Program;
use crate::{console, machine, stop};
use anyhow::{Result, bail};
use clap::{Command, Parser};
use nanoserve_format::Foreign;
use nanoserve_runtime::cpu::isa::{self, Kernels};
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cpu::{CpuBackend, threads::default_threads};
use nanoserve_runtime::diagnose::bisect::{self, At, Finding, Judged};
use nanoserve_runtime::diagnose::rule::Tolerance;
use nanoserve_runtime::diagnose::verify::{Reference, Report, compare, dump};
use nanoserve_runtime::{EngineOptions, engine::load};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  nanoserve-verify model.nsv reference.safetensors
  nanoserve-verify model.nsv reference.safetensors --dump ours.safetensors --json
  nanoserve-verify model.nsv --bisect
  nanoserve-verify model.nsv reference.safetensors --bisect

The reference holds input_ids (I64 [T]), logits (F32 [T, vocab]) and, optionally, greedy_ids (I64) and activations by \
name: embed, layers.N.attn_norm, .attn.q, .attn.k, .attn.v, .attn.out, .mlp_norm, .mlp.out, .out, final_norm; finer: \
.attn.q_plain, .attn.k_plain (before norm and RoPE), .attn.mix, .mid, .mlp.gate, .mlp.up, .mlp.gated; where the model has \
them: .attn.q_norm, .attn.k_norm, .attn_post_norm, .mlp_post_norm. embed is scaled, logits are scaled and capped.
tests/reference/make_reference.py makes it with transformers.

What passes, in f32: a value may be off by --atol + --rtol x L, where L is the largest |reference| value of its row (one \
token). If the reference holds spread.NAME (F64 [T]: how far transformers in f32 is from f64), a value may be off by two \
spreads more, but by no more than 4 x --rtol x L more: a value that is wrong by 1e-4 of L always fails. The first FAIL is the \
component to look at. The greedy tokens must be equal.
What passes with rounded weights or an f16 cache: the answers are judged, not the components. These bounds hold for the KL to \
the reference, in nats, and for the positions with another likeliest token, rounded up:
  f16   mean KL 5e-5, largest 1e-3, another token at 1 position in 50
  q8    mean KL 0.02, largest 0.2, another token at 1 position in 10
The components are then shown for information. If --atol or --rtol is given, the components decide for any file.

--bisect names the fault. It takes three steps and stops at the first that finds something: it checks the file's own hashes; \
it compares the kernels of this machine (with --isa, of that set alone) with the plain ones, bit for bit; and, if there is a \
reference, it compares each component on the reference's inputs, by the rule for f32 with own_spread.NAME, plus what \
rounding the weights explains.
Exit codes: 0 passed; 1 not; 2 the input or the command line is wrong.";

/// Compare a .nsv model's activations with a reference's.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-verify", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The model file
    model: PathBuf,
    /// The reference, a safetensors file
    #[arg(required_unless_present = "bisect")]
    reference: Option<PathBuf>,
    /// Name the first thing that differs: bytes of the file, a kernel, a tensor or a number of the model
    #[arg(long, conflicts_with = "dump")]
    bisect: bool,
    /// Write our own activations, by the same names
    #[arg(long, value_name = "OUT")]
    dump: Option<PathBuf>,
    /// Absolute difference allowed [default: 1e-5; on a GPU 1e-4]
    #[arg(long, value_name = "X")]
    atol: Option<f64>,
    /// Difference allowed relative to the row's largest |reference| value, added to --atol [default: 1e-5; on a GPU 1e-4]
    #[arg(long, value_name = "X")]
    rtol: Option<f64>,
    #[command(flatten)]
    machine: machine::Machine,
    /// Print nothing but the last line
    #[arg(short, long)]
    quiet: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// The allowed difference. A GPU has a larger default, because it adds in another order.
    fn tolerance(&self, on_gpu: bool) -> Tolerance {
        let usual = if on_gpu { 1e-4 } else { 1e-5 };
        Tolerance { atol: self.atol.unwrap_or(usual), rtol: self.rtol.unwrap_or(usual) }
    }
}

impl Program for Arguments {
    fn start(self, _: &mut Command) -> ExitCode {
        console::begin(&self.model);
        console::exit(run(&self))
    }
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let reference = a.reference.as_deref().map(Reference::read).transpose()?;
    let (text, pass) = match reference {
        Some(reference) if !a.bisect => verify(a, &reference)?,
        reference => search(a, reference.as_ref())?,
    };
    console::print(text, pass)
}

/// Compares every component with the reference. Returns the text to print, and whether everything passed.
fn verify(a: &Arguments, reference: &Reference) -> Result<(String, bool)> {
    let mut engine = a.machine.place.open(&a.model, &EngineOptions::try_from(&a.machine)?)?;
    let kv_type = a.machine.how.kv_type(engine.file());
    let tolerance = a.tolerance(engine.backend().on_gpu().is_some());
    let (mut report, ours) = compare(&mut engine, reference, kv_type, tolerance)?;
    if a.atol.is_some() || a.rtol.is_some() {
        report.bounds = None;
    }
    if let Some(path) = &a.dump {
        stop::end_at_once(|| {})?;
        dump(path, &reference.input_ids, report.greedy_ids.as_deref(), &ours)?;
    }
    let text = if a.json {
        console::json(&json(reference, &report, &machine::device_name(&engine))) + "\n"
    } else {
        let encodings = engine.file().layout().encodings().to_string();
        table(a, reference, &report, tolerance, &format!("{encodings}, cache {}", kv_type.name()))
    };
    Ok((text, report.pass()))
}

/// Runs the stages of `--bisect`, up to the first that finds something. Returns the same as [`verify`].
fn search(a: &Arguments, reference: Option<&Reference>) -> Result<(String, bool)> {
    let options = EngineOptions::try_from(&a.machine)?;
    if a.machine.place.device != machine::Device::Cpu {
        bail!("--bisect looks at the CPU's kernels: leave --device away");
    }
    let in_file = console::in_file(&a.model);
    let file = load::open(&a.model, options.load, options.lock).map_err(&in_file)?;
    let mut stages =
        vec![Stage { name: "file", looked: "every byte against its hash".into(), found: bisect::damage(&file) }];
    if stages[0].found.is_empty() {
        let fastest = isa::choose(options.isa.as_deref())?;
        let mut paths: Vec<&Kernels> = if options.isa.is_some() { vec![fastest] } else { isa::available() };
        paths.retain(|k| k.name != "scalar");
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(default_threads))?);
        let ids = reference.map_or_else(|| bisect::some_ids(file.spec()), |r| r.input_ids.clone());
        let kv_type = a.machine.how.kv_type(&file);
        let found = bisect::kernels(&file, &pool, &paths, kv_type, &ids).map_err(&in_file)?;
        let names: Vec<&str> = paths.iter().map(|k| k.name).collect();
        let looked = match names.join(", ").as_str() {
            "" => "scalar alone: it is what others are compared with".to_string(),
            names => format!("{names} against scalar, {} positions, cache {}", ids.len(), kv_type.name()),
        };
        let sound = found.is_empty();
        stages.push(Stage { name: "kernels", looked, found });
        if let Some(reference) = reference.filter(|_| sound) {
            let tolerance = a.tolerance(false);
            let judged = bisect::reference(&file, CpuBackend::new(fastest, pool), reference, tolerance)?;
            let Judged { findings: found, compared, skipped } = judged;
            let looked = match skipped.as_slice() {
                [] => format!("{compared} components"),
                [first, ..] => format!(
                    "{compared} components, not {} whose rounded inputs it does not have, such as {first}",
                    skipped.len()
                ),
            };
            stages.push(Stage { name: "reference", looked, found });
        }
    }
    let last = stages.last().expect("the file is always looked at");
    Ok((if a.json { stages_json(&stages) } else { stages_text(a, &stages) }, last.found.is_empty()))
}

/// A stage of `--bisect`.
struct Stage {
    name: &'static str,
    /// What was examined, in words.
    looked: String,
    found: Vec<Finding>,
}

fn stages_text(a: &Arguments, stages: &[Stage]) -> String {
    let mut out = String::new();
    for stage in stages.iter().filter(|_| !a.quiet) {
        out += &format!("{:<10} {}  {}\n", stage.name, verdict(stage.found.is_empty()), stage.looked);
        for Finding { component, blame, at, path, what } in &stage.found {
            let at = at.map_or(String::new(), |At { position, row }| format!(", position {position}, row {row}"));
            let path = path.as_ref().map_or(String::new(), |path| format!(" ({path})"));
            let found = format!("{component}{at}{path}: {blame}: {what}");
            out += &format!("  {}\n", Foreign(&found));
        }
    }
    out += &match stages.last().and_then(|stage| stage.found.first()) {
        None => "PASS: nothing differs\n".to_string(),
        Some(first) => format!("FAIL: {}, first seen in {}\n", Foreign(&first.blame), Foreign(&first.component)),
    };
    out
}

fn stages_json(stages: &[Stage]) -> String {
    let finding = |f: &Finding| {
        serde_json::json!({
            "component": f.component, "blame": f.blame, "path": f.path, "what": f.what,
            "position": f.at.map(|at| at.position), "row": f.at.map(|at| at.row),
        })
    };
    let rows = stages.iter().map(|s| {
        let found: Vec<_> = s.found.iter().map(finding).collect();
        serde_json::json!({"stage": s.name, "pass": s.found.is_empty(), "looked": s.looked, "findings": found})
    });
    let first = stages.last().and_then(|stage| stage.found.first());
    let report = serde_json::json!({
        "pass": first.is_none(),
        "blame": first.map(|f| &f.blame),
        "component": first.map(|f| &f.component),
        "stages": rows.collect::<Vec<_>>(),
    });
    console::json(&report) + "\n"
}

fn verdict(pass: bool) -> &'static str {
    if pass { "PASS" } else { "FAIL" }
}

/// The report for people. `what` names the encodings and the cache.
fn table(a: &Arguments, reference: &Reference, report: &Report, tolerance: Tolerance, what: &str) -> String {
    let mut out = String::new();
    // Where the answers decide, a component's verdict would only mislead.
    let verdict = |pass: bool| if report.bounds.is_some() { "" } else { verdict(pass) };
    if !a.quiet {
        let width = report.rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(9);
        out += &format!("{:<width$}  {:>9}  {:>9}\n", "component", "max abs", "max rel");
        for r in &report.rows {
            let row = format!(
                "{:<width$}  {:>9.2e}  {:>9.2e}  {}",
                Foreign(&r.name).to_string(),
                r.max_abs,
                r.max_rel,
                verdict(r.pass)
            );
            out += &format!("{}\n", row.trim_end());
        }
        if let (Some(expected), Some(got)) = (&reference.greedy_ids, &report.greedy_ids) {
            let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
            let row = format!("{same} of {} equal", expected.len());
            let row = format!("{:<width$}  {row:>20}  {}", "greedy", verdict(report.greedy_pass));
            out += &format!("{}\n", row.trim_end());
        }
        out += &format!(
            "KL to the reference: mean {:.3e}, largest {:.3e} nats; top-1 agreement {:.2} %\n",
            report.kl_mean,
            report.kl_max,
            100.0 * report.top1
        );
    }
    let first = report.rows.iter().find(|r| !r.pass).map(|r| r.name.as_str());
    out += &match (&report.bounds, first.or((!report.greedy_pass).then_some("greedy"))) {
        (Some(bounds), _) => match bounds.exceeded(report) {
            None => format!("PASS: within the bounds for {what}: {bounds}\n"),
            Some(exceeded) => format!("FAIL: for {what}, {exceeded}\n"),
        },
        (None, Some(name)) => format!("FAIL: look at {} first\n", Foreign(name)),
        (None, None) => {
            let Tolerance { atol, rtol } = tolerance;
            let spread = if reference.spread.is_empty() { "" } else { ", widened by the reference's own spread" };
            format!("PASS: every component within {atol:e} + {rtol:e} x its row's largest |reference|{spread}\n")
        }
    };
    out
}

fn json(reference: &Reference, report: &Report, device: &str) -> serde_json::Value {
    let rows = report
        .rows
        .iter()
        .map(|r| serde_json::json!({"name": r.name, "max_abs": r.max_abs, "max_rel": r.max_rel, "pass": r.pass}));
    let bounds = report.bounds.map(|b| {
        let other_top = b.other_top(report.positions);
        serde_json::json!({"kl_mean": b.kl_mean, "kl_max": b.kl_max, "other_top": other_top})
    });
    serde_json::json!({
        "pass": report.pass(),
        "judged_by": if bounds.is_some() { "answers" } else { "components" },
        "bounds": bounds,
        "device": device,
        "prompt": reference.input_ids,
        "greedy": {"expected": reference.greedy_ids, "got": report.greedy_ids, "pass": report.greedy_pass},
        "components": rows.collect::<Vec<_>>(),
        "kl_mean": report.kl_mean,
        "kl_max": report.kl_max,
        "top1": report.top1,
        "other_top": report.other_top,
    })
}
