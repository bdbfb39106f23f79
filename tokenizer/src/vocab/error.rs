//! What can be wrong with a compiled vocabulary, an expression, or a text.

/// What is wrong with a section, or with a text for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// The section is of a layout that this reader does not know.
    #[error("the compiled vocabulary is of layout {got}, this program reads {known}: a newer nanoserve is needed")]
    Version {
        /// Its layout.
        got: u32,
        /// The one this reader knows.
        known: u32,
    },
    /// A number of the header is out of its range.
    #[error("the compiled vocabulary's {field} is {got}, expected {expected}")]
    Header {
        /// Which number.
        field: &'static str,
        /// What it is.
        got: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// The section ends before a table does, or goes on after the last.
    #[error("the compiled vocabulary has {got} bytes for its {part}, which take {expected}")]
    Length {
        /// The table.
        part: &'static str,
        /// Bytes there are.
        got: usize,
        /// Bytes it takes.
        expected: usize,
    },
    /// The section does not begin at a multiple of four bytes.
    #[error("the compiled vocabulary is not aligned to four bytes")]
    Alignment,
    /// The splitting expression is none.
    #[error("the compiled vocabulary's splitting expression cannot be used: {cause}")]
    Pattern {
        /// What is wrong with it.
        cause: String,
    },
    /// The tokenizer.json asks for something that is not run.
    #[error("the tokenizer's {part} cannot be used: {cause}")]
    Steps {
        /// The part, by its key.
        part: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// A text cannot be split: the expression needs too many steps for it.
    #[error("a text of {bytes} bytes cannot be split: {cause}")]
    Split {
        /// Its length.
        bytes: usize,
        /// What the engine says.
        cause: String,
    },
}
