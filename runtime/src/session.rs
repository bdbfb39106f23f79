//! From an open file to text: the engine, a session's prompt and loop, its stops and its statistics.

use crate::backend::{Backend, KvType};
use crate::cpu::pool::Pool;
use crate::cpu::threads::default_threads;
use crate::cpu::{CpuBackend, isa};
use crate::error::{Result, RuntimeError};
use crate::forward::{Rows, State, Tap, forward};
use crate::load::{self, Load};
use crate::memory;
use crate::model::Model;
use crate::sampler::{Sampler, SamplingOptions};
use crate::selftest;
use crate::stream::StopMatcher;
use crate::tokenizer::{TextStream, Tokenizer};
use nanoserve_format::{GenerationDefaults, NsvFile, SectionKind};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Tokens of a prompt that go through the model in one step, unless asked otherwise.
pub const DEFAULT_CHUNK: usize = 256;

/// Where and how to run.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads; None is one for each physical core that the process may use.
    pub threads: Option<usize>,
    /// The instruction set's name; None is the best there is.
    pub isa: Option<String>,
    /// How the file's bytes come into memory.
    pub load: Load,
    /// Keep them there: the system may not take pages back for other uses.
    pub lock: bool,
}

/// An open file, bound to a backend.
#[derive(Debug)]
pub struct Engine<B: Backend> {
    file: Arc<NsvFile>,
    backend: B,
    model: Model<B>,
}

impl Engine<CpuBackend> {
    /// Opens a file and binds it to the CPU; what is not in the system's cache is read in the background.
    ///
    /// # Errors
    /// When the file is bad or the options ask for what this machine does not have.
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Self> {
        let file = load::open(path.as_ref(), options.load, options.lock)?;
        let kernels = isa::choose(options.isa.as_deref())?;
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(default_threads))?);
        Self::with_backend(file, CpuBackend::new(kernels, pool))
    }
}

impl<B: Backend> Engine<B> {
    /// Binds an open file to a backend.
    ///
    /// # Errors
    /// When a tensor is not what the forward pass needs.
    pub fn with_backend(file: Arc<NsvFile>, mut backend: B) -> Result<Self> {
        let model = Model::bind(&mut backend, &file)?;
        Ok(Engine { file, backend, model })
    }

    /// The file.
    pub fn file(&self) -> &Arc<NsvFile> {
        &self.file
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The file's tokenizer, held against the texts that the file keeps for it.
    ///
    /// # Errors
    /// When the file has none, it is bad, or it does not do what the one it was made from did.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let GenerationDefaults { bos_id, add_bos, .. } = self.file.generation()?;
        let tokenizer = match Tokenizer::from_file(&self.file, bos_id, add_bos)? {
            Some(compiled) => compiled,
            None => {
                let json = self.file.section(SectionKind::Tokenizer)?.ok_or(RuntimeError::NoTokenizer)?;
                Tokenizer::from_json(json, bos_id, add_bos)?
            }
        };
        if let Some(vectors) = self.file.tokenizer_vectors()? {
            selftest::tokenizer(&tokenizer, &vectors, add_bos)?;
        }
        Ok(tokenizer)
    }

    /// An empty session with room for `capacity` positions.
    ///
    /// # Errors
    /// When the model has fewer positions, or there is less memory than a session of so many takes at most.
    pub fn session(&mut self, capacity: usize, kv_type: KvType) -> Result<Session<'_, B>> {
        memory::admit_session(&self.model.spec, capacity, kv_type, self.backend.room())?;
        let state = State::new(&mut self.backend, &self.model, capacity, kv_type)?;
        Ok(Session { engine: self, state, ids: Vec::new() })
    }
}

/// How to continue a prompt.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens to make at most; None is until the context's end.
    pub max_tokens: Option<usize>,
    /// How a token is chosen.
    pub sampling: SamplingOptions,
    /// Texts that end generation; not part of the result.
    pub stops: Vec<String>,
    /// Tokens that end generation.
    pub eos_ids: Vec<u32>,
    /// Never choose an end token.
    pub ignore_eos: bool,
    /// Tokens of the prompt in one step.
    pub chunk: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: Some(128),
            sampling: SamplingOptions::default(),
            stops: Vec::new(),
            eos_ids: Vec::new(),
            ignore_eos: false,
            chunk: DEFAULT_CHUNK,
        }
    }
}

impl GenerateOptions {
    /// What a file's makers meant, over our own defaults.
    pub fn from_defaults(file: &GenerationDefaults) -> Self {
        let ours = SamplingOptions::default();
        let sampling = SamplingOptions {
            temperature: file.temperature.map_or(ours.temperature, |x| x as f32),
            top_k: file.top_k.map_or(ours.top_k, |x| x as usize),
            top_p: file.top_p.map_or(ours.top_p, |x| x as f32),
            min_p: file.min_p.map_or(ours.min_p, |x| x as f32),
            repeat_penalty: file.repeat_penalty.map_or(ours.repeat_penalty, |x| x as f32),
            ..ours
        };
        GenerateOptions { sampling, eos_ids: file.eos_ids.clone(), ..Self::default() }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// An end token was chosen.
    Eos,
    /// A stop text appeared.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// The caller wanted no more.
    Cancelled,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            StopReason::Eos => "eos",
            StopReason::Stop => "stop",
            StopReason::Length => "length",
            StopReason::Context => "context",
            StopReason::Cancelled => "cancelled",
        })
    }
}

/// How long things took, in seconds and tokens a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From the call to the first token.
    pub first_token_s: f64,
    /// Tokens of the prompt that had to run over the time they took.
    pub prompt_tok_s: f64,
    /// Tokens after the first over the time they took; 0 when there is none.
    pub generate_tok_s: f64,
}

/// What came of a prompt.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens of the prompt that the cache already held.
    pub reused: usize,
    /// Every token that was chosen, the one that ended it included.
    pub ids: Vec<u32>,
    /// Their text, up to a stop text; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// BLAKE3, hex, of the f32 bits of every row of logits that a token was chosen from, in order.
    pub logits_hash: String,
    /// How long it took.
    pub timings: Timings,
}

/// A sequence of tokens on an engine, with its cache.
#[derive(Debug)]
pub struct Session<'e, B: Backend> {
    engine: &'e mut Engine<B>,
    state: State<B>,
    /// The tokens that the state holds: `[state.len()]`.
    ids: Vec<u32>,
}

impl<B: Backend> Session<'_, B> {
    /// The engine it runs on.
    pub fn engine(&self) -> &Engine<B> {
        self.engine
    }

    /// The tokens seen so far, as positions.
    pub fn state(&self) -> &State<B> {
        &self.state
    }

    /// The tokens that the cache holds, in order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.state.truncate(len);
        self.ids.truncate(self.state.len());
    }

    /// Keeps what the cache shares with the beginning of `prompt`, its last token apart, which must run again for its
    /// logits; the rest of the cache is forgotten. How many tokens of the prompt need not run.
    fn reuse(&mut self, prompt: &[u32]) -> usize {
        let common = self.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.truncate(common.min(prompt.len().saturating_sub(1)));
        self.ids.len()
    }

    /// One step of the model, remembering its tokens.
    fn step(&mut self, ids: &[u32], rows: Rows, tap: Option<Tap<'_, '_>>) -> Result<Cow<'_, [f32]>> {
        let Engine { backend, model, .. } = &mut *self.engine;
        let logits = forward(backend, model, &mut self.state, ids, rows, tap)?;
        self.ids.extend_from_slice(ids);
        Ok(logits)
    }

    /// Runs tokens in steps of `chunk` and returns the logits of the last: `[vocab_size]`.
    ///
    /// # Errors
    /// When there is no token, no room for all of them, no memory for a step, or one is not in the vocabulary; nothing is
    /// run then.
    pub fn feed(&mut self, ids: &[u32], chunk: usize) -> Result<Vec<f32>> {
        self.feed_while(ids, chunk, &mut || true).map(|logits| logits.unwrap_or_default())
    }

    /// As [`Session::feed`], asking before each step whether to go on; None when the answer was no.
    fn feed_while(&mut self, ids: &[u32], chunk: usize, go_on: &mut dyn FnMut() -> bool) -> Result<Option<Vec<f32>>> {
        let room = self.state.capacity() - self.state.len();
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if ids.len() > room {
            return Err(RuntimeError::PromptTooLong { got: ids.len(), room });
        }
        let vocab_size = self.engine.model.spec.vocab_size;
        if let Some(&got) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(RuntimeError::TokenId { got, vocab_size });
        }
        let Engine { backend, model, .. } = &*self.engine;
        // A session was admitted with steps of the usual size.
        if chunk.min(ids.len()) > DEFAULT_CHUNK {
            memory::admit_step(&model.spec, chunk.min(ids.len()), Rows::Last, backend.room())?;
        }
        let (first, last) = ids.split_at((ids.len() - 1) / chunk.max(1) * chunk.max(1));
        for ids in first.chunks(chunk.max(1)) {
            if !go_on() {
                return Ok(None);
            }
            self.step(ids, Rows::None, None)?;
        }
        if !go_on() {
            return Ok(None);
        }
        Ok(Some(self.step(last, Rows::Last, None)?.into_owned()))
    }

    /// Runs tokens in one step, showing every operation's result to `tap`, which may put other rows in its place; logits
    /// of all: `[ids, vocab_size]`.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn trace(&mut self, ids: &[u32], tap: Tap<'_, '_>) -> Result<Vec<f32>> {
        let Engine { backend, model, .. } = &*self.engine;
        memory::admit_step(&model.spec, ids.len(), Rows::All, backend.room())?;
        Ok(self.step(ids, Rows::All, Some(tap))?.into_owned())
    }

    /// Continues a prompt, all of it given; what the cache holds of its beginning does not run again, and what else it
    /// holds is forgotten. The bits are those of an empty session. `on_text` gets text as it is made, whole characters only, and answers whether to go on; it is
    /// also called, with nothing, between the prompt's steps. Without a tokenizer it gets no text.
    ///
    /// # Errors
    /// When the prompt does not fit, an option is out of range, or the model's logits are not numbers.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        tokenizer: Option<&Tokenizer>,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generation> {
        let start = Instant::now();
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let mut matcher = StopMatcher::new(options.stops.clone())?;
        let mut stream = tokenizer.map(|t| TextStream::after(t, prompt, true)).transpose()?;
        let mut hash = blake3::Hasher::new();
        let (mut ids, mut text) = (Vec::new(), String::new());
        let mut history = prompt.to_vec();
        let max_tokens = options.max_tokens.unwrap_or(usize::MAX);

        let reused = self.reuse(prompt);
        let mut logits = self.feed_while(&prompt[reused..], options.chunk, &mut || on_text(""))?;
        let prompt_s = start.elapsed().as_secs_f64();
        let mut first_token_s = prompt_s;
        let stop_reason = loop {
            let Some(row) = &mut logits else { break StopReason::Cancelled };
            if ids.len() >= max_tokens {
                break StopReason::Length;
            }
            hash.update(bytemuck::cast_slice(row));
            if options.ignore_eos {
                for &eos in &options.eos_ids {
                    if let Some(logit) = row.get_mut(eos as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            let id = sampler.sample(row, &history)?;
            ids.push(id);
            history.push(id);
            if ids.len() == 1 {
                first_token_s = start.elapsed().as_secs_f64();
            }
            if options.eos_ids.contains(&id) {
                break StopReason::Eos;
            }
            let new = stream.as_mut().map_or(Ok(String::new()), |s| s.push(id))?;
            let (emit, stopped) = matcher.push(&new);
            text.push_str(&emit);
            let go_on = on_text(&emit);
            if stopped.is_some() {
                break StopReason::Stop;
            }
            if !go_on {
                break StopReason::Cancelled;
            }
            if ids.len() >= max_tokens {
                break StopReason::Length;
            }
            if self.state.len() == self.state.capacity() {
                break StopReason::Context;
            }
            logits = Some(self.feed(&[id], 1)?);
        };
        if stop_reason != StopReason::Stop {
            let (mut rest, stopped) = matcher.push(&stream.map_or(String::new(), |mut s| s.finish()));
            if stopped.is_none() {
                rest.push_str(&matcher.flush());
            }
            text.push_str(&rest);
            on_text(&rest);
        }
        let more = ids.len().saturating_sub(1) as f64;
        let timings = Timings {
            first_token_s,
            prompt_tok_s: (prompt.len() - reused) as f64 / prompt_s,
            generate_tok_s: if more > 0.0 { more / (start.elapsed().as_secs_f64() - first_token_s) } else { 0.0 },
        };
        let logits_hash = hash.finalize().to_hex().to_string();
        Ok(Generation { reused, ids, text, stop_reason, logits_hash, timings })
    }
}
