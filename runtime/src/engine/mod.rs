//! An open file bound to a backend, and sequences of tokens that run on it.
//!
//! ```text
//! load          the file's bytes into memory          model       its tensors, found once
//! sequence      tokens, and their keys and values     workspace   the buffers of a step
//! step          one step, written once for every device
//! feed          tokens of one sequence, in steps of a chunk
//! session       a sequence that has an engine to itself
//! admission     what must fit into memory, asked before; ledger: what was promised already
//! ```
//!
//! A step takes the tokens of several sequences at once. On a CPU each sequence's logits have the bits that it gets
//! alone, whatever else is in the step and in whatever order. A GPU runs the sequences of a step one after the other, so
//! that each gets the kernels, and so the arithmetic, that it gets alone.
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

/// An open file, bound to a backend. It has the weights and the buffers of a step; what its sequences hold is theirs.
#[derive(Debug)]
pub struct Engine<B: Backend> {
    file: Arc<NsvFile>,
    backend: B,
    model: Model<B>,
    work: Workspace<B>,
    ledger: Ledger,
    /// Steps that were begun: one that ran ahead counts only while this stays.
    steps: u64,
    /// The most tokens and rows of logits that a step was admitted with.
    admitted: [usize; 2],
}

/// What a span of a step is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing: the tokens are there for the cache, and more follow.
    Nothing,
    /// The last token's logits.
    Last,
    /// The so many largest of the last token's logits, where the backend finds them by itself; else all of them. From 1
    /// to [`MOST_CANDIDATES`](crate::backend::MOST_CANDIDATES).
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
#[derive(Debug)]
pub struct Span<'s, B: Backend> {
    /// Whose they are; they come behind those that it holds.
    pub sequence: &'s mut Sequence<B>,
    /// The tokens, one at least.
    pub ids: &'s [u32],
    /// What to compute of them.
    pub wants: Wants,
}

impl<'s, B: Backend> Span<'s, B> {
    /// Tokens of a sequence, and what to compute of them.
    pub fn new(sequence: &'s mut Sequence<B>, ids: &'s [u32], wants: Wants) -> Self {
        Span { sequence, ids, wants }
    }
}

/// What a token is chosen from.
#[derive(Clone, Debug, PartialEq)]
pub enum Logits {
    /// `[rows, vocab_size]`: a row, or one for each token, or none.
    Rows(Vec<f32>),
    /// The largest of a row, by their ids: see [`Backend::top`].
    Top(Vec<(u32, f32)>),
}

impl<B: Backend> Engine<B> {
    /// Binds an open file to a backend.
    ///
    /// # Errors
    /// When a tensor is not what the forward pass needs.
    pub fn with_backend(file: Arc<NsvFile>, mut backend: B) -> Result<Self> {
        let model = Model::bind(&mut backend, &file)?;
        let work = Workspace::new(&mut backend, &model);
        // A sequence is admitted with steps of the usual size.
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
    /// When the model has fewer positions, or there is less memory than this and what other sequences were promised take
    /// at most.
    pub fn sequence(&mut self, capacity: usize, kv_type: KvType) -> Result<Sequence<B>> {
        let spec = &self.model.spec;
        admission::admit_sequence(spec, capacity, kv_type, self.backend.chunk(), self.room())?;
        let ropes = self.work.ropes_for(&self.model, capacity);
        Sequence::new(&mut self.backend, spec, ropes, (capacity, kv_type), self.ledger.promise())
    }

    /// What memory there is that was not promised to a sequence; None where the system does not say.
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

    /// Runs the tokens of some spans in one step, each behind those that its sequence holds; what each asked for. The
    /// bits of a sequence do not depend on the other spans, nor on their order.
    ///
    /// # Errors
    /// When a span has no token, no room for its tokens, or a token that is not in the vocabulary, nothing is run; when
    /// there is no memory for the step; when a device failed. No token counts then.
    pub fn step(&mut self, spans: &mut [Span<B>]) -> Result<Vec<Logits>> {
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
                logits.append(&mut self.run(std::slice::from_mut(span))?);
            }
            logits
        };
        for span in spans {
            span.sequence.push(span.ids);
        }
        Ok(logits)
    }

    /// One step of the backend; the tokens do not count yet.
    fn run(&mut self, spans: &mut [Span<B>]) -> Result<Vec<Logits>> {
        let runs = spans.iter_mut().map(|span| {
            let (ids, rows) = (Ids::Known(span.ids), span.wants.rows());
            Run { sequence: &mut *span.sequence, ids, rows }
        });
        self.begin(&mut runs.collect::<Vec<_>>(), None)?;
        let logits = match &*spans {
            [Span { wants: Wants::Top(k), .. }] => vec![self.last_row(Some(*k))],
            spans => self.rows(spans),
        };
        self.backend.finish()?;
        Ok(logits)
    }

    /// Cuts the step's rows of logits into those of each span.
    fn rows(&mut self, spans: &[Span<B>]) -> Vec<Logits> {
        let row_len = self.model.spec.vocab_size;
        let counts: Vec<usize> = spans.iter().map(Span::logit_rows).collect();
        // Where none was wanted the buffer has those of another step.
        let all =
            if counts.iter().all(|n| *n == 0) { Cow::Borrowed(&[][..]) } else { self.backend.read(&self.work.logits) };
        let mut rest = &all[..];
        let own = counts.into_iter().map(|rows| {
            let (own, others) = rest.split_at(rows * row_len);
            rest = others;
            Logits::Rows(own.to_vec())
        });
        own.collect()
    }

    /// The largest of the one row of logits that a step left, or all of it.
    fn last_row(&mut self, top: Option<usize>) -> Logits {
        let k = top.map(|k| k.min(self.model.spec.vocab_size));
        match k.and_then(|k| self.backend.top(&self.work.logits, k)) {
            Some(top) => Logits::Top(top),
            None => Logits::Rows(self.backend.read(&self.work.logits).into_owned()),
        }
    }

    /// Runs a step; its rows of logits stay where the backend has them.
    fn begin(&mut self, runs: &mut [Run<B>], tap: Option<Tap<'_, '_>>) -> Result<()> {
        self.steps += 1;
        let Engine { backend, model, work, .. } = self;
        step(backend, model, work, runs, tap)
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
            tokenizer.check_against(&vectors, add_bos)?;
        }
        Ok(tokenizer)
    }
}

impl<B: Backend> Span<'_, B> {
    /// Rows of logits that it asks for.
    fn logit_rows(&self) -> usize {
        match self.wants.rows() {
            LogitRows::All => self.ids.len(),
            LogitRows::Last => 1,
            LogitRows::None => 0,
        }
    }
}
