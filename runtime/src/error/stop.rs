//! What is wrong with a stop string.

/// Why the stop strings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// A stop string without characters, which would match before anything is said.
    #[error("stop string {index} of {count} is empty, expected at least one character")]
    Empty {
        /// Which one, counted from 1.
        index: usize,
        /// How many were given.
        count: usize,
    },
}
