//! `nanoserve-convert` is `nanoserve convert`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nanoserve_launcher::launch("nanoserve-convert")
}
