//! What `nanoserve-run` and its like are: a small program that becomes the program `nanoserve` beside it.
//!
//! There is one copy of the code, `nanoserve`, which goes by the name that it is called with. Cargo can make files only,
//! no links, so each other name is a file of its own. Linked in full, five of them would be five copies; so they hold
//! nothing but this, and hand over with `exec`: the process stays the same one, with its id, its standard streams, its
//! limits and what signals do to it, and its exit code is `nanoserve`'s.
//!
//! `nanoserve` is looked for beside the file that runs, after links are followed, and nowhere else: one that `$PATH` finds
//! could be of another version. So a link to a name works anywhere; a name that is moved or copied alone says what it
//! misses. The name that is handed over is the one that was built, so a copy under another name still does its work. A
//! copy of `nanoserve` itself, or a hard link to it, under one of the names needs no launcher at all.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The program that has the code.
const NANOSERVE: &str = if cfg!(windows) { "nanoserve.exe" } else { "nanoserve" };

/// Becomes `nanoserve`, called by this name; returns only where that cannot be, having said why.
pub fn launch(name: &str) -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next();
    let why = match own_file(called) {
        Ok(own) => hand_over(name, &own, arguments),
        Err(why) => why,
    };
    // A closed standard error is ignored.
    let _ = writeln!(std::io::stderr(), "error: {why}");
    // The command line is wrong: it names a program that is not all there.
    ExitCode::from(2)
}

/// The file that runs, with links followed. Where the system does not say (no /proc), it is where the name leads to.
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

/// Why there is no `nanoserve` to hand over to.
fn hand_over(name: &str, own: &Path, arguments: impl Iterator<Item = OsString>) -> String {
    let beside = own.with_file_name(NANOSERVE);
    let folder = own.parent().unwrap_or(own).display();
    match std::fs::canonicalize(&beside) {
        // This very file under the name of the other: it would become itself for ever.
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
