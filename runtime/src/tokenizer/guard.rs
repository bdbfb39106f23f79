//! The `tokenizers` crate was made for good tokenizers: at others it panics here and there.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls the crate; a panic becomes an error, its message is on standard error.
pub(super) fn caught<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the tokenizers library panicked".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let error = caught::<()>(|| panic!("on purpose")).unwrap_err();
        assert_eq!(error.to_string(), "the tokenizers library panicked");
    }
}
