//! What goes wrong with a grammar or a JSON schema.

/// Why a grammar cannot be used.
///
/// ```
/// use nanoserve_runtime::generate::grammar::GrammarTokens;
/// use nanoserve_runtime::{GrammarError, RuntimeError};
///
/// fn refused(tokens: &GrammarTokens) {
///     let error = tokens.lark("root ::= [0-9]+").unwrap_err();
///     assert!(matches!(error, RuntimeError::Grammar(GrammarError::Gbnf)));
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The schema is no JSON.
    #[error("the JSON schema is no JSON: {cause}")]
    Json {
        /// What the parser says.
        cause: String,
    },
    /// The schema has keywords that would not be enforced.
    #[error("the JSON schema has keywords that are not supported: {}; supported are {}", found.join(", "), supported)]
    Keywords {
        /// Each with its place.
        found: Vec<String>,
        /// The keywords that are enforced.
        supported: String,
    },
    /// The schema has something that is wrong, or cannot be held to exactly.
    #[error("the JSON schema cannot be used, at {place}: {cause}")]
    Schema {
        /// Where, as a JSON pointer behind `#`.
        place: String,
        /// What is wrong there.
        cause: String,
    },
    /// The grammar is in another notation.
    #[error(
        "the grammar looks like GBNF; write it as Lark: 'name: ...' for 'name ::= ...', 'start' for 'root', /[0-9]+/ for \
         [0-9]+"
    )]
    Gbnf,
    /// The grammar, schema or tokenizer cannot be used.
    #[error("the {what} cannot be used: {cause}")]
    Refused {
        /// Which of them.
        what: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The grammar could not be followed any further.
    #[error("the grammar cannot be followed after {tokens} tokens: {cause}")]
    Step {
        /// Tokens so far.
        tokens: usize,
        /// What is wrong.
        cause: String,
    },
}
