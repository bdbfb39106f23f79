//! `nanoserve-convert SOURCE OUT.nsv`: arguments, progress, report, exit codes; and the last step, which runs the
//! model: the library does not depend on the runtime.

use anyhow::Context;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nanoserve_converter::{
    Comparison, ConvertError, Options, Progress, Report, Step, compare, convert_with, supported,
};
use nanoserve_format::{Encoding, FormatError, Golden, SectionKind, signal};
use nanoserve_runtime::diagnose::verify::Reference;
use nanoserve_runtime::engine::load::{self, Load};
use nanoserve_runtime::{RuntimeError, diagnose::selftest};
use std::error::Error;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The machine failed.
const FAILED: u8 = 1;
/// The input or the command line is wrong.
const BAD_INPUT: u8 = 2;
/// Stopped by Ctrl-C: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// Convert a Hugging Face checkpoint folder to one .nsv file.
#[derive(Parser)]
#[command(
    name = "nanoserve-convert",
    version,
    after_help = "\
Example:
  nanoserve-convert weights/demo demo.nsv
  nanoserve-run demo.nsv -p \"ROMEO:\"

  nanoserve-convert --check weights/demo demo.nsv
  nanoserve-convert --list

SOURCE holds config.json, model.safetensors (or model.safetensors.index.json and its shards) and, if the file is to run \
on text, tokenizer.json. OUT.nsv is replaced in one step; when anything goes wrong, it stays as it was. As the last step \
the new file is run, and keeps its own answers to a few tokens (golden vectors), which nanoserve-run --self-test replays.

Exit codes: 0 done, 1 the machine failed (a full disk) or --check found differences, 2 the input or the command line is \
wrong, 130 Ctrl-C."
)]
struct Args {
    /// The checkpoint folder
    #[arg(required_unless_present = "list")]
    source: Option<PathBuf>,
    /// The file to write
    #[arg(value_name = "OUT.nsv", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Print which models can be converted, and stop
    #[arg(long, conflicts_with_all = ["source", "out"])]
    list: bool,
    /// How every matrix is stored: 8.5, 16 or 32 bits a weight
    #[arg(long, value_enum, default_value_t = Dtype::Q8)]
    dtype: Dtype,
    /// Threads to use; the file is the same for any number [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Note the sources' SHA-256 too, as model hubs list it, beside BLAKE3 [one core, 1.8 GB/s where it has SHA instructions]
    #[arg(long)]
    sha256: bool,
    /// Check everything, every weight included, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write nothing: convert again in memory, and compare with the file OUT.nsv that is there, tensor by tensor
    #[arg(long, conflicts_with = "dry_run")]
    check: bool,
    /// Do not run the new file: it will hold no golden vectors
    #[arg(long)]
    no_golden: bool,
    /// Keep the answers of this reference (input_ids and logits, safetensors) in the file, beside its own
    #[arg(long, value_name = "REFERENCE", conflicts_with_all = ["no_golden", "check"])]
    golden: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the summary, or the list, as one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The checkpoint folder; none with `--list`.
    fn source(&self) -> &Path {
        self.source.as_deref().unwrap_or(Path::new(""))
    }

    /// The file to write; none with `--list`.
    fn out(&self) -> &Path {
        self.out.as_deref().unwrap_or(Path::new(""))
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    Q8,
    F16,
    F32,
}

impl From<Dtype> for Encoding {
    fn from(dtype: Dtype) -> Encoding {
        match dtype {
            Dtype::Q8 => Encoding::Q8,
            Dtype::F16 => Encoding::F16,
            Dtype::F32 => Encoding::F32,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    signal::install(&format!(
        "error: {}: bytes of a mapped file are gone (SIGBUS): was it truncated or overwritten while it was in use, or did \
         its disk fail? Nothing was written",
        args.source().display()
    ));
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            match error.downcast_ref() {
                Some(ConvertError::Problems(all)) => {
                    all.iter().for_each(|problem| tell(format_args!("error: {problem}")));
                    if all.len() > 1 {
                        tell(format_args!("{} problems; nothing was written", all.len()));
                    }
                }
                // These name their cause themselves.
                Some(other) => tell(format_args!("error: {other}")),
                None => tell(format_args!("error: {error:#}")),
            }
            if let Some(ConvertError::Write(FormatError::Io { source, .. })) = error.downcast_ref()
                && let Some(hint) = hint(source.kind())
            {
                tell(format_args!("  hint: {hint}"));
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Prints to standard error. If that is closed, the message is lost.
fn tell(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What to do about a file that cannot be written.
fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("--dry-run says how much room the file takes"),
        ErrorKind::FileTooLarge => Some("a limit on the size of files is set (ulimit -f), or the file system has one"),
        _ => None,
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let reference = |e: &RuntimeError| matches!(e, RuntimeError::Reference { .. } | RuntimeError::TokenId { .. });
    match error.downcast_ref() {
        Some(ConvertError::Problems(_) | ConvertError::Compared { .. }) => BAD_INPUT,
        Some(ConvertError::LastStep(e)) if e.downcast_ref().is_some_and(reference) => BAD_INPUT,
        Some(ConvertError::Cancelled) => INTERRUPTED,
        _ if error.downcast_ref().is_some_and(reference) => BAD_INPUT,
        _ => FAILED,
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.list {
        let list = supported();
        let text = if args.json { serde_json::to_string(&list)? } else { list.to_string() };
        print(&text).context("cannot write to standard output")?;
        return Ok(ExitCode::SUCCESS);
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    ctrlc::set_handler(move || {
        // On the second Ctrl-C, do not wait for what still runs.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    })
    .context("cannot listen for Ctrl-C")?;
    let options = Options {
        source: args.source().to_path_buf(),
        output: args.out().to_path_buf(),
        recipe: Encoding::from(args.dtype).into(),
        threads: args.threads.map(usize::from),
        sha256: args.sha256,
        dry_run: args.dry_run,
    };
    let bar = Bar::new(args.quiet, args.dry_run || args.check);
    if args.check {
        let result = compare(&options, &bar, &cancel);
        bar.0.finish_and_clear();
        return compared(&result?, args);
    }
    let reference = args.golden.as_deref().map(Reference::read).transpose()?;
    let last = |path: &Path| last_step(path, args, reference.as_ref());
    let result = convert_with(&options, &bar, &cancel, if args.no_golden { None } else { Some(&last) });
    bar.0.finish_and_clear();
    let report = result?;
    if !args.quiet {
        for warning in &report.warnings {
            tell(format_args!("warning: {warning}"));
        }
    }
    match (args.json, args.quiet) {
        (true, _) => print(&json(&report)),
        (false, false) => print(&summary(&report, args)),
        (false, true) => Ok(()),
    }
    .context("the file is written, but standard output cannot be")?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that closed the pipe has read enough.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// The new file's own answers, and the reference's.
fn last_step(
    path: &Path,
    args: &Args,
    reference: Option<&Reference>,
) -> Result<Vec<(SectionKind, Golden)>, Box<dyn Error + Send + Sync>> {
    let file = load::open(path, Load::Map, false)?;
    let mut sections = vec![(SectionKind::Golden, selftest::golden(&file, args.threads.map(usize::from))?)];
    if let (Some(reference), Some(path)) = (reference, &args.golden) {
        let (ids, logits) = (&reference.input_ids, &reference.activations["logits"]);
        let vocab_size = file.spec().vocab_size;
        if ids.is_empty() || logits.len() != ids.len() * vocab_size {
            let cause = format!("its logits are not [{}, {vocab_size}], as this model's would be", ids.len());
            return Err(RuntimeError::Reference { path: path.display().to_string(), cause }.into());
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).display();
        let made_by = format!("{name}, BLAKE3 {}", blake3::hash(&std::fs::read(path)?).to_hex());
        sections.push((SectionKind::Reference, selftest::reference(made_by, ids, logits)));
    }
    Ok(sections)
}

/// Prints what a comparison found.
fn compared(comparison: &Comparison, args: &Args) -> anyhow::Result<ExitCode> {
    let Comparison { tensors, differences } = comparison;
    let text = if args.json {
        let differences = differences.iter().map(|d| serde_json::json!({"what": d.what, "how": d.how}));
        let differences: Vec<_> = differences.collect();
        serde_json::json!({"tensors": tensors, "differences": differences}).to_string()
    } else if differences.is_empty() {
        let (out, source) = (args.out().display(), args.source().display());
        format!("{out} is what {source} becomes: {tensors} tensors and everything beside them compared")
    } else {
        let lines: Vec<String> = differences.iter().map(|d| format!("DIFFERS: {}: {}", d.what, d.how)).collect();
        lines.join("\n")
    };
    if args.json || !args.quiet || !differences.is_empty() {
        print(&text).context("cannot write to standard output")?;
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The bar on stderr; hidden if that is not a terminal.
struct Bar(ProgressBar, bool);

impl Bar {
    fn new(quiet: bool, dry_run: bool) -> Bar {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Bar(ProgressBar::with_draw_target(None, target), dry_run)
    }
}

impl Progress for Bar {
    fn begin(&self, step: Step, bytes: u64) {
        const BAR: &str =
            "{msg:10} {wide_bar} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left";
        let (message, template) = match step {
            Step::Encode if self.1 => ("checking", BAR),
            Step::Encode => ("converting", BAR),
            Step::Finish => ("finishing", "{msg:10} {spinner} {elapsed}"),
        };
        self.0.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        self.0.reset();
        self.0.set_length(bytes);
        self.0.set_message(message);
        if step == Step::Finish {
            self.0.enable_steady_tick(Duration::from_millis(100));
        }
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

fn summary(report: &Report, args: &Args) -> String {
    let Report { tensors, parameters, bytes, bits_per_weight, .. } = report;
    let verb = if args.dry_run { "would be" } else { "is" };
    let snr = report.worst_snr.as_ref().map(|w| format!("\nworst signal to noise {:.1} dB, {}", w.db, w.tensor));
    format!(
        "{} {verb} {}: {tensors} tensors, {parameters} weights, {bits_per_weight:.2} bits a weight, {:.2} s{}",
        report.file.display(),
        size(*bytes),
        report.time.as_secs_f64(),
        snr.unwrap_or_default()
    )
}

/// A file's size in decimal units.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.2} {unit}") }
}

fn json(report: &Report) -> String {
    let root = report.root.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let worst = report.worst_snr.as_ref().map(|w| serde_json::json!({"tensor": w.tensor, "db": w.db}));
    let warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "file": report.file.display().to_string(),
        "bytes": report.bytes,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "bits_per_weight": report.bits_per_weight,
        "seconds": report.time.as_secs_f64(),
        "worst_snr_db": worst,
        "root": root,
        "warnings": warnings,
    })
    .to_string()
}
