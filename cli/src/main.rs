//! The program `nanoserve`, whose commands do everything: `nanoserve convert`, `nanoserve run` and so on.
//!
//! Called `nanoserve-run` (by the small program of that name, a link or a copy), it is `nanoserve run`.
//! With a model at its own end (`nanoserve bundle`) it is `nanoserve run` of that model.

mod bench;
mod bundle;
mod completions;
mod console;
mod convert;
mod hints;
mod inside;
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
