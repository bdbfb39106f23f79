//! A sequence of tokens with its KV cache and bookkeeping. It owns all of that, so an engine can serve many sequences,
//! and a caller can keep, drop and send them.

use super::ledger::Promise;
use super::workspace::RopeUse;
use crate::backend::{Backend, Choice, KvShape, KvType};
use crate::error::{Result, RuntimeError};
use nanoserve_format::ModelSpec;

/// Tokens that went through a model, with their keys and values. Made by [`Engine::sequence`](super::Engine::sequence).
///
/// ```no_run
/// use nanoserve_runtime::{Engine, EngineOptions, KvType, Span, Wants};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// let mut sequence = engine.sequence(64, KvType::F16)?;
/// engine.step(&mut [Span::new(&mut sequence, &[1, 15, 9], Wants::Nothing)])?;
/// assert_eq!((sequence.ids(), sequence.capacity()), (&[1, 15, 9][..], 64));
/// // What a new prompt shares with it need not run again.
/// assert_eq!(sequence.reuse(&[1, 15, 4, 2]), 2);
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Sequence<B: Backend> {
    pub(super) cache: B::Cache,
    /// The workspace's RoPE tables that it uses, one for each of the model's rotary embeddings.
    pub(super) ropes: Vec<RopeUse>,
    kv_type: KvType,
    capacity: usize,
    /// The tokens that the cache holds.
    ids: Vec<u32>,
    /// The most positions written since it was empty. A ring holds the last positions before this one.
    most: usize,
    /// (window - 1, ring length) of the layers that use a ring; None if no layer does.
    ring: Option<(usize, usize)>,
    /// A step of the next token, started before that token was known.
    pub(super) ahead: Option<Ahead>,
    /// The part of its KV cache that no token has touched.
    promise: Promise,
}

/// A step that was started before its token was fed. It is used if that token is fed next and no other step ran in
/// between.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The token.
    pub id: u32,
    /// The choice of the token after it.
    pub choice: Choice,
    /// The engine's number of steps right after this one was started.
    pub step: u64,
}

impl<B: Backend> Sequence<B> {
    /// An empty sequence with room for `capacity` positions.
    ///
    /// # Errors
    /// When the model has fewer positions than that, or there is no memory for them.
    pub(super) fn new(
        backend: &mut B,
        spec: &ModelSpec,
        ropes: Vec<RopeUse>,
        (capacity, kv_type): (usize, KvType),
        mut promise: Promise,
    ) -> Result<Self> {
        if capacity > spec.context_length {
            return Err(RuntimeError::ContextTooLong { got: capacity, expected: spec.context_length });
        }
        let shape = KvShape::new(spec, capacity, kv_type);
        let ring = spec.window.as_ref().map(|window| (window.size - 1, shape.positions[window.layers[0]]));
        let ring = ring.filter(|(_, positions)| *positions < capacity);
        let cache = backend.cache(shape, promise.of_all())?;
        promise.set(backend.untouched(&cache, 0));
        Ok(Sequence { cache, ropes, kv_type, capacity, ids: Vec::new(), most: 0, ring, ahead: None, promise })
    }

    /// Number of tokens that the cache holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The tokens that the cache holds, in order.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of positions it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The type of its keys and values.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Forgets all but the first `len` tokens and returns how many are left: `len`, or fewer if it held fewer. It is 0
    /// if a layer with a sliding window needs positions that its ring has overwritten. Going back up to
    /// [`WINDOW_STEP`](crate::backend::WINDOW_STEP) tokens from the longest state is always possible.
    #[must_use = "where nothing is left, all tokens must be fed again"]
    pub fn truncate(&mut self, len: usize) -> usize {
        self.ahead = None;
        self.ids.truncate(len);
        let overwritten =
            |(before, positions): (usize, usize)| self.len().saturating_sub(before) + positions < self.most;
        if self.is_empty() || self.ring.is_some_and(overwritten) {
            self.ids.clear();
            self.most = 0;
        }
        self.len()
    }

    /// Keeps the longest common prefix with `prompt`, except the prompt's last token, which must run again for its
    /// logits. Forgets the rest and returns how many tokens of the prompt need not run.
    pub fn reuse(&mut self, prompt: &[u32]) -> usize {
        self.keep_common(&prompt[..prompt.len().saturating_sub(1)])
    }

    /// Keeps the longest common prefix with `ids`, forgets the rest and returns how many tokens are left.
    pub(crate) fn keep_common(&mut self, ids: &[u32]) -> usize {
        let common = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.truncate(common)
    }

    /// The most positions written since it was last empty.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Records that a step is about to write `tokens` positions after those that count.
    pub(super) fn will_write(&mut self, backend: &B, tokens: usize) {
        self.most = self.most.max(self.len() + tokens);
        self.promise.set(backend.untouched(&self.cache, self.most));
    }

    /// Counts the tokens of a step that has run.
    pub(super) fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
    }

    /// Sets the tokens that the cache holds after it was restored, and the most positions that had been written.
    pub(super) fn set_ids(&mut self, backend: &B, ids: &[u32], most: usize) {
        self.ahead = None;
        self.ids = ids.to_vec();
        self.most = most;
        self.promise.set(backend.untouched(&self.cache, most));
    }
}
