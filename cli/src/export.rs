//! `nanoserve export MODEL.nsv OUT.gguf`: a model becomes a GGUF file, for programs that read those.

use crate::console::{self, MachineFailed};
use crate::convert::Bar;
use crate::programs::Program;
use crate::trust::Damaged;
use crate::{hints, stop};
use anyhow::{Result, bail};
use clap::{Command, Parser};
use nanoserve_converter::{Exported, export};
use nanoserve_format::NsvFile;
use nanoserve_runtime::RuntimeError;
use serde_json::json;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Example:
  nanoserve-export model.nsv model.gguf

No value of a weight changes: f32, f16 and q8 become F32, F16 and Q8_0; q4_0, q4_1, q5_0, q5_1 and iq4_nl the types that they \
came from. Other encodings, and models that no architecture of GGUF files describes, are refused by name. What the metadata says is \
read again and compared with the model before anything is written. MODEL's bytes are checked first. OUT is replaced in one step; one \
that is no GGUF file only with --force.

Exit codes: 0 done; 1 the machine failed (a full disk), or the model is damaged; 2 the input or the command line is wrong; \
130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.";

/// Write a model as a GGUF file, for llama.cpp and its like.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-export", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The model file
    model: PathBuf,
    /// The GGUF file to write
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,
    /// Replace OUT.gguf even where it is no GGUF file
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
    let cancel = stop::listen(|| {})?;
    let model = NsvFile::open(&a.model).map_err(RuntimeError::from).map_err(console::in_file(&a.model))?;
    let damage = model.check();
    if !damage.is_empty() {
        bail!(Damaged::new(&a.model, damage));
    }
    let bar = Bar::new(a.quiet, false);
    let result = export(&model, &a.output, a.force, &bar, &cancel);
    bar.clear();
    let exported = result?;
    if !a.quiet {
        for warning in &exported.warnings {
            console::tell(format_args!("warning: {}", hints::warning(warning)));
        }
    }
    match std::io::stdout().write_all(said(a, &exported).as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(MachineFailed(format!("the file is written, but standard output cannot be: {e}")).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What to print when it is done.
fn said(a: &Arguments, exported: &Exported) -> String {
    let Exported { file, bytes, architecture, types, .. } = exported;
    if a.json {
        let warnings: Vec<String> = exported.warnings.iter().map(hints::warning).collect();
        let object = json!({
            "file": file, "bytes": bytes, "architecture": architecture, "types": types, "warnings": warnings,
        });
        return console::json(&object) + "\n";
    }
    if a.quiet {
        return String::new();
    }
    let types: Vec<String> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let size = console::size(*bytes);
    format!("{} is {size}: architecture {architecture}, tensors: {}\n", file.display(), types.join(", "))
}
