//! `nanoserve convert SOURCE OUT.nsv`: a checkpoint folder, or a GGUF file, becomes one file.

mod bar;
mod golden;
mod told;

use crate::console::{self, MachineFailed};
use crate::hub::Checkpoint;
use crate::programs::Program;
use crate::{hints, stop, values};
use anyhow::Result;
pub use bar::Bar;
use clap::{Command, Parser};
use nanoserve_converter::{Dtype, Options, Report, compare, convert_with, is_gguf, supported};
use nanoserve_format::{Encoding, signal};
use nanoserve_runtime::diagnose::verify::Reference;
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

/// Convert a Hugging Face checkpoint folder, or a GGUF file, to one .nsv file.
#[derive(Debug, Parser)]
#[command(
    name = "nanoserve-convert",
    version,
    after_help = "\
Example:
  nanoserve-convert weights/demo demo.nsv
  nanoserve-run demo.nsv -p \"ROMEO:\"

  nanoserve-convert --check weights/demo demo.nsv
  nanoserve-convert weights/tuned tuned.nsv --leave-out 'value_model.*'
  nanoserve-convert --list
  nanoserve-convert Qwen/Qwen2.5-0.5B-Instruct qwen.nsv
  nanoserve-convert model-Q4_K_M.gguf model.nsv

A folder SOURCE holds config.json, model.safetensors (or model.safetensors.index.json and its shards) and, if the file is to run \
on text, tokenizer.json. If there is no such folder, ORG/NAME or ORG/NAME:REVISION is a model of the Hugging Face Hub. It is taken from the Hub's cache, \
or downloaded into it after a question (nanoserve pull --help). A GGUF file (of several, the first) keeps \
the values of its weights to the last bit, unless --dtype rounds them once more. OUT.nsv is replaced in one step; when anything goes \
wrong, it stays as it was; a file that is no .nsv is replaced only with --force. As the last step \
the new file is run, and keeps its own answers to a few tokens (golden vectors), which nanoserve-run --self-test replays.

Exit codes: 0 done, 1 the machine failed (a full disk) or --check found differences, 2 the input or the command line is \
wrong, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP."
)]
pub struct Arguments {
    /// The checkpoint folder, a GGUF file, or the name of a model on the Hugging Face Hub
    #[arg(required_unless_present = "list")]
    source: Option<PathBuf>,
    /// The file to write
    #[arg(value_name = "OUT.nsv", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Print which models can be converted, and stop
    #[arg(long, conflicts_with_all = ["source", "out"])]
    list: bool,
    /// How matrices are stored: q8, f16, f32, q6, q5 or q4, which take 8.5, 16, 32 and about 6.5, 5.5, 4.5 bits a weight. With
    /// q5 and q4 embedding and head are stored in q6. After a comma, ROLE=ENCODING stores the matrices of one role otherwise
    /// (embedding, q, k, v, o, gate, up, down, head): q4,down=q6,v=q6. With source every matrix keeps its values exactly, in
    /// the smallest encoding that holds them [default: q8; of a GGUF file, source]
    #[arg(long, value_name = "ENCODING[,ROLE=ENCODING]...|source", value_parser = values::dtype)]
    dtype: Option<Dtype>,
    /// Threads to use; the file is the same for any number [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Note the sources' SHA-256 too, as model hubs list it, beside BLAKE3 [one core, 1.8 GB/s where it has SHA instructions]
    #[arg(long)]
    sha256: bool,
    /// Leave out the tensors whose names match: * is any characters, ? one; may be given several times. What the
    /// model needs is then missing
    #[arg(long, value_name = "PATTERN")]
    leave_out: Vec<String>,
    /// For a GGUF file: a tokenizer.json to take in place of the tokenizer that its metadata describes
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Replace OUT.nsv even if it is a file of another kind
    #[arg(long, conflicts_with = "check")]
    force: bool,
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
    /// Do not ask before a model is downloaded
    #[arg(short, long)]
    yes: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the summary, or the list, as one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// The checkpoint folder; none with `--list`.
    fn source(&self) -> &Path {
        self.source.as_deref().unwrap_or(Path::new(""))
    }

    /// The file to write; none with `--list`.
    fn out(&self) -> &Path {
        self.out.as_deref().unwrap_or(Path::new(""))
    }
}

impl Program for Arguments {
    fn start(self, _: &mut Command) -> ExitCode {
        signal::install(&format!(
            "error: {}: bytes of a mapped file are gone (SIGBUS): was it truncated or overwritten while it was in use, or \
             did its disk fail? Nothing was written",
            self.source().display()
        ));
        console::exit(run(&self))
    }
}

fn run(args: &Arguments) -> Result<ExitCode> {
    if args.list {
        let list = supported();
        let text = if args.json { serde_json::to_string(&list)? } else { list.to_string() };
        print(&text, NO_OUTPUT)?;
        return Ok(ExitCode::SUCCESS);
    }
    let checkpoint = Checkpoint::find(args.source(), args.yes, args.quiet)?;
    let cancel = stop::listen(|| {})?;
    let options = options(args, &checkpoint.folder(args.quiet, &cancel)?);
    if args.check {
        let bar = Bar::new(args.quiet, true);
        let result = compare(&options, &bar, &cancel);
        bar.clear();
        let found = result?;
        told::comparison(&found, args).map_or(Ok(()), |text| print(&text, NO_OUTPUT))?;
        return Ok(if found.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = write(args, &options, &cancel)?;
    let text = match (args.json, args.quiet) {
        (true, _) => told::json(&report),
        (false, false) => told::summary(&report, args),
        (false, true) => return Ok(ExitCode::SUCCESS),
    };
    print(&text, "the file is written, but standard output cannot be")?;
    Ok(ExitCode::SUCCESS)
}

/// Converts into a cache, for `run`: with the usual options, and with golden vectors if `golden`. Nothing is printed to
/// standard output, which is for the answer.
///
/// # Errors
/// Those of a conversion.
pub fn into_cache(source: &Path, out: &Path, golden: bool, quiet: bool, cancel: &AtomicBool) -> Result<()> {
    let line = ["nanoserve-convert", "--"].map(OsStr::new).into_iter().chain([source.as_os_str(), out.as_os_str()]);
    let args = Arguments { quiet, no_golden: !golden, ..Arguments::try_parse_from(line)? };
    write(&args, &options(&args, source), cancel).map(|_| ())
}

fn options(args: &Arguments, source: &Path) -> Options {
    let usual = if is_gguf(source) { Dtype::Source } else { Dtype::from(Encoding::Q8) };
    let mut options = Options::new(source, args.out(), args.dtype.unwrap_or(usual));
    options.threads = args.threads.map(usize::from);
    options.sha256 = args.sha256;
    options.leave_out = args.leave_out.clone();
    options.tokenizer = args.tokenizer.clone();
    options.force = args.force;
    options.dry_run = args.dry_run;
    options
}

/// Writes the file, and tells the warnings.
fn write(args: &Arguments, options: &Options, cancel: &AtomicBool) -> Result<Report> {
    let reference = args.golden.as_deref().map(Reference::read).transpose()?;
    let last = |path: &Path| golden::last_step(path, args, reference.as_ref());
    let bar = Bar::new(args.quiet, args.dry_run);
    let result = convert_with(options, &bar, cancel, if args.no_golden { None } else { Some(&last) });
    bar.clear();
    let report = result?;
    if !args.quiet {
        for warning in &report.warnings {
            console::tell(format_args!("warning: {}", hints::warning(warning)));
        }
    }
    Ok(report)
}

const NO_OUTPUT: &str = "cannot write to standard output";

/// Prints a line. A closed pipe is no error; the report of any other failure begins with `failed`.
fn print(text: &str, failed: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(MachineFailed(format!("{failed}: {e}")).into()),
        _ => Ok(()),
    }
}
