//! What is wrong with a stop string.

/// Why the stop strings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// An empty stop string, which would match before any text.
    #[error("stop string {index} of {count} is empty, expected at least one character")]
    Empty {
        /// Which one, counted from 1.
        index: usize,
        /// How many were given.
        count: usize,
    },
}
