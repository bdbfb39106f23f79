//! The program `nanoserve`, whose commands do everything: `nanoserve convert`, `nanoserve run` and so on.
//!
//! Called `nanoserve-run` (by the small program of that name, a link or a copy), it is `nanoserve run`.

mod bench;
mod completions;
mod console;
mod convert;
mod environment;
mod hints;
mod hub;
mod inspect;
mod llama;
mod machine;
mod man;
mod programs;
mod run;
mod stop;
mod trust;
mod values;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    programs::start(std::env::args_os().collect())
}
