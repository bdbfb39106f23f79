//! Shows what a file holds, and checks every byte of it.

use anyhow::{Context, Result};
use clap::Parser;
use nanoserve_format::{NsvFile, SectionKind};
use nanoserve_runtime::RuntimeError;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[path = "../cli.rs"]
#[allow(dead_code, reason = "this program runs no model")]
mod cli;

const EXAMPLES: &str = "\
Examples:
  nanoserve-inspect model.nsv
  nanoserve-inspect model.nsv --tensors
  nanoserve-inspect model.nsv --check && echo intact

Exit codes: 0 done; 1 --check found damage; 2 the input or the command line is wrong.";

/// Show what a .nsv file holds.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-inspect", version, after_help = EXAMPLES)]
struct Arguments {
    /// The model file
    model: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Read every byte and compare it with the hashes in the file
    #[arg(long)]
    check: bool,
    /// Print what --check finds, nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::begin(&arguments.model);
    cli::exit(run(&arguments))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all text");
        text
    })
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let start = Instant::now();
    let file = NsvFile::open(&a.model).map_err(RuntimeError::from).map_err(cli::in_file(&a.model))?;
    let open_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let damage = a.check.then(|| file.check());
    let seconds = start.elapsed().as_secs_f64();
    let mut text = String::new();
    if a.json {
        writeln!(text, "{}", json(a, &file, open_s)?)?;
    } else if !a.quiet {
        describe(&mut text, a, &file)?;
    }
    if let Some(damage) = &damage
        && !a.json
    {
        for d in damage {
            writeln!(text, "DAMAGED: {} bytes {}..{}", d.what, d.range.start, d.range.end)?;
        }
        let gb = file.layout().file_len as f64 / 1e9;
        if damage.is_empty() && !a.quiet {
            writeln!(text, "intact: every byte checked, {gb:.3} GB in {seconds:.3} s, {:.1} GB/s", gb / seconds)?;
        }
    }
    if let Err(e) = std::io::stdout().write_all(text.as_bytes()) {
        return cli::broken_pipe(e);
    }
    Ok(if damage.is_none_or(|d| d.is_empty()) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn describe(text: &mut String, a: &Arguments, file: &NsvFile) -> Result<()> {
    let (layout, spec) = (file.layout(), file.spec());
    let (bytes, count) = (layout.weight_bytes(), layout.weight_count());
    writeln!(text, "file        {} bytes, root {}", layout.file_len, hex(&layout.root))?;
    writeln!(
        text,
        "weights     {count} in {} tensors, {bytes} bytes, {:.2} bits each, matrices {}",
        layout.tensors.len(),
        8.0 * bytes as f64 / count as f64,
        layout.tensors[0].encoding
    )?;
    writeln!(
        text,
        "model       {} layers, hidden {}, intermediate {}, heads {} (kv {}) of {}, vocabulary {}, context {}",
        spec.n_layers,
        spec.hidden_size,
        spec.intermediate_size,
        spec.n_heads,
        spec.n_kv_heads,
        spec.head_dim,
        spec.vocab_size,
        spec.context_length
    )?;
    writeln!(text, "switches    {}", serde_json::to_string(spec).context("a spec is plain data")?)?;
    for s in &layout.sections {
        let name = SectionKind::from_code(s.code).map_or(format!("unknown kind {}", s.code), |k| k.to_string());
        writeln!(text, "section     {name:<14} {:>10} bytes at {}", s.range.len(), s.range.start)?;
    }
    let defaults = file.generation().map_err(RuntimeError::from)?;
    writeln!(text, "generation  {}", serde_json::to_string(&defaults)?)?;
    let provenance = file.provenance().map_err(RuntimeError::from)?;
    writeln!(text, "made by     {} {}", provenance.converter, provenance.recipe)?;
    for s in &provenance.sources {
        writeln!(text, "source      {} {:>12} bytes  {}", s.blake3, s.bytes, s.name)?;
    }
    if a.tensors {
        let width = layout.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &layout.tensors {
            let place = match &t.alias_of {
                Some(target) => format!("= {target}"),
                None => format!("{:>12} bytes at {:>12}  {}", t.range.len(), t.range.start, &hex(&t.hash)[..16]),
            };
            writeln!(text, "{:<width$}  {:>4}  {:<16} {place}", t.name, t.encoding, t.shape)?;
        }
    }
    Ok(())
}

fn json(a: &Arguments, file: &NsvFile, open_s: f64) -> Result<serde_json::Value> {
    let layout = file.layout();
    let sections = layout.sections.iter().map(|s| {
        serde_json::json!({
            "kind": s.code,
            "name": SectionKind::from_code(s.code).map(|k| k.to_string()),
            "offset": s.range.start,
            "bytes": s.range.len(),
            "blake3": hex(&s.hash),
        })
    });
    let mut report = serde_json::json!({
        "file_bytes": layout.file_len,
        "root": hex(&layout.root),
        "open_s": open_s,
        "weights": layout.weight_count(),
        "weight_bytes": layout.weight_bytes(),
        "spec": file.spec(),
        "generation": file.generation().map_err(RuntimeError::from)?,
        "provenance": file.provenance().map_err(RuntimeError::from)?,
        "sections": sections.collect::<Vec<_>>(),
    });
    if a.tensors {
        let tensors = layout.tensors.iter().map(|t| {
            serde_json::json!({
                "name": t.name,
                "encoding": t.encoding.name(),
                "shape": t.shape.dims(),
                "offset": t.range.start,
                "bytes": t.range.len(),
                "blake3": hex(&t.hash),
                "alias_of": t.alias_of,
            })
        });
        report["tensors"] = tensors.collect();
    }
    if a.check {
        let damage = file.check().into_iter();
        report["damage"] = damage
            .map(|d| serde_json::json!({"what": d.what, "offset": d.range.start, "bytes": d.range.len()}))
            .collect();
    }
    Ok(report)
}
