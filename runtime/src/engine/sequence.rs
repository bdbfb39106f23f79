//! A sequence of tokens: its keys and values, and what is known of them. It owns all of that, so that an engine can have
//! many, and a caller can keep, drop and send them.

use super::ledger::Promise;
use super::workspace::RopeUse;
use crate::backend::{Backend, Choice, KvShape, KvType};
use crate::error::{Result, RuntimeError};
use nanoserve_format::ModelSpec;

/// Tokens that went through a model, and the keys and values that they left behind. Made by
/// [`Engine::sequence`](super::Engine::sequence).
#[derive(Debug)]
pub struct Sequence<B: Backend> {
    pub(super) cache: B::Cache,
    /// Tables of the workspace, one for each of the model's rotary embeddings.
    pub(super) ropes: Vec<RopeUse>,
    kv_type: KvType,
    capacity: usize,
    /// The tokens that the cache holds.
    ids: Vec<u32>,
    /// The most positions that were written since it was empty: a ring holds the last before this many.
    most: usize,
    /// (window - 1, ring length) of the layers that use a ring; None if no layer does.
    ring: Option<(usize, usize)>,
    /// A step beyond the tokens, begun before its token was known.
    pub(super) ahead: Option<Ahead>,
    /// What of its cache no token has touched.
    promise: Promise,
}

/// A step that was begun before its token was fed. It counts when that is what is fed next, and nothing else ran since.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The token.
    pub id: u32,
    /// What is chosen behind it.
    pub choice: Choice,
    /// The engine's count of steps once it had begun.
    pub step: u64,
}

impl<B: Backend> Sequence<B> {
    /// An empty sequence with room for `capacity` positions.
    ///
    /// # Errors
    /// When the model has fewer positions than that, or the system gives no memory for them.
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
        let cache = backend.cache(shape)?;
        promise.set(backend.untouched(&cache, 0));
        Ok(Sequence { cache, ropes, kv_type, capacity, ids: Vec::new(), most: 0, ring, ahead: None, promise })
    }

    /// Tokens that the cache holds.
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

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How its keys and values are kept.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Forgets all but the first `len` tokens; how many are left. That is `len`, or what there was where that is less; and
    /// nothing where a layer with a window would have to see positions that its ring has given to later ones. Going back by
    /// [`WINDOW_STEP`](crate::backend::WINDOW_STEP) tokens from the most there were is always possible.
    #[must_use = "where nothing is left, all tokens must be fed again"]
    pub fn truncate(&mut self, len: usize) -> usize {
        self.ahead = None;
        self.ids.truncate(len);
        let lost = |(before, positions): (usize, usize)| self.len().saturating_sub(before) + positions < self.most;
        if self.is_empty() || self.ring.is_some_and(lost) {
            self.ids.clear();
            self.most = 0;
        }
        self.len()
    }

    /// Keeps what the cache shares with the beginning of `prompt`, its last token apart, which must run again for its
    /// logits, and forgets the rest. How many tokens of the prompt need not run.
    pub fn reuse(&mut self, prompt: &[u32]) -> usize {
        self.keep_common(&prompt[..prompt.len().saturating_sub(1)])
    }

    /// Forgets all behind what the cache shares with the beginning of `ids`; how many tokens are left.
    pub(crate) fn keep_common(&mut self, ids: &[u32]) -> usize {
        let common = self.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.truncate(common)
    }

    /// The most positions written since it was empty.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Says that a step is about to write `tokens` positions behind those that count.
    pub(super) fn will_write(&mut self, backend: &B, tokens: usize) {
        self.most = self.most.max(self.len() + tokens);
        self.promise.set(backend.untouched(&self.cache, self.most));
    }

    /// The tokens of a step that has run count.
    pub(super) fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
    }

    /// Takes tokens, of `most` that there had been, as those that the cache holds.
    pub(super) fn set_ids(&mut self, backend: &B, ids: &[u32], most: usize) {
        self.ahead = None;
        self.ids = ids.to_vec();
        self.most = most;
        self.promise.set(backend.untouched(&self.cache, most));
    }
}
