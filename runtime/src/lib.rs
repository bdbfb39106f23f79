//! Runs a `.nsv` file: opened by mapping, its weights read in place, with the same bits of logits on every CPU.
//!
//! ```no_run
//! use nanoserve_runtime::{Engine, EngineOptions, GenerateOptions, KvType};
//!
//! let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
//! let tokenizer = engine.tokenizer()?;
//! let prompt = tokenizer.encode("Once upon a time", true)?;
//! let mut session = engine.session(2048, KvType::F32)?;
//! let mut options = GenerateOptions::default();
//! options.max_tokens = Some(64);
//! let done = session.generate(&prompt, &options, Some(&tokenizer), &mut |text| {
//!     print!("{text}");
//!     true
//! })?;
//! println!("\n{} after {} tokens", done.stop_reason, done.ids.len());
//! # Ok::<(), nanoserve_runtime::RuntimeError>(())
//! ```
//!
//! The folders, each of which knows only those above it:
//!
//! ```text
//! error      what can go wrong, as data
//! backend    what a device must do, sizes of caches, RoPE, how much memory there is
//! cpu        the CPU backend: kernels for each instruction set; knows no model
//! cuda       the GPU backend, and the CPU and a GPU together
//! engine     an open file bound to a backend; one step, written once for every device; sequences
//! generate   rows of logits to text: an answer as a state machine, sampler, grammar, stops
//! chat       messages to prompts
//! diagnose   whether a file and a machine compute what they should, and how fast they could
//! ```
//!
//! The order of every sum is fixed in `docs/arithmetic.md`: results do not depend on the instruction set, on the number of
//! threads, or on how a prompt is cut into steps.

// The inner circle: what a program builds on. It changes with a version number.
pub use backend::KvType;
pub use engine::{Engine, EngineOptions, Logits, Sequence, Session, Span, Wants};
pub use error::{
    DeviceError, GrammarError, Limit, MemoryUse, PromptCacheError, Result, RuntimeError, SamplingError, StopError,
};
pub use generate::sampler::SamplingOptions;
pub use generate::{Answer, GenerateOptions, Generation, StopReason, Timings};
pub use nanoserve_tokenizer::{TextStream, Tokenizer, TokenizerError};

pub mod chat;
pub mod engine;
mod error;
pub mod generate;

// Open to this project's own programs and tests. They may change at any time.
#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod cpu;
#[doc(hidden)]
pub mod cuda;
#[doc(hidden)]
pub mod diagnose;
