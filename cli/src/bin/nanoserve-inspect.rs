//! `nanoserve-inspect` is `nanoserve inspect`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nanoserve_launcher::launch("nanoserve-inspect")
}
