//! An open file bound to a backend, and sequences of tokens that run on it.
//!
//! ```text
//! load          the file's bytes into memory          model       its tensors, looked up once
//! sequence      tokens, and their keys and values     workspace   the buffers of a step
//! step          one step, written once for every device
//! feed          the tokens of one sequence, a chunk a step
//! session       a sequence that has an engine to itself
//! admission     memory checks before any work         ledger      memory promised but not touched yet
//! ```
//!
//! A step takes the tokens of several sequences at once. On a CPU, each sequence gets the same logits, bit for bit, as
//! it gets alone, whatever else is in the step and in whatever order. A GPU runs the sequences of a step one after the
//! other, so that each uses the same kernels, and so the same arithmetic, as alone.
//!
//! ```no_run
//! use nanoserve_runtime::{Engine, EngineOptions, KvType, Logits, Span, Wants};
//!
//! let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
//! let (mut a, mut b) = (engine.sequence(256, KvType::F16)?, engine.sequence(256, KvType::F16)?);
//! let mut spans = [Span::new(&mut a, &[1, 15, 9], Wants::Last), Span::new(&mut b, &[1, 7], Wants::Last)];
//! for logits in engine.step(&mut spans)? {
//!     let Logits::Rows(row) = logits else { unreachable!("the last row was asked for") };
//!     println!("{} logits", row.len());
//! }
//! # Ok::<(), nanoserve_runtime::RuntimeError>(())
//! ```

pub mod admission;
mod feed;
pub mod ledger;
pub mod load;
pub mod model;
mod open;
pub mod prompt_cache;
mod sequence;
pub mod session;
pub mod step;
pub mod workspace;

pub use open::EngineOptions;
pub use sequence::Sequence;
pub use session::Session;

use crate::backend::room::Room;
use crate::backend::{Backend, Ids, KvType};
use crate::error::{Result, RuntimeError};
use ledger::Ledger;
use model::Model;
use nanoserve_format::{GenerationDefaults, NsvFile, SectionKind};
use nanoserve_tokenizer::Tokenizer;
use std::borrow::Cow;
use std::sync::Arc;
use step::{LogitRows, Run, Tap, step};
use workspace::Workspace;

/// An open file, bound to a backend. It owns the weights and the buffers of a step; sequences own their KV caches.
///
/// ```no_run
/// use nanoserve_runtime::{Engine, EngineOptions, KvType};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// println!("{} layers", engine.file().spec().n_layers);
/// let logits = engine.session(64, KvType::F16)?.feed(&[1, 15, 9], 256)?;
/// assert_eq!(logits.len(), engine.file().spec().vocab_size);
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Engine<B: Backend> {
    file: Arc<NsvFile>,
    backend: B,
    model: Model<B>,
    work: Workspace<B>,
    ledger: Ledger,
    /// Number of steps started. A step that ran ahead is valid only while this number stays the same.
    steps: u64,
    /// The largest numbers of tokens and of rows of logits admitted so far.
    admitted: [usize; 2],
}

/// What a span asks a step to compute.
///
/// ```no_run
/// use nanoserve_runtime::{Engine, EngineOptions, KvType, Logits, Wants};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// let mut session = engine.session(64, KvType::F16)?;
/// let Logits::Rows(rows) = session.feed_for(&[1, 15, 9], 256, Wants::All)? else { unreachable!("rows were asked for") };
/// println!("{} logits of three tokens", rows.len());
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing: the tokens only fill the KV cache, and more follow.
    Nothing,
    /// The last token's logits.
    Last,
    /// The k largest of the last token's logits, if the backend can find them; otherwise the whole row. k is 1 to
    /// [`MOST_CANDIDATES`](crate::backend::MOST_CANDIDATES).
    Top(usize),
    /// The logits of every token.
    All,
}

impl Wants {
    fn rows(self) -> LogitRows {
        match self {
            Wants::Nothing => LogitRows::None,
            Wants::Last | Wants::Top(_) => LogitRows::Last,
            Wants::All => LogitRows::All,
        }
    }
}

/// Tokens of one sequence in a step.
///
/// ```no_run
/// use nanoserve_runtime::{Engine, EngineOptions, KvType, Span, Wants};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// let (mut a, mut b) = (engine.sequence(64, KvType::F16)?, engine.sequence(64, KvType::F16)?);
/// // The prompt of `a` and the next token of `b` run together; each gets its own logits.
/// let logits = engine.step(&mut [Span::new(&mut a, &[1, 15, 9], Wants::Last), Span::new(&mut b, &[7], Wants::Last)])?;
/// assert_eq!(logits.len(), 2);
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Span<'s, B: Backend> {
    /// The sequence that the tokens are appended to.
    pub sequence: &'s mut Sequence<B>,
    /// The tokens, at least one.
    pub ids: &'s [u32],
    /// What to compute for them.
    pub wants: Wants,
}

impl<'s, B: Backend> Span<'s, B> {
    /// Tokens of a sequence, and what to compute for them.
    pub fn new(sequence: &'s mut Sequence<B>, ids: &'s [u32], wants: Wants) -> Self {
        Span { sequence, ids, wants }
    }
}

/// What the next token is chosen from.
///
/// ```
/// use nanoserve_runtime::Logits;
///
/// let likeliest = |logits: &Logits| match logits {
///     Logits::Rows(row) => (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])),
///     Logits::Top(top) => top.first().map(|(id, _)| *id as usize),
/// };
/// assert_eq!(likeliest(&Logits::Rows(vec![0.5, 2.0, -1.0].into())), Some(1));
/// assert_eq!(likeliest(&Logits::Top(vec![(7, 3.5)])), Some(7));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Logits<'e> {
    /// `[rows, vocab_size]`: no row, one row, or one for each token. On a CPU they are borrowed from the engine.
    Rows(Cow<'e, [f32]>),
    /// The largest logits of a row, as (id, logit): see [`Backend::top`].
    Top(Vec<(u32, f32)>),
}

impl Logits<'_> {
    /// The same logits, borrowed from nothing.
    pub fn into_owned(self) -> Logits<'static> {
        match self {
            Logits::Rows(rows) => Logits::Rows(Cow::Owned(rows.into_owned())),
            Logits::Top(top) => Logits::Top(top),
        }
    }
}

impl<B: Backend> Engine<B> {
    /// Binds an open file to a backend.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the forward pass needs.
    pub fn with_backend(file: Arc<NsvFile>, mut backend: B) -> Result<Self> {
        let model = Model::bind(&mut backend, &file)?;
        let work = Workspace::new(&mut backend, &model);
        // `admit_sequence` already counts a step of this size.
        let admitted = [backend.chunk(), 1];
        Ok(Engine { file, backend, model, work, ledger: Ledger::default(), steps: 0, admitted })
    }

    /// The file.
    pub fn file(&self) -> &Arc<NsvFile> {
        &self.file
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// An empty sequence with room for `capacity` positions.
    ///
    /// # Errors
    /// When the model has fewer positions, or there is not enough memory for this sequence beside what other sequences
    /// were promised.
    pub fn sequence(&mut self, capacity: usize, kv_type: KvType) -> Result<Sequence<B>> {
        let spec = &self.model.spec;
        admission::admit_sequence(spec, capacity, kv_type, self.backend.chunk(), self.room())?;
        let ropes = self.work.ropes_for(&self.model, capacity);
        Sequence::new(&mut self.backend, spec, ropes, (capacity, kv_type), self.ledger.promise())
    }

    /// Free memory that was not promised to a sequence; None if the system does not report it.
    pub fn room(&self) -> Option<Room> {
        self.backend.room(self.ledger.promised())
    }

    /// A sequence that has the engine to itself.
    ///
    /// # Errors
    /// As [`Engine::sequence`].
    pub fn session(&mut self, capacity: usize, kv_type: KvType) -> Result<Session<'_, B>> {
        let sequence = self.sequence(capacity, kv_type)?;
        Ok(Session::new(self, sequence))
    }

    /// Runs the tokens of some spans in one step, each appended to its sequence, and returns what each span asked for.
    /// The bits of a sequence's logits depend neither on the other spans nor on their order.
    ///
    /// # Errors
    /// When a span has no token, no room for its tokens, or a token that is not in the vocabulary (nothing runs then);
    /// when there is no memory for the step; when a device failed. After an error no sequence has grown.
    pub fn step(&mut self, spans: &mut [Span<B>]) -> Result<Vec<Logits<'_>>> {
        for span in &*spans {
            step::check(&self.model.spec, span.sequence, Ids::Known(span.ids))?;
        }
        if spans.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = spans.iter().map(|span| span.ids.len()).sum();
        self.admit(tokens, spans.iter().map(|span| span.logit_rows()).sum())?;
        let logits = if self.backend.mixes() {
            self.run(spans)?
        } else {
            let mut logits = Vec::with_capacity(spans.len());
            for span in &mut *spans {
                logits.extend(self.run(std::slice::from_mut(span))?.into_iter().map(Logits::into_owned));
            }
            logits
        };
        for span in spans {
            span.sequence.push(span.ids);
        }
        Ok(logits)
    }

    /// Runs one step of the backend. The sequences do not count the tokens yet.
    fn run(&mut self, spans: &mut [Span<B>]) -> Result<Vec<Logits<'_>>> {
        let runs = spans.iter_mut().map(|span| {
            let (ids, rows) = (Ids::Known(span.ids), span.wants.rows());
            Run { sequence: &mut *span.sequence, ids, rows }
        });
        self.begin(&mut runs.collect::<Vec<_>>(), None)?;
        let (row_len, buffer) = (self.model.spec.vocab_size, &self.work.logits);
        let logits = match &*spans {
            [Span { wants: Wants::Top(k), .. }] => vec![last_row(&mut self.backend, buffer, (*k).min(row_len))],
            spans => rows(&mut self.backend, buffer, row_len, spans),
        };
        self.backend.finish()?;
        Ok(logits)
    }

    /// Runs a step and leaves its rows of logits on the backend.
    fn begin(&mut self, runs: &mut [Run<B>], tap: Option<Tap<'_, '_>>) -> Result<()> {
        self.steps += 1;
        let Engine { backend, model, work, .. } = self;
        step(backend, model, work, runs, tap)
    }

    /// The file's tokenizer, checked against the test texts in the file.
    ///
    /// # Errors
    /// When the file has none, it is bad, or it gives other tokens than the tokenizer that it was made from.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let GenerationDefaults { bos_id, add_bos, .. } = self.file.generation()?;
        let tokenizer = match Tokenizer::from_file(&self.file, bos_id, add_bos)? {
            Some(compiled) => compiled,
            None => {
                let json = self.file.section_copy(SectionKind::Tokenizer)?.ok_or(RuntimeError::NoTokenizer)?;
                Tokenizer::from_json(&json, bos_id, add_bos)?
            }
        };
        if let Some(vectors) = self.file.tokenizer_vectors()? {
            tokenizer.check_against(&vectors, add_bos)?;
        }
        Ok(tokenizer)
    }
}

impl<B: Backend> Span<'_, B> {
    /// How many rows of logits it asks for.
    fn logit_rows(&self) -> usize {
        match self.wants.rows() {
            LogitRows::All => self.ids.len(),
            LogitRows::Last => 1,
            LogitRows::None => 0,
        }
    }
}

/// Divides a step's rows of logits, `[rows, row_len]`, among its spans.
fn rows<'e, B: Backend>(backend: &mut B, buffer: &'e B::Buffer, row_len: usize, spans: &[Span<B>]) -> Vec<Logits<'e>> {
    let counts = spans.iter().map(|span| span.logit_rows() * row_len);
    // If no span wants logits, the buffer still holds those of an earlier step.
    if counts.clone().all(|n| n == 0) {
        return counts.map(|_| Logits::Rows(Cow::Borrowed(&[]))).collect();
    }
    match backend.read(buffer) {
        Cow::Borrowed(mut rest) => {
            let own = counts.map(|n| Logits::Rows(rest.split_off(..n).expect("a row for each token").into()));
            own.collect()
        }
        Cow::Owned(mut rest) => {
            let own = counts.map(|n| {
                let after = rest.split_off(n);
                Logits::Rows(std::mem::replace(&mut rest, after).into())
            });
            own.collect()
        }
    }
}

/// The `k` largest logits of a step's only row if the backend can find them, otherwise the whole row.
fn last_row<'e, B: Backend>(backend: &mut B, buffer: &'e B::Buffer, k: usize) -> Logits<'e> {
    match backend.top(buffer, k) {
        Some(top) => Logits::Top(top),
        None => Logits::Rows(backend.read(buffer)),
    }
}
