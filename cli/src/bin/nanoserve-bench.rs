//! `nanoserve-bench` is `nanoserve bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nanoserve_launcher::launch("nanoserve-bench")
}
