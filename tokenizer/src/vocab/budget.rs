//! How much work may go into texts: counted steps, and a clock for what cannot be counted.
//!
//! A section may come from anywhere, and some tables and expressions need a time that grows with the square of a text or
//! worse. One budget covers a whole prompt, or all texts that are checked at a start: not each text by itself.

use super::VocabularyError;
use std::time::{Duration, Instant};

/// Steps that any texts may take. A step is about a byte compared.
const STEPS: u64 = 1 << 24;

/// Steps for each byte of the texts, more than ten times what published tokenizers take.
const STEPS_PER_BYTE: u64 = 2048;

/// What is left for some texts.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    left: u64,
    end: Instant,
}

impl Budget {
    /// The budget of texts of so many bytes together: 10 seconds, and 10 more for each MB. Thousands of times what it
    /// takes.
    pub fn new(bytes: usize) -> Self {
        let time = Duration::from_secs(10) + Duration::from_micros(10 * bytes as u64);
        let left = STEPS.saturating_add(STEPS_PER_BYTE.saturating_mul(bytes as u64));
        Self { bytes, left, end: Instant::now() + time }
    }

    /// A budget without time.
    #[cfg(test)]
    pub(super) fn late(bytes: usize) -> Self {
        Self { end: Instant::now() - Duration::from_millis(1), ..Self::new(bytes) }
    }

    /// Steps that are left.
    #[cfg(test)]
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes steps, before they are done.
    pub(super) fn take(&mut self, steps: usize) -> Result<(), VocabularyError> {
        match self.left.checked_sub(steps as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.failed("it takes too many steps")),
        }
    }

    /// Looks at the clock.
    pub(super) fn look(&self) -> Result<(), VocabularyError> {
        if Instant::now() > self.end { Err(self.failed("it takes too long")) } else { Ok(()) }
    }

    /// The error for texts that cannot be split.
    pub(super) fn failed(&self, cause: &str) -> VocabularyError {
        VocabularyError::Split { bytes: self.bytes, cause: cause.to_string() }
    }
}
