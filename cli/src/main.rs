//! The program `nanoserve`, which has all commands: `nanoserve convert`, `nanoserve run` and so on.
//!
//! When it is called by the name `nanoserve-run` (by that launcher, a link or a copy), it is `nanoserve run`.

mod bench;
mod completions;
mod console;
mod convert;
mod hints;
mod inspect;
mod machine;
mod man;
mod programs;
mod run;
mod trust;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    programs::start(std::env::args_os().collect())
}
