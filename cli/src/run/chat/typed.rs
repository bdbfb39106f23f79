//! Keeps keys that are typed during an answer for the next prompt, as if they were typed there.
//!
//! The editor switches the terminal into its own mode while it reads, and back when it has a line. In its usual mode
//! the terminal would then collect typed keys into lines, show them within the answer, and swallow a Ctrl-D. So between
//! two prompts the terminal keeps keys unchanged and shows none. Ctrl-C and Ctrl-Z work as usual.

use nanoserve_format::signal;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The terminal's original modes, while they may be changed.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether colours may have been sent.
pub static COLOURED: AtomicBool = AtomicBool::new(false);

/// While this value lives, typed keys are kept and not shown.
#[derive(Debug)]
pub struct TypedAhead(());

impl TypedAhead {
    /// Changes the terminal's modes. None on terminals from which the editor reads whole lines, not keys.
    pub fn keep() -> Option<TypedAhead> {
        let term = std::env::var("TERM").unwrap_or_default().to_lowercase();
        if ["dumb", "cons25", "emacs"].contains(&term.as_str()) {
            return None;
        }
        let mut modes = remember()?;
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
        modes.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR;
        tcsetattr(stdin(), OptionalActions::Now, &modes).ok()?;
        Some(TypedAhead(()))
    }
}

/// Remembers the terminal's modes, and returns them, so that every end can set them again: to be called before anything, an
/// editor too, changes them. None where there is no terminal.
pub fn remember() -> Option<Termios> {
    let modes = tcgetattr(stdin()).ok()?;
    *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(modes.clone());
    signal::keep_terminal();
    Some(modes)
}

impl Drop for TypedAhead {
    fn drop(&mut self) {
        restore();
    }
}

/// Leaves the terminal as it was found, for an end that drops nothing: its modes, no colour, no marks around what is
/// pasted, and the cursor at the start of a line.
pub fn restore_now() {
    let kept = FOUND.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    if kept || COLOURED.load(Ordering::SeqCst) {
        // Not by the standard library's stream: the answer that is interrupted holds its lock.
        let _ = rustix::io::write(stdout(), b"\x1b[0m\x1b[?2004l\r\n");
    }
    restore();
}

fn restore() {
    if let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // An error means that the terminal is gone, and then nothing needs restoring.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &found);
    }
    signal::forget_terminal();
}
