//! What can go wrong between opening a file and the last token.

mod device;
mod grammar;
mod memory;
mod prompt_cache;
mod sampling;
mod stop;

pub use device::DeviceError;
pub use grammar::GrammarError;
pub(crate) use memory::Size;
pub use memory::{Limit, MemoryUse};
pub use prompt_cache::PromptCacheError;
pub use sampling::SamplingError;
pub use stop::StopError;

use nanoserve_format::{Encoding, ErrorKind, FormatError, Shape};

/// What every fallible call of this crate returns.
///
/// ```
/// use nanoserve_runtime::{Engine, EngineOptions, Result};
///
/// fn layers(model: &str) -> Result<usize> {
///     Ok(Engine::open(model, &EngineOptions::default())?.file().spec().n_layers)
/// }
/// assert!(layers("there-is-no.nsv").is_err());
/// ```
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// What is wrong: where, what was found, what was expected. An error gives no advice: what helps depends on how the
/// user asked, so programs add the advice, from [`RuntimeError::kind`] and the fields.
///
/// ```
/// use nanoserve_format::ErrorKind;
/// use nanoserve_runtime::{Engine, EngineOptions, RuntimeError};
///
/// let error = Engine::open("there-is-no.nsv", &EngineOptions::default()).unwrap_err();
/// assert!(matches!(error, RuntimeError::Format(_)));
/// assert_eq!(error.kind(), ErrorKind::Input);
/// assert!(error.to_string().contains("there-is-no.nsv"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The file is bad.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file's tokenizer is bad, or failed on a text.
    #[error(transparent)]
    Tokenizer(#[from] nanoserve_tokenizer::TokenizerError),
    /// A sampling option is out of range, or logits are not numbers.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A stop string is invalid.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A grammar is invalid, or cannot be followed.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A prompt cache cannot be used.
    #[error(transparent)]
    PromptCache(#[from] PromptCacheError),
    /// The GPU cannot be used, or failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A tensor of the schema is not in the file.
    #[error("tensor '{tensor}' is missing")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor's shape is not the one the forward pass needs.
    #[error("tensor '{tensor}' has shape {got}, expected {expected}")]
    TensorShape {
        /// Its name.
        tensor: String,
        /// Shape in the file.
        got: Shape,
        /// Shape that follows from the model's spec.
        expected: Shape,
    },
    /// A tensor's bytes are not aligned for the kernels.
    #[error("tensor '{tensor}' ({encoding}) is at an address that is no multiple of {expected}")]
    TensorAlignment {
        /// Its name.
        tensor: String,
        /// Its encoding.
        encoding: Encoding,
        /// What the address must be a multiple of.
        expected: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty: nothing to continue")]
    EmptyPrompt,
    /// The prompt is longer than the room left in the context.
    #[error("the prompt has {got} tokens, the context has room for {room}")]
    PromptTooLong {
        /// Tokens of the prompt.
        got: usize,
        /// Tokens the context can still take.
        room: usize,
        /// Positions that the model has at most.
        most: usize,
    },
    /// The context is larger than the model was made for.
    #[error("a context of {got} was asked for, the model has {expected} positions")]
    ContextTooLong {
        /// Positions asked for.
        got: usize,
        /// Positions of the model.
        expected: usize,
    },
    /// A text is too short for one window to be scored.
    #[error("the text has {got} tokens, windows of {ctx} need at least that many, and at least 4")]
    TextTooShort {
        /// Tokens of the text.
        got: usize,
        /// Tokens of a window.
        ctx: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {got} is not in the vocabulary of {vocab_size}")]
    TokenId {
        /// The id.
        got: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// Text was asked for, but the file has no tokenizer.
    #[error("the file holds no tokenizer")]
    NoTokenizer,
    /// An instruction set this machine, or this program, does not have.
    #[error("this machine cannot run the {got} kernels; it can run: {available}")]
    Isa {
        /// The name asked for.
        got: String,
        /// Names that work here.
        available: String,
    },
    /// Two sets of kernels gave different logits for the same tokens.
    #[error(
        "the {isa} kernels and the plain ones disagree on the logits after token {position} (largest difference of \
         those compared {difference:e}): this machine, or this program, computes wrongly"
    )]
    SelfTest {
        /// The instruction set of the faster kernels.
        isa: &'static str,
        /// Position of the token.
        position: usize,
        /// The largest difference of the logits compared.
        difference: f64,
    },
    /// A file's golden vectors, or its reference, cannot be run.
    #[error("golden vectors: {cause}")]
    GoldenVectors {
        /// Why.
        cause: String,
    },
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {cause}")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// The system's answer.
        cause: String,
    },
    /// More memory is needed than this process can get.
    #[error("{what} needs {}, this process can get {} ({limit})", Size(*need), Size(*room))]
    Memory {
        /// What needs it.
        what: MemoryUse,
        /// Bytes it needs at most.
        need: u64,
        /// Bytes that this process can get.
        room: u64,
        /// What sets that limit.
        limit: Limit,
    },
    /// The system refused to give memory.
    #[error("no memory for {what}: the system refused {}", Size(*bytes))]
    Allocation {
        /// What it was for.
        what: &'static str,
        /// Bytes asked for.
        bytes: u64,
    },
    /// The forward pass made a result that the search for faults has no entry for.
    #[error("the forward pass made '{name}', of which the search for faults does not know how it is made")]
    UnknownComponent {
        /// Its name.
        name: String,
    },
    /// A reference file cannot be used.
    #[error("{path}: {cause}")]
    Reference {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl RuntimeError {
    /// Whether the input or the machine is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RuntimeError::Format(e) => e.kind(),
            RuntimeError::Device(e) => e.kind(),
            RuntimeError::PromptCache(e) => e.kind(),
            RuntimeError::Threads { .. } | RuntimeError::Allocation { .. } => ErrorKind::Machine,
            // These two are faults of the program, whatever the input.
            RuntimeError::SelfTest { .. } | RuntimeError::UnknownComponent { .. } => ErrorKind::Machine,
            // Too little memory counts as input: the caller can ask for less.
            _ => ErrorKind::Input,
        }
    }
}
