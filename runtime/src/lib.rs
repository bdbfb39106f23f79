//! Runs a `.nsv` file: opened by mapping, its weights read in place, with the same bits of logits on every CPU.
//!
//! ```no_run
//! use nanoserve_runtime::{Engine, EngineOptions, GenerateOptions, KvType};
//!
//! let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
//! let tokenizer = engine.tokenizer()?;
//! let prompt = tokenizer.encode("Once upon a time", true)?;
//! let mut session = engine.session(2048, KvType::F32)?;
//! let options = GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() };
//! let done = session.generate(&prompt, &options, Some(&tokenizer), &mut |text| {
//!     print!("{text}");
//!     true
//! })?;
//! println!("\n{} after {} tokens", done.stop_reason, done.ids.len());
//! # Ok::<(), nanoserve_runtime::RuntimeError>(())
//! ```
//!
//! The layers, each knowing only those before it: [`cpu`] has kernels and knows no model; [`backend`] is what a device
//! must do; [`model`] binds a file's tensors; [`forward`] is one step, written once for every device; [`session`]
//! strings steps together, [`generate`] turns them into text. The order of every sum is fixed in `docs/arithmetic.md`: results do not depend on the instruction
//! set, on the number of threads, or on how a prompt is cut into steps.

pub mod backend;
pub mod bisect;
pub mod chat;
pub mod cpu;
pub mod cuda;
mod error;
pub mod forward;
pub mod generate;
pub mod grammar;
pub mod limits;
pub mod load;
pub mod logprobs;
mod lookup;
pub mod memory;
pub mod model;
pub mod perplexity;
pub mod prompt_cache;
pub mod rope;
pub mod sampler;
pub mod selftest;
pub mod session;
pub mod stream;
pub mod tokenizer;
pub mod verify;

pub use backend::KvType;
pub use error::{Result, RuntimeError};
pub use generate::{GenerateOptions, Generation, StopReason, Timings};
pub use sampler::SamplingOptions;
pub use session::{Engine, EngineOptions, Session};
pub use tokenizer::Tokenizer;
