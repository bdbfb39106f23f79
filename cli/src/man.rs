//! `nanoserve man`: manual pages, made from the same descriptions as `--help`.

use crate::console;
use crate::programs::{self, Program};
use anyhow::{Context, Result, bail};
use clap::{Command, Parser};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  nanoserve man run | man -l -
  nanoserve man inspect sign | man -l -
  nanoserve man --dir ~/.local/share/man/man1 && man nanoserve-run";

/// Print a manual page
#[derive(Debug, Parser)]
#[command(name = "nanoserve-man", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The command; without it, the page is about nanoserve as a whole
    #[arg(value_name = "COMMAND")]
    path: Vec<String>,
    /// Write all pages into this folder instead, and make it where it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    dir: Option<PathBuf>,
}

impl Program for Arguments {
    fn start(self, _: &mut Command) -> ExitCode {
        console::exit(match &self.dir {
            Some(dir) => write_all(dir),
            None => show(&self.path),
        })
    }
}

fn show(path: &[String]) -> Result<ExitCode> {
    let name = ["nanoserve".to_string()].iter().chain(path).cloned().collect::<Vec<_>>().join("-");
    let all = pages();
    let Some((_, text)) = all.iter().find(|(of, _)| *of == name) else {
        let names: Vec<&str> = all.iter().filter_map(|(name, _)| name.strip_prefix("nanoserve-")).collect();
        bail!("there is no page for {}, expected one of {}", path.join(" "), names.join(", ").replace('-', " "));
    };
    match std::io::stdout().write_all(text) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => console::broken_pipe(e),
    }
}

fn write_all(dir: &Path) -> Result<ExitCode> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    for (name, text) in pages() {
        let path = dir.join(name + ".1");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every page: its name without the section, such as `nanoserve-inspect-sign`, and its text.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = programs::nanoserve().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages);
    pages
}

fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
    let text = page(command.clone(), &name).expect("memory takes what is written");
    pages.push((name, text));
    command.get_subcommands().for_each(|command| add(command, pages));
}

fn page(command: Command, name: &str) -> std::io::Result<Vec<u8>> {
    let (notes, parts) = (command.get_after_help().map(ToString::to_string), command.has_subcommands());
    let source = format!("nanoserve {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).title(name.to_uppercase()).source(source);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if parts {
        man.render_subcommands_section(&mut text)?;
    }
    // The library's own notes section would join the lines of an example.
    let mut roff = Roff::new();
    roff.control("SH", ["NOTES"]);
    for line in notes.iter().flat_map(|notes| notes.lines()) {
        if line.is_empty() {
            roff.control("PP", []);
        } else if line.starts_with(' ') {
            roff.control("nf", []).text([roman(line)]).control("fi", []);
        } else {
            roff.text([roman(line)]).control("br", []);
        }
    }
    if notes.is_some_and(|notes| !notes.is_empty()) {
        roff.to_writer(&mut text)?;
    }
    Ok(text)
}
