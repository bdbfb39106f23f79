//! A sequence that has an engine to itself: what most callers need.

use super::step::Tap;
use super::{Engine, Logits, Sequence, Wants};
use crate::backend::Backend;
use crate::error::Result;
use std::borrow::Cow;
use std::ops::{Deref, DerefMut};

/// A sequence bound to an engine. It derefs to [`Sequence`].
///
/// ```no_run
/// use nanoserve_runtime::{Engine, EngineOptions, KvType};
///
/// let mut engine = Engine::open("model.nsv", &EngineOptions::default())?;
/// let mut session = engine.session(64, KvType::F16)?;
/// session.feed(&[1, 15, 9], 256)?;
/// // Back to the first token, then another way: the KV cache keeps what is common.
/// assert_eq!(session.truncate(1), 1);
/// let logits = session.feed(&[4, 2], 256)?;
/// # Ok::<(), nanoserve_runtime::RuntimeError>(())
/// ```
#[derive(Debug)]
pub struct Session<'e, B: Backend> {
    engine: &'e mut Engine<B>,
    sequence: Sequence<B>,
}

impl<B: Backend> Deref for Session<'_, B> {
    type Target = Sequence<B>;

    fn deref(&self) -> &Sequence<B> {
        &self.sequence
    }
}

impl<B: Backend> DerefMut for Session<'_, B> {
    fn deref_mut(&mut self) -> &mut Sequence<B> {
        &mut self.sequence
    }
}

impl<'e, B: Backend> Session<'e, B> {
    pub(super) fn new(engine: &'e mut Engine<B>, sequence: Sequence<B>) -> Self {
        Session { engine, sequence }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &Engine<B> {
        self.engine
    }

    /// See [`Engine::feed`].
    ///
    /// # Errors
    /// As there.
    pub fn feed(&mut self, ids: &[u32], chunk: usize) -> Result<Vec<f32>> {
        self.engine.feed(&mut self.sequence, ids, chunk)
    }

    /// See [`Engine::feed_for`].
    ///
    /// # Errors
    /// As there.
    pub fn feed_for(&mut self, ids: &[u32], chunk: usize, wants: Wants) -> Result<Logits<'_>> {
        self.engine.feed_for(&mut self.sequence, ids, chunk, wants)
    }

    /// See [`Engine::feed_while`].
    ///
    /// # Errors
    /// As there.
    pub fn feed_while(
        &mut self,
        ids: &[u32],
        chunk: usize,
        wants: Wants,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Logits<'_>>> {
        self.engine.feed_while(&mut self.sequence, ids, chunk, wants, go_on)
    }

    /// See [`Engine::feed_ahead`].
    ///
    /// # Errors
    /// As there.
    pub fn feed_ahead(&mut self, id: u32, more: bool) -> Result<Logits<'_>> {
        self.engine.feed_ahead(&mut self.sequence, id, more)
    }

    /// Ok if there is memory for a step of `tokens` tokens and `logits` rows of logits. Such a step does not ask again.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn admit(&mut self, tokens: usize, logits: usize) -> Result<()> {
        self.engine.admit(tokens, logits)
    }

    /// See [`Engine::feed_all`].
    ///
    /// # Errors
    /// As there.
    pub fn feed_all(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.engine.feed_all(&mut self.sequence, ids)
    }

    /// See [`Engine::feed_quietly`].
    ///
    /// # Errors
    /// As there.
    pub fn feed_quietly(&mut self, ids: &[u32], chunk: usize) -> Result<()> {
        self.engine.feed_quietly(&mut self.sequence, ids, chunk)
    }

    /// See [`Engine::trace`].
    ///
    /// # Errors
    /// As there.
    pub fn trace(&mut self, ids: &[u32], tap: Tap<'_, '_>) -> Result<Vec<f32>> {
        self.engine.trace(&mut self.sequence, ids, tap)
    }

    /// See [`Engine::cached`].
    pub(crate) fn cached(&self) -> Result<Vec<Cow<'_, [u8]>>> {
        self.engine.cached(&self.sequence)
    }

    /// See [`Engine::restore`].
    pub(crate) fn restore(&mut self, ids: &[u32], most: usize, kv: &[u8]) -> bool {
        self.engine.restore(&mut self.sequence, ids, most, kv)
    }
}
