//! Where there are no terminals as Unix has them: keys that are typed while an answer is written are left to the system.

/// What keeps typed keys elsewhere.
#[derive(Debug)]
pub struct TypedAhead(());

impl TypedAhead {
    /// Keeps nothing here.
    pub fn keep() -> Option<TypedAhead> {
        None
    }
}

/// Nothing was changed.
pub fn restore() {}
