//! Keys that are typed while an answer is written: they wait, and the next prompt takes them as if they were typed there.
//!
//! The editor puts the terminal into its own mode while it reads, and back when it has a line. Left to itself the terminal
//! would then make lines of what is typed, show it within the answer, and swallow a Ctrl-D. So between two prompts it keeps
//! keys as they are and shows none; Ctrl-C and Ctrl-Z still do what they do everywhere.

use rustix::stdio::{stdin, stdout};
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How the terminal was found, while it is otherwise.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether colours may have been sent.
pub static COLOURED: AtomicBool = AtomicBool::new(false);

/// As long as this lives, typed keys wait.
#[derive(Debug)]
pub struct TypedAhead(());

impl TypedAhead {
    /// None where the editor does not take single keys either: it reads lines of such terminals.
    pub fn keep() -> Option<TypedAhead> {
        let term = std::env::var("TERM").unwrap_or_default().to_lowercase();
        if ["dumb", "cons25", "emacs"].contains(&term.as_str()) {
            return None;
        }
        let found = tcgetattr(stdin()).ok()?;
        let mut modes = found.clone();
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
        modes.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR;
        tcsetattr(stdin(), OptionalActions::Now, &modes).ok()?;
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Some(TypedAhead(()))
    }
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
        // A terminal that is gone needs no modes.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &found);
    }
}
