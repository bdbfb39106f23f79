//! Shows what a file holds, checks every byte of it, repairs a damaged file, and shows or writes its signature.

use crate::console;
use crate::programs::Program;
use anyhow::Result;
use clap::{Parser, Subcommand};
use nanoserve_format::{Damage, NsvFile};
use nanoserve_runtime::RuntimeError;
use std::path::Path;
use std::process::ExitCode;

mod about;
mod keygen;
mod provenance;
mod repair;
mod show;
mod sign;
mod switches;

const EXAMPLES: &str = "\
Examples:
  nanoserve-inspect model.nsv
  nanoserve-inspect model.nsv --tensors
  nanoserve-inspect model.nsv --check && echo intact
  nanoserve-inspect model.nsv --provenance
  cd SOURCE && nanoserve-inspect ../model.nsv --provenance=b3sum | b3sum --check
  nanoserve-inspect keygen key.pem && nanoserve-inspect sign model.nsv --key key.pem
  nanoserve-inspect model.nsv --verify-key key.pub.pem --check
  nanoserve-inspect repair damaged.nsv --from copy.nsv

Exit codes: 0 done; 1 --check found damage, or --verify-key another signature or none, or repair no good copy of a part; 2 \
the input or the command line is wrong.";

/// Show what a .nsv file holds.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-inspect", version, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Option<show::Show>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sign(sign::Sign),
    Keygen(keygen::Keygen),
    Repair(repair::Repair),
}

impl Program for Arguments {
    fn start(self, _: &mut clap::Command) -> ExitCode {
        console::exit(match (&self.command, &self.show) {
            (Some(Command::Sign(sign)), _) => sign::run(sign),
            (Some(Command::Keygen(keygen)), _) => keygen::run(keygen),
            (Some(Command::Repair(repair)), _) => repair::run(repair),
            (None, Some(show)) => show::run(show),
            (None, None) => unreachable!("MODEL is required where there is no command"),
        })
    }
}

const INSIDE_EXAMPLES: &str = "\
Examples:
  nanoserve-inspect model.nsv --tensors
  nanoserve-inspect model.nsv --check && echo intact
  nanoserve-inspect model.nsv --verify-key key.pub.pem --check

Exit codes: 0 done; 1 --check found damage, or --verify-key another signature or none; 2 the input or the command line is \
wrong.";

/// Show what the model in a bundle holds; its commands that write are nanoserve's alone.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-inspect", version, about = "Show what a .nsv file holds", after_help = INSIDE_EXAMPLES)]
pub struct Inside {
    #[command(flatten)]
    show: show::Show,
}

impl Program for Inside {
    fn start(self, _: &mut clap::Command) -> ExitCode {
        console::exit(show::run(&self.show))
    }
}

fn open(path: &Path) -> Result<NsvFile> {
    NsvFile::open(path).map_err(RuntimeError::from).map_err(console::in_file(path))
}

/// One line for each part that is damaged.
fn damage_lines(damage: &[Damage]) -> String {
    let line = |d: &Damage| format!("DAMAGED: {} bytes {}..{}\n", d.what, d.range.start, d.range.end);
    damage.iter().map(line).collect()
}
