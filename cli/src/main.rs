//! The program `nanoserve`, which has all commands: `nanoserve convert`, `nanoserve run` and so on.
//!
//! When it is called by the name `nanoserve-run` (by that launcher, a link or a copy), it is `nanoserve run`. With a model at
//! its own end (`nanoserve bundle`), it is `nanoserve run` of that model.

mod bench;
mod bundle;
mod completions;
mod console;
mod convert;
mod environment;
mod export;
mod hints;
mod hub;
mod imported;
mod inside;
mod inspect;
mod llama;
mod machine;
mod man;
mod programs;
mod run;
#[cfg_attr(
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))),
    path = "sandbox/elsewhere.rs"
)]
mod sandbox;
mod stop;
mod trust;
mod values;
mod verify;

use std::process::ExitCode;

/// musl's own allocator gives each large buffer back to the system, and the next step asks for the same pages again.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    programs::start(std::env::args_os().collect())
}
