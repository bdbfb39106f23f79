//! What can go wrong between text and ids.

use crate::vocab::VocabularyError;

/// What every fallible call of this crate returns, but those of [`vocab`](crate::vocab).
pub type Result<T> = std::result::Result<T, TokenizerError>;

/// Why text or ids could not be translated.
///
/// ```
/// use nanoserve_tokenizer::{Tokenizer, TokenizerError};
///
/// // Without the feature `json` no tokenizer.json is read.
/// let error = Tokenizer::from_json(b"{}", None, None).unwrap_err();
/// assert!(matches!(error, TokenizerError::Json { .. } | TokenizerError::NotCompiled));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The bytes are no tokenizer.json that this program understands.
    #[error("the tokenizer cannot be read: {source}")]
    Json {
        /// What the parser says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The compiled tokenizer cannot be read, or not used for a text.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The tokenizer is there as tokenizer.json alone, and this program is built to read compiled ones only.
    #[error("the file's tokenizer is not compiled in a form that this program reads")]
    NotCompiled,
    /// Part of the tokenizer is of a kind that this program does not handle.
    #[error("the tokenizer's {part} is {got}, expected {expected}")]
    Unsupported {
        /// The part, by its key in tokenizer.json.
        part: &'static str,
        /// What it is.
        got: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// An added token has not the id that the file gives it: its ids have a gap, or say two things of one token.
    #[error("the added token {content:?} has the id {got}, but the tokenizer's own entry says {expected}")]
    AddedId {
        /// The token.
        content: String,
        /// The id that reading the tokenizer has led to.
        got: u32,
        /// The id that tokenizer.json gives.
        expected: u32,
    },
    /// A beginning-of-text token is asked for that nobody knows.
    #[error("every prompt is to begin with a BOS token, but neither the file nor the tokenizer says which")]
    BosUnknown,
    /// A text could not be encoded.
    #[error("a text of {bytes} bytes cannot be encoded: {source}")]
    Encode {
        /// The length of the text.
        bytes: usize,
        /// What the tokenizer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Ids could not be decoded.
    #[error("{count} token ids cannot be decoded: {source}")]
    Decode {
        /// How many ids.
        count: usize,
        /// What the tokenizer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer does not do what the one it was made from did.
    #[error("the tokenizer makes {got:?} of {text:?}, the one it was made from made {expected:?}: convert again")]
    Vectors {
        /// The text.
        text: String,
        /// Ids, or the text they are decoded to.
        got: String,
        /// What they should be.
        expected: String,
    },
}
