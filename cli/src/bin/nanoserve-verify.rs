//! `nanoserve-verify` is `nanoserve verify`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nanoserve_launcher::launch("nanoserve-verify")
}
