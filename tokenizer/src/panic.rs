//! Turns a library's panic into an error: some libraries panic on bad input.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A library panicked; its own message is on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {library} library panicked")]
pub struct LibraryPanicked {
    /// The library's name.
    pub library: &'static str,
}

/// Calls a library and catches its panic. What `work` changes must not be used after a panic.
///
/// # Errors
/// When it panics.
pub fn catch_panic<T>(library: &'static str, work: impl FnOnce() -> T) -> Result<T, LibraryPanicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| LibraryPanicked { library })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(catch_panic("good", || 7), Ok(7));
        let error = catch_panic("tokenizers", || panic!("on purpose")).unwrap_err();
        assert_eq!(error.to_string(), "the tokenizers library panicked");
    }
}
