//! What is wrong with a stop string.

/// Why the stop strings are refused.
///
/// ```
/// use nanoserve_runtime::{GenerateOptions, RuntimeError, StopError};
///
/// let mut options = GenerateOptions::default();
/// options.stops = vec!["END".into(), String::new()];
/// let error = options.check().unwrap_err();
/// assert!(matches!(error, RuntimeError::Stop(StopError::Empty { index: 2, count: 2 })));
/// ```
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
