//! The list of commands, and how a command line selects one.

use crate::{
    bench, bundle, completions, convert, environment, export, hints, hub, inside, inspect, llama, man, run, stop,
    verify,
};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command, Parser};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// The prefix of the programs that are one command each.
const PREFIX: &str = "nanoserve-";

/// The usual order of commands; `--help` shows it first.
const WAY: &str = "  \
  nanoserve convert FOLDER model.nsv          a checkpoint folder from a model hub becomes one file
  nanoserve run model.nsv -p \"Once upon\"      goes on with a text
  nanoserve model.nsv                         talks with you, on a terminal; so does nanoserve chat model.nsv
  nanoserve help run                          all that a command can do, with examples
  nanoserve man run | man -l -                the same as a page to keep; README.md and docs/ say why and how";

/// The arguments of a command, and what it does.
pub trait Program: Parser {
    /// Refuses options that do not go together in ways that clap cannot know.
    ///
    /// # Errors
    /// What to say of them.
    fn check(_matches: &ArgMatches, _command: &Command) -> Result<(), String> {
        Ok(())
    }

    /// Runs the command. `command` parsed the arguments; its errors name the command as the user called it.
    fn start(self, command: &mut Command) -> ExitCode;
}

/// A command of `nanoserve`.
pub struct Entry {
    /// Its name as a command; with [`PREFIX`], the name of the program that is this command alone.
    pub name: &'static str,
    /// Its arguments, under the program's name.
    pub command: fn() -> Command,
    /// Whether there is a program that is this command alone.
    pub has_program: bool,
    /// Does what its arguments say.
    pub start: fn(&mut ArgMatches, &mut Command) -> ExitCode,
}

/// All commands, in the order of `--help`.
pub const ENTRIES: [Entry; 13] = [
    entry::<convert::Arguments>("convert"),
    entry::<run::Arguments>("run"),
    Entry { command: run::chat_command, has_program: false, ..entry::<run::Arguments>(CHAT) },
    entry::<inspect::Arguments>("inspect"),
    entry::<verify::Arguments>("verify"),
    entry::<bench::Arguments>("bench"),
    Entry { has_program: false, ..entry::<export::Arguments>("export") },
    Entry { has_program: false, ..entry::<hub::Pull>("pull") },
    Entry { has_program: false, ..entry::<hub::List>("list") },
    Entry { has_program: false, ..entry::<hub::Remove>("rm") },
    Entry { has_program: false, ..entry::<bundle::Arguments>("bundle") },
    Entry { has_program: false, ..entry::<completions::Arguments>("completions") },
    Entry { has_program: false, ..entry::<man::Arguments>("man") },
];

/// The command that is `run --chat` under its own name.
const CHAT: &str = "chat";

/// The command of a program.
pub const fn entry<P: Program>(name: &'static str) -> Entry {
    Entry {
        name,
        command: P::command,
        has_program: true,
        start: |matches, command| {
            hints::begin(command);
            if let Err(what) = P::check(matches, command) {
                command.error(ErrorKind::ArgumentConflict, what).exit();
            }
            match P::from_arg_matches_mut(matches) {
                Ok(program) => program.start(command),
                Err(error) => error.format(command).exit(),
            }
        },
    }
}

/// `nanoserve` with all its commands.
pub fn nanoserve() -> Command {
    let command = Command::new("nanoserve")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run open-weight language models, each from one file")
        .help_template(format!("{{about-with-newline}}\n{WAY}\n\n{{usage-heading}} {{usage}}\n\n{{all-args}}"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    ENTRIES.iter().fold(command, |command, entry| {
        let one = (entry.command)().name(entry.name);
        // Examples call the command `nanoserve NAME` here. Other words may begin in the same way: names of files.
        let help = one.get_after_help().map(ToString::to_string).unwrap_or_default();
        let spaced = |help: String, entry: &Entry| {
            help.replace(&format!("{PREFIX}{} ", entry.name), &format!("nanoserve {} ", entry.name))
        };
        command.subcommand(one.after_help(ENTRIES.iter().fold(help, spaced)))
    })
}

/// Runs a command line. Its first word, the name that this program was called by, may select the command.
pub fn start(mut line: Vec<OsString>) -> ExitCode {
    stop::make_limits_errors();
    if let Some(done) = inside::start(&line) {
        return done;
    }
    let called = line.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    let alone = called.strip_prefix(PREFIX).and_then(|name| ENTRIES.iter().find(|entry| entry.name == name));
    // The position of the word that names the command.
    let word = if alone.is_some() { 0 } else { 1 };
    let is_chat = alone.map_or_else(|| line.get(1).is_some_and(|word| word == CHAT), |entry| entry.name == CHAT);
    if is_chat {
        line.insert(word + 1, "--chat".into());
    }
    // `nanoserve model.nsv` runs it.
    let is_file = |word: &OsString| ENTRIES.iter().all(|entry| word != entry.name) && Path::new(word).is_file();
    if alone.is_none() && line.get(1).is_some_and(is_file) {
        line.insert(1, "run".into());
    }
    let mut command = alone.map_or_else(nanoserve, |entry| (entry.command)());
    let name = alone.map(|entry| entry.name).or_else(|| line.get(1).and_then(|word| word.to_str())).unwrap_or_default();
    let line = match llama::translate(name, &line, word + 1) {
        Ok(line) => line,
        Err(what) => command.error(ErrorKind::UnknownArgument, what).exit(),
    };
    environment::tell_unknown(&environment::names());
    let mut matches = command.try_get_matches_from_mut(line).unwrap_or_else(|error| with_tip(error).exit());
    if let Some(entry) = alone {
        return (entry.start)(&mut matches, &mut command);
    }
    let (name, mut matches) = matches.remove_subcommand().expect("a command is required");
    let entry = ENTRIES.iter().find(|entry| entry.name == name).expect("there are no other commands");
    (entry.start)(&mut matches, command.find_subcommand_mut(&name).expect("it was just parsed"))
}

/// If a file name stands in place of the command, adds a tip with the commands that take a file.
fn with_tip(mut error: clap::Error) -> clap::Error {
    if let Some(set) = environment::behind(&error) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![set.into()]));
        return error;
    }
    let word = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => word.clone(),
        _ => return error,
    };
    if word.contains(['.', '/']) && error.get(ContextKind::SuggestedSubcommand).is_none() {
        let tip = format!("'nanoserve run {word} ...' and 'nanoserve chat {word}' take a file");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}
