//! The program as the beginning of a bundle: the commands that take a model, with the model inside it.

use crate::hub::Name;
use crate::programs::{ENTRIES, Entry, entry};
use crate::{bench, bundle, console, environment, inspect, llama, run, verify};
use clap::builder::{Resettable, StyledStr, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command};
use nanoserve_format::Bundle;
use nanoserve_runtime::RuntimeError;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the model's option is called here; nobody need give it.
const MODEL: &str = "model-inside";

const NO_OTHER: &str = "this program has its model inside, and takes no other: nanoserve does";

/// The commands of a bundle. The first is the one that is meant where none is named.
const INSIDE: [Entry; 5] = [
    entry::<run::Arguments>("run"),
    Entry { command: run::chat_command, ..entry::<run::Arguments>("chat") },
    entry::<inspect::Inside>("inspect"),
    entry::<verify::Arguments>("verify"),
    entry::<bench::Arguments>("bench"),
];

/// Where the running program has a model inside, its exit code when it has done what the command line asks for.
pub fn start(line: &[OsString]) -> Option<ExitCode> {
    let (path, Ok(file)) = bundle::own_file() else { return None };
    match Bundle::find(&path, &file) {
        Ok(None) => None,
        Ok(Some(_)) => Some(run_inside(line, &path)),
        Err(error) => Some(console::exit(Err(RuntimeError::from(error)).map_err(console::in_file(&path)))),
    }
}

fn run_inside(line: &[OsString], path: &Path) -> ExitCode {
    let called = line.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or("nanoserve");
    let mut words: Vec<OsString> = line.iter().skip(1).cloned().collect();
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        words.truncate(1);
        words.push("--help".into());
    }
    let named = words.first().and_then(|word| INSIDE.iter().find(|entry| word == entry.name));
    if named.is_some() {
        words.remove(0);
    }
    let entry = named.unwrap_or(&INSIDE[0]);
    if entry.name == "chat" {
        words.insert(0, "--chat".into());
    }
    let mut command = command(entry, named.is_some(), called, path);
    if let Some(other) = words.first().and_then(|word| ENTRIES.iter().find(|other| word == other.name))
        && named.is_none()
    {
        let names: Vec<&str> = INSIDE.iter().map(|entry| entry.name).collect();
        let what = format!(
            "'{}' is a command of nanoserve. {called} has its model inside, and the commands {}",
            other.name,
            names.join(", ")
        );
        command.error(ErrorKind::InvalidSubcommand, what).exit();
    }
    let words: Vec<OsString> = [OsString::from(called)].into_iter().chain(words).collect();
    let words = llama::translate(entry.name, &words, 1)
        .unwrap_or_else(|what| command.error(ErrorKind::UnknownArgument, what).exit());
    environment::tell_unknown(&environment::names());
    let mut matches = command.try_get_matches_from_mut(words).unwrap_or_else(|error| error.exit());
    (entry.start)(&mut matches, &mut command)
}

/// A command as it is called here: `talk verify`, or `talk` alone.
fn command(entry: &Entry, is_named: bool, called: &str, path: &Path) -> Command {
    let command = (entry.command)();
    let call = if is_named { format!("{called} {}", entry.name) } else { called.to_string() };
    let mut help = command.get_after_help().map(StyledStr::to_string).unwrap_or_default();
    for other in &INSIDE {
        let by = if other.name == INSIDE[0].name { called.to_string() } else { format!("{called} {}", other.name) };
        let name = format!("nanoserve-{}", other.name);
        help = help.replace(&format!("{name} model.nsv"), &by).replace(&name, &by);
    }
    // A bundle takes no other model.
    help = help.lines().filter(|line| !line.contains(" -hf ")).collect::<Vec<_>>().join("\n");
    if !is_named {
        help = format!("{}\n\n{help}", others(called));
    }
    // Clap keeps defaults for as long as it runs.
    let own: &'static OsStr = Box::leak(path.as_os_str().into());
    let inside = |model: Arg| {
        let model = model.long(MODEL).required(false).hide(true);
        model
            .default_value(own)
            .env(Resettable::Reset)
            .required_unless_present(Resettable::Reset)
            .value_parser(Inside(own.into()))
    };
    let has_hub = command.get_arguments().any(|arg| arg.get_id() == "hf");
    let no_hub = |hub: Arg| hub.hide(true).value_parser(|_: &str| Err::<Name, _>(NO_OTHER));
    let no_cache = |folder: Arg| {
        let refuse =
            |_: &str| Err::<PathBuf, _>("this program has its model inside, and converts none: nanoserve does");
        folder.hide(true).env(Resettable::Reset).value_parser(refuse)
    };
    let command = if has_hub {
        command.mut_arg("hf", no_hub).mut_arg("yes", |yes| yes.hide(true)).mut_arg("cache_dir", no_cache)
    } else {
        command
    };
    let command = command.mut_arg("model", inside).after_help(help).bin_name(&call).display_name(call);
    let command = command.version(concat!("(nanoserve ", env!("CARGO_PKG_VERSION"), ")"));
    if is_named { command } else { command.about("Continue a prompt, or talk, with the model inside this program") }
}

/// The other commands, each with a word on what it does.
fn others(called: &str) -> String {
    let row = |entry: &Entry| {
        let about = (entry.command)().get_about().map(StyledStr::to_string).unwrap_or_default();
        let about =
            about.trim_end_matches('.').replace("a .nsv model", "the model").replace("a .nsv file", "the model");
        format!("\n  {called} {:<8} {about}", entry.name)
    };
    let rows: String = INSIDE[1..].iter().map(row).collect();
    format!("Other commands; the model is inside this program, and none names it ({called} COMMAND --help):{rows}")
}

/// Takes the model that is inside, and no other.
#[derive(Clone)]
struct Inside(PathBuf);

impl TypedValueParser for Inside {
    type Value = PathBuf;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<PathBuf, clap::Error> {
        if value == self.0 {
            return Ok(self.0.clone());
        }
        Err(command.clone().error(ErrorKind::ValueValidation, NO_OTHER))
    }
}
