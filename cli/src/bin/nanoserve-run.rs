//! `nanoserve-run` is `nanoserve run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nanoserve_launcher::launch("nanoserve-run")
}
