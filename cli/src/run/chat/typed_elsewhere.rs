//! Where there are no terminals as Unix has them: keys that are typed while an answer is written are left to the system.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether colours may have been sent.
pub static COLOURED: AtomicBool = AtomicBool::new(false);

/// What keeps typed keys elsewhere.
#[derive(Debug)]
pub struct TypedAhead(());

impl TypedAhead {
    /// Keeps nothing here.
    pub fn keep() -> Option<TypedAhead> {
        None
    }
}

/// Remembers nothing here.
pub fn remember() -> Option<()> {
    None
}

/// Leaves the terminal as it was found: no mode was changed, and colours end.
pub fn restore_now() {
    if COLOURED.load(Ordering::SeqCst) {
        // Standard error, because the answer that is interrupted holds the other stream's lock.
        eprint!("\x1b[0m");
    }
}
