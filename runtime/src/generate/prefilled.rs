//! A prompt that has run, to be continued any number of times.

/// A prompt that has run in a session.
#[derive(Clone, Debug)]
pub struct Prefilled {
    pub(super) ids: Vec<u32>,
    /// `[vocab_size]`: the logits of its last token; None if the caller stopped before its end.
    pub(super) logits: Option<Vec<f32>>,
    pub(super) reused: usize,
    pub(super) seconds: f64,
}

impl Prefilled {
    /// Its tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether all of it has run.
    pub fn is_complete(&self) -> bool {
        self.logits.is_some()
    }

    /// Tokens of it that the cache already held.
    pub fn reused(&self) -> usize {
        self.reused
    }
}
