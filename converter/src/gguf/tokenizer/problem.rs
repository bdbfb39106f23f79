//! Why no tokenizer can be made of a file's metadata.

use crate::gguf::tokenizer::pre;

/// Why no tokenizer can be made of a file's metadata.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenizerProblem {
    /// A key that must be there is not.
    #[error("{key} is missing")]
    Missing {
        /// Its name.
        key: &'static str,
    },
    /// A kind of tokenizer that is not read.
    #[error("tokenizer.ggml.model is '{got}', expected gpt2 or llama")]
    Model {
        /// Its name.
        got: String,
    },
    /// Nobody has shown what this name stands for.
    #[error("tokenizer.ggml.pre is '{got}', expected one of {}", pre::names().join(", "))]
    Pre {
        /// The name.
        got: String,
    },
    /// A key of another type.
    #[error("{key} is {got}, expected {expected}")]
    Type {
        /// Its name.
        key: String,
        /// What it is.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A list that must have an entry for each token has not.
    #[error("{key} has {got} entries, expected {tokens}, one for each token")]
    Length {
        /// The list.
        key: &'static str,
        /// Its entries.
        got: usize,
        /// The tokens.
        tokens: usize,
    },
    /// A count beyond what is read.
    #[error("{key} has {got} entries, expected at most {most}")]
    Count {
        /// The list.
        key: &'static str,
        /// Its entries.
        got: usize,
        /// The most that are read.
        most: usize,
    },
    /// A named token that does not exist.
    #[error("{key} is {got}, expected less than the number of tokens, {tokens}")]
    Id {
        /// The key.
        key: &'static str,
        /// The id.
        got: i128,
        /// The tokens.
        tokens: usize,
    },
    /// Two tokens with the same text: which id it has would be arbitrary.
    #[error("the tokens {first} and {second} have the same text, {text:?}")]
    Twice {
        /// The lower id.
        first: usize,
        /// The higher id.
        second: usize,
        /// The text.
        text: String,
    },
    /// A kind of token that does not exist.
    #[error("tokenizer.ggml.token_type of token {id} is {got}, expected 0 to 6")]
    Kind {
        /// The token.
        id: usize,
        /// The number of its kind.
        got: i64,
    },
    /// A score that orders nothing.
    #[error("tokenizer.ggml.scores of token {id} is not a number")]
    Score {
        /// The token.
        id: usize,
    },
    /// A merge of what is no token, or into what is none.
    #[error("the merge {index}, {merge:?}, is not two tokens and a space between, which together are a token")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// The merge, cut.
        merge: String,
    },
    /// The tokens are too long to look for all their parts.
    #[error("the tokens have too many parts: expected at most {most} bytes in all prefixes of all tokens")]
    Parts {
        /// The most that is looked at.
        most: usize,
    },
    /// Text without tokens cannot be written.
    #[error("the token of byte {byte:#04x} is missing: there is no '{expected}'")]
    Byte {
        /// The byte.
        byte: u8,
        /// Its token.
        expected: String,
    },
}
