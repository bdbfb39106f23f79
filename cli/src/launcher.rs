//! The launchers `nanoserve-run` and so on: small programs that replace themselves by the `nanoserve` in their folder.
//!
//! `nanoserve` is the only copy of the code, and the name that it is called by selects its command. Cargo can make
//! files but no links, so each of the other names is a file of its own. Five full programs would be five copies of the
//! code. So a launcher holds only this module, and starts `nanoserve` with `exec`: the process stays the same, with its
//! id, standard streams, limits and signal handling, and its exit code is `nanoserve`'s.
//!
//! A launcher looks for `nanoserve` in its own folder, after following links, and nowhere else, because one found by
//! `$PATH` could have another version. So a link to a launcher works anywhere, and a launcher that was moved or copied
//! alone says what is missing. It passes on the name that it was built with, so a copy under another name still runs
//! its own command. A copy of `nanoserve` itself, or a hard link to it, works under each of these names without a
//! launcher.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The program that has the code.
const NANOSERVE: &str = if cfg!(windows) { "nanoserve.exe" } else { "nanoserve" };

/// Replaces this process by `nanoserve`, called by this name. Returns only if that fails, after saying why.
pub fn launch(name: &str) -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next();
    let why = match own_file(called) {
        Ok(own) => hand_over(name, &own, arguments),
        Err(why) => why,
    };
    // A closed standard error is ignored.
    let _ = writeln!(std::io::stderr(), "error: {why}");
    // 2: the command line names a program that is incomplete.
    ExitCode::from(2)
}

/// The path of the running file, with links followed. Without /proc it is found by the name that was called.
fn own_file(called: Option<OsString>) -> Result<PathBuf, String> {
    let error = match std::env::current_exe().and_then(std::fs::canonicalize) {
        Ok(own) => return Ok(own),
        Err(error) => error,
    };
    let called = called.map(PathBuf::from).filter(|called| called.components().count() > 1);
    called
        .and_then(|called| std::fs::canonicalize(called).ok())
        .ok_or_else(|| format!("cannot find the folder of this program: {error}; call it by its path"))
}

/// Starts `nanoserve` in place of this process. Returns only if that fails: the reason, as text.
fn hand_over(name: &str, own: &Path, arguments: impl Iterator<Item = OsString>) -> String {
    let beside = own.with_file_name(NANOSERVE);
    let folder = own.parent().unwrap_or(own).display();
    match std::fs::canonicalize(&beside) {
        // A copy of the launcher under the name `nanoserve` would start itself for ever.
        Ok(file) if file == own => {
            format!("{} is a copy of {name}, not the program {NANOSERVE}: put that there", beside.display())
        }
        Ok(_) => {
            let error = become_it(&beside, name, arguments);
            format!("cannot run {}, which does the work of {name}: {error}", beside.display())
        }
        Err(error) => format!(
            "{name} needs the program {NANOSERVE} beside it, and {} cannot be had: {error}. Copy {NANOSERVE} to {folder}, or \
             in place of {name} under this name; a link to {name} works from anywhere",
            beside.display()
        ),
    }
}

/// Becomes a program, called by this name; returns only where that cannot be.
#[cfg(unix)]
fn become_it(program: &Path, name: &str, arguments: impl Iterator<Item = OsString>) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    Command::new(program).arg0(name).args(arguments).exec()
}

/// Runs a program and ends as it does; a name is its first word there, since no program can be called by another's.
#[cfg(not(unix))]
fn become_it(program: &Path, name: &str, arguments: impl Iterator<Item = OsString>) -> std::io::Error {
    let command = name.trim_start_matches("nanoserve-");
    match Command::new(program).arg(command).args(arguments).status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}
