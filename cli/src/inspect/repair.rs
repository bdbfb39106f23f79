//! Repairs a damaged file.

use super::damage_lines;
use crate::{console, stop};
use anyhow::Result;
use clap::Args;
use nanoserve_format::{RepairError, Repaired, hex, repair};
use nanoserve_runtime::RuntimeError;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a damaged model file whole from a copy of it
///
/// Only what differs from its hash is taken from the copy, in chunks of 1 MiB, and only where the copy's is right: two
/// copies that are damaged in different places make one good one. The file is replaced in one step.
#[derive(Debug, Args)]
pub struct Repair {
    /// The damaged file
    bad: PathBuf,
    /// A copy of it
    #[arg(long, value_name = "GOOD")]
    from: PathBuf,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Repair) -> Result<ExitCode> {
    console::begin(&a.bad);
    stop::end_at_once(|| {})?;
    let Repaired { taken, parts, root } = match repair(&a.bad, &a.from) {
        Ok(repaired) => repaired,
        Err(RepairError::Format(e)) => return Err(RuntimeError::from(e).into()),
        Err(e) => return Err(e.into()),
    };
    let (count, bad) = (taken.len(), a.bad.display());
    let text = match (a.json, a.quiet) {
        (true, _) => {
            let list = taken.iter().map(|d| json!({"what": d.what, "start": d.range.start, "end": d.range.end}));
            let list: Vec<_> = list.collect();
            console::json(&json!({"file": a.bad, "root": hex(&root), "parts": parts, "taken": list})) + "\n"
        }
        (false, true) => String::new(),
        (false, false) if count == 0 => format!("{bad} is whole: nothing was written\n"),
        (false, false) => {
            let was = damage_lines(&taken).replace("DAMAGED: ", "taken: ");
            format!("{was}{bad} is whole again: {count} of {parts} parts taken from {}\n", a.from.display())
        }
    };
    console::print(&text, true)
}
