//! `nanoserve bundle MODEL -o OUT`: one executable of this program and a model.

use crate::console::{self, MachineFailed};
use crate::programs::Program;
use crate::stop;
use crate::trust::Damaged;
use anyhow::{Context, Result, bail};
use clap::{Command, Parser};
use nanoserve_format::{Bundle, NsvFile, bundle, hex};
use nanoserve_runtime::RuntimeError;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

const EXAMPLES: &str = "\
Examples:
  nanoserve-bundle model.nsv -o talk && ./talk -p \"Once upon a time\"
  nanoserve-bundle model.nsv -o talk --program nanoserve-aarch64-linux     for a machine of another kind

OUT is nanoserve run with the model inside, and takes the same options. OUT chat, inspect, verify and bench are the other \
commands; none takes a model. The model's bytes are checked, then copied as they are, with the signature: inspect, verify and \
--require-signer take OUT as they take the .nsv. OUT is written whole or not at all. A bundle that is there is replaced, any \
other file only with --force. Do not change OUT later, for example with strip: the model behind the program would be lost.

Exit codes: 0 done; 1 the machine failed (a full disk), or the model is damaged; 2 the input or the command line is wrong; \
130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.";

/// Make one executable of this program and a model.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-bundle", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The model file
    model: PathBuf,
    /// The executable to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The nanoserve to put before the model [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Replace OUT even where it is no bundle
    #[arg(long)]
    force: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Program for Arguments {
    fn start(self, _: &mut Command) -> ExitCode {
        console::begin(&self.model);
        console::exit(run(&self))
    }
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let stopped = stop::listen(|| {})?;
    if !a.force {
        may_be_replaced(&a.output)?;
    }
    let (program, executable) = match &a.program {
        Some(path) => (path.clone(), File::open(path)),
        None => own_file(),
    };
    let executable = executable.with_context(|| format!("{}: cannot open", program.display()))?;
    Bundle::find(&program, &executable).map_err(RuntimeError::from).map_err(console::in_file(&program))?;
    let model = NsvFile::open(&a.model).map_err(RuntimeError::from).map_err(console::in_file(&a.model))?;
    if model.bundle().is_none() {
        let damage = model.check();
        if !damage.is_empty() {
            bail!(Damaged::new(&a.model, damage));
        }
    }
    let go_on = &mut |_| !stopped.load(Ordering::Relaxed);
    let made = bundle((&program, &executable), &model, &a.output, go_on).map_err(RuntimeError::from)?;
    match std::io::stdout().write_all(said(a, &model, &made).as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(MachineFailed(format!("the file is written, but standard output cannot be: {e}")).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Refuses to replace what is no bundle.
fn may_be_replaced(out: &Path) -> Result<()> {
    let Ok(file) = File::open(out) else { return Ok(()) };
    match Bundle::find(out, &file) {
        Ok(None) if file.metadata()?.is_file() => {
            bail!("{} is there and is no bundle: --force replaces it", out.display())
        }
        // What is left of a bundle may go, and the writer refuses what is no file.
        _ => Ok(()),
    }
}

/// What to print when it is done.
fn said(a: &Arguments, model: &NsvFile, made: &Bundle) -> String {
    let bytes = std::fs::metadata(&a.output).map_or(0, |about| about.len());
    let root = hex(&model.layout().root);
    if a.json {
        let signer = model.layout().signature.map(|signature| signature.key.to_string());
        let (offset, len) = (made.offset, made.len);
        let object = json!({
            "file": a.output, "bytes": bytes, "offset": offset, "model_bytes": len, "root": root, "signer": signer,
        });
        return console::json(&object) + "\n";
    }
    if a.quiet {
        return String::new();
    }
    let folder = if a.output.components().count() > 1 { "" } else { "./" };
    format!(
        "{} is {:.2} MB: nanoserve, {:.2} MB, and {}, root {root}\nrun it:  {folder}{0} -p \"Once upon a time\"\n",
        a.output.display(),
        bytes as f64 / 1e6,
        made.offset as f64 / 1e6,
        a.model.display(),
    )
}

/// The file that runs: its path for messages, and the file itself, even where another has taken its name since.
pub fn own_file() -> (PathBuf, std::io::Result<File>) {
    let called = || std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let path = std::env::current_exe().unwrap_or_else(|_| called());
    let file = if cfg!(target_os = "linux") { File::open("/proc/self/exe") } else { File::open(&path) };
    let file = file.or_else(|_| File::open(&path));
    (path, file)
}
