//! What is wrong with a prompt cache.

use nanoserve_format::ErrorKind;
use std::path::PathBuf;

/// Why a prompt cache cannot be used.
///
/// ```
/// use nanoserve_runtime::PromptCacheError;
///
/// // Whether the cache is there, but of another model or version, so that another name is wanted:
/// let other = |error: &PromptCacheError| {
///     matches!(error, PromptCacheError::Other { .. } | PromptCacheError::Mismatch { .. })
/// };
/// assert!(other(&PromptCacheError::Other { path: "prompt.cache".into() }));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptCacheError {
    /// The file could not be read.
    #[error("cannot read the prompt cache {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is something else, or of another version.
    #[error("{} is no prompt cache of this version: give another name, or remove it", path.display())]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// Its bytes are not those that were written.
    #[error("the prompt cache {} is damaged: {cause}; remove it, and it is made again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What shows the damage.
        cause: String,
    },
    /// It was asked for one of this user's programs, and nothing shows that it is.
    #[error(
        "nothing shows that the prompt cache {} was made by this user: it has no mark of their key; give another name, or \
         remove it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was made with another model or another kind of cache.
    #[error("the prompt cache {} is of {what} {got}, this is {expected}: give another name, or remove it", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the file says.
        got: String,
        /// What is running.
        expected: String,
    },
    /// It holds more tokens than there is room for.
    #[error("the prompt cache {} holds {got} tokens, the context has room for {room}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its tokens.
        got: usize,
        /// Tokens that the context has room for.
        room: usize,
    },
}

impl PromptCacheError {
    /// Whether the file, or the machine that should read it, is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            PromptCacheError::Read { source, .. } => ErrorKind::of_io(source),
            _ => ErrorKind::Input,
        }
    }
}
