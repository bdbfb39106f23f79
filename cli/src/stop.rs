//! How a program is stopped from outside, and what it leaves then: no partial file, and the terminal as it was.
//!
//! ```text
//! Ctrl-C             the first asks the program to stop in good order, the second ends it; exit code 130
//! SIGTERM, SIGHUP    end it; exit codes 143 and 129. Where SIGHUP is ignored from the start (nohup), it stays so
//! ```

use crate::console::{INTERRUPTED, MachineFailed};
use anyhow::Result;
use nanoserve_format::signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Listens from now on, and returns the flag that the first Ctrl-C sets: the same flag at each call. `restore` of the first
/// call runs before a signal ends the program.
///
/// # Errors
/// When the system does not let it listen.
pub fn listen(restore: fn()) -> Result<Arc<AtomicBool>> {
    static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(asked) = ASKED.get() {
        return Ok(asked.clone());
    }
    let asked = ASKED.get_or_init(Arc::default);
    let failed = |what: &str, e: String| MachineFailed(format!("cannot listen for {what}: {e}"));
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            end(restore, INTERRUPTED.into());
        }
    })
    .map_err(|e| failed("Ctrl-C", e.to_string()))?;
    #[cfg(unix)]
    terminations(restore).map_err(|e| failed("signals", e.to_string()))?;
    Ok(asked.clone())
}

/// As [`listen`], for work that is not stopped in good order: the first Ctrl-C ends the program too, and what it had not
/// finished is removed.
///
/// # Errors
/// As there.
pub fn end_at_once(restore: fn()) -> Result<()> {
    listen(restore)?.store(true, Ordering::SeqCst);
    Ok(())
}

/// From now on a write beyond a limit on the size of files (`ulimit -f`) is an error, in every program; else the system ends
/// it without a word.
pub fn make_limits_errors() {
    // Where the system does not let it listen, all is as before.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// A thread that ends the program when the system asks for its end.
#[cfg(unix)]
fn terminations(restore: fn()) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};
    let all = [SIGTERM, SIGHUP].into_iter().filter(|&number| !signal::is_ignored(number));
    let mut signals = signal_hook::iterator::Signals::new(all)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(number) = signals.forever().next() {
            end(restore, 128 + number);
        }
    })?;
    Ok(())
}

fn end(restore: fn(), code: i32) -> ! {
    signal::remove_unfinished();
    restore();
    std::process::exit(code)
}
