//! From an open file to logits: the engine, and a session, which knows what its cache holds.

use super::admission;
use crate::backend::{Backend, Choice, KvType};
use crate::cpu::pool::Pool;
use crate::cpu::threads::default_threads;
use crate::cpu::{CpuBackend, isa};
use crate::cuda::Driver;
use crate::cuda::split::{Place, Split};
use crate::diagnose::selftest;
use crate::engine::load::{self, Load};
use crate::engine::model::Model;
use crate::engine::step::{Logits, Next, Rows, State, Tap, forward, forward_choice, forward_chosen, forward_top};
use crate::error::{Result, RuntimeError};
use crate::tokenizer::Tokenizer;
use nanoserve_format::{GenerationDefaults, NsvFile, SectionKind};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

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
    /// On a GPU, launches may overlap: see [`Driver::overlapping`].
    pub overlap: bool,
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

impl Engine<Split<Driver>> {
    /// Opens a file and binds it to where it is to run; with [`Place::Auto`] also why that is not the GPU, where it is not.
    ///
    /// # Errors
    /// When the file is bad, or the options ask for what this machine does not have.
    pub fn open_on(
        path: impl AsRef<Path>,
        options: &EngineOptions,
        place: Place,
    ) -> Result<(Self, Option<RuntimeError>)> {
        let file = load::open(path.as_ref(), options.load, options.lock)?;
        let kernels = isa::choose(options.isa.as_deref())?;
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(default_threads))?);
        let layers = file.spec().n_layers;
        let on_gpu = |wanted: usize| -> Result<Self> {
            let device = Driver::open().map(|driver| driver.overlapping(options.overlap));
            let cpu = CpuBackend::new(kernels, pool.clone());
            Self::with_backend(file.clone(), Split::opened(cpu, device, layers - wanted.min(layers))?)
        };
        let on_cpu = || Self::with_backend(file.clone(), Split::cpu(CpuBackend::new(kernels, pool.clone())));
        match place {
            Place::Cpu | Place::Gpu(Some(0)) => Ok((on_cpu()?, None)),
            Place::Gpu(wanted) => Ok((on_gpu(wanted.unwrap_or(layers))?, None)),
            Place::Auto => match on_gpu(layers) {
                Ok(engine) => Ok((engine, None)),
                Err(why @ (RuntimeError::Device(_) | RuntimeError::Memory { .. })) => Ok((on_cpu()?, Some(why))),
                Err(e) => Err(e),
            },
        }
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
        admission::admit_session(&self.model.spec, capacity, kv_type, self.backend.chunk(), self.backend.room())?;
        let state = State::new(&mut self.backend, &self.model, capacity, kv_type)?;
        Ok(Session { engine: self, state, ids: Vec::new(), ahead: None })
    }
}

/// A sequence of tokens on an engine, with its cache.
#[derive(Debug)]
pub struct Session<'e, B: Backend> {
    engine: &'e mut Engine<B>,
    state: State<B>,
    /// The tokens that the state holds: `[state.len()]`.
    ids: Vec<u32>,
    /// A step beyond them.
    ahead: Option<Ahead>,
}

/// A step that was begun before its token was fed: it counts when that is what is fed next.
#[derive(Debug)]
struct Ahead {
    id: u32,
    /// What is chosen behind it.
    choice: Choice,
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

    /// Forgets all but the first `len` tokens; how many are left: see [`State::truncate`].
    pub fn truncate(&mut self, len: usize) -> usize {
        self.ahead = None;
        let left = self.state.truncate(len);
        self.ids.truncate(left);
        left
    }

    /// Keeps what the cache shares with the beginning of `prompt`, its last token apart, which must run again for its
    /// logits; the rest of the cache is forgotten. How many tokens of the prompt need not run.
    pub(crate) fn reuse(&mut self, prompt: &[u32]) -> usize {
        self.forget_other(&prompt[..prompt.len().saturating_sub(1)]);
        self.ids.len()
    }

    /// Forgets all behind what the cache shares with the beginning of `ids`.
    pub(crate) fn forget_other(&mut self, ids: &[u32]) {
        let common = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.truncate(common);
    }

    /// Keys and values of the tokens that the cache holds, in parts whose sizes follow from their number.
    pub(crate) fn cached(&self) -> Result<Vec<Cow<'_, [u8]>>> {
        self.state.cached(&self.engine.backend)
    }

    /// Takes back what [`Session::cached`] gave for these tokens, of `most` that there had been; false, and an empty session,
    /// where the sizes are others.
    pub(crate) fn restore(&mut self, ids: &[u32], most: usize, kv: &[u8]) -> bool {
        self.ahead = None;
        let fits = self.state.restore(&mut self.engine.backend, (ids.len(), most), kv);
        self.ids = if fits { ids.to_vec() } else { Vec::new() };
        fits
    }

    /// One step of the model, remembering its tokens.
    fn step(&mut self, ids: &[u32], rows: Rows, tap: Option<Tap<'_, '_>>) -> Result<Cow<'_, [f32]>> {
        self.ahead = None;
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
        match self.feed_while(ids, chunk, None, &mut || true)? {
            Some(Logits::Row(row)) => Ok(row),
            _ => unreachable!("nothing stops it, and the row was asked for"),
        }
    }

    /// As [`Session::feed`]; where the backend can give the `top` largest logits alone, those.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_top(&mut self, ids: &[u32], chunk: usize, top: Option<usize>) -> Result<Logits> {
        Ok(self.feed_while(ids, chunk, top, &mut || true)?.expect("nothing stops it"))
    }

    /// As [`Session::feed_top`] of one token and the likeliest one. With `more`, where the backend can: the step of that one is
    /// begun before it is known here, so that the device goes on while this waits and until the token is fed in its turn.
    /// Whatever else is done with the session, it is as if that step had not been.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_ahead(&mut self, id: u32, more: bool) -> Result<Logits> {
        let ahead = self.ahead.take().filter(|ahead| ahead.id == id);
        let Engine { backend, model, .. } = &mut *self.engine;
        let next = match ahead {
            Some(ahead) => {
                self.state.keep_chosen();
                Next::Chosen(ahead.choice)
            }
            None => forward_choice(backend, model, &mut self.state, id)?,
        };
        self.ids.push(id);
        let choice = match next {
            Next::Chosen(choice) => choice,
            Next::Logits(logits) => return Ok(logits),
        };
        let room = self.state.len() < self.state.capacity();
        let after = if more && room { forward_chosen(backend, model, &mut self.state)? } else { None };
        let (id, logit) = backend.chosen(choice)?;
        self.ahead = after.map(|choice| Ahead { id, choice });
        Ok(Logits::Top(vec![(id, logit)]))
    }

    /// As [`Session::feed_top`], asking before each step whether to go on; None when the answer was no.
    pub(crate) fn feed_while(
        &mut self,
        ids: &[u32],
        chunk: usize,
        top: Option<usize>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Logits>> {
        self.ahead = None;
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
        if chunk.min(ids.len()) > backend.chunk() {
            admission::admit_step(&model.spec, chunk.min(ids.len()), Rows::Last, backend.room())?;
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
        let Engine { backend, model, .. } = &mut *self.engine;
        let logits = forward_top(backend, model, &mut self.state, last, top)?;
        self.ids.extend_from_slice(last);
        Ok(Some(logits))
    }

    /// Runs tokens in one step; logits of all: `[ids, vocab_size]`.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_all(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.admit_all(ids.len())?;
        self.feed_admitted(ids)
    }

    /// Ok where there is memory for a step of so many tokens with the logits of all.
    pub(crate) fn admit_all(&self, tokens: usize) -> Result<()> {
        let Engine { backend, model, .. } = &*self.engine;
        admission::admit_step(&model.spec, tokens, Rows::All, backend.room())
    }

    /// As [`Session::feed_all`], of no more tokens than were admitted: to ask takes longer than a small step.
    pub(crate) fn feed_admitted(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        Ok(self.step(ids, Rows::All, None)?.into_owned())
    }

    /// Runs tokens in steps of `chunk` for the cache alone.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_quietly(&mut self, ids: &[u32], chunk: usize) -> Result<()> {
        for ids in ids.chunks(chunk.max(1)) {
            self.step(ids, Rows::None, None)?;
        }
        Ok(())
    }

    /// Runs tokens in one step, showing every operation's result to `tap`, which may put other rows in its place; logits
    /// of all: `[ids, vocab_size]`.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn trace(&mut self, ids: &[u32], tap: Tap<'_, '_>) -> Result<Vec<f32>> {
        self.admit_all(ids.len())?;
        Ok(self.step(ids, Rows::All, Some(tap))?.into_owned())
    }
}
