//! Feeding the tokens of one sequence, a chunk a step.

use super::sequence::Ahead;
use super::step::{self, LogitRows, Run, Tap};
use super::{Engine, Logits, Sequence, Span, Wants};
use crate::backend::{Backend, Ids};
use crate::error::Result;
use std::borrow::Cow;

impl<B: Backend> Engine<B> {
    /// Runs tokens in steps of `chunk` and returns the logits of the last one: `[vocab_size]`.
    ///
    /// # Errors
    /// When there is no token, no room for all of them, no memory for a step, or a token is not in the vocabulary. In
    /// these cases nothing runs.
    pub fn feed(&mut self, sequence: &mut Sequence<B>, ids: &[u32], chunk: usize) -> Result<Vec<f32>> {
        match self.feed_for(sequence, ids, chunk, Wants::Last)? {
            Logits::Rows(row) => Ok(row.into_owned()),
            Logits::Top(_) => unreachable!("the row was asked for"),
        }
    }

    /// Like [`Engine::feed`], but returns what `wants` asks of the last chunk.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_for(
        &mut self,
        sequence: &mut Sequence<B>,
        ids: &[u32],
        chunk: usize,
        wants: Wants,
    ) -> Result<Logits<'_>> {
        Ok(self.feed_while(sequence, ids, chunk, wants, &mut || true)?.expect("nothing stops it"))
    }

    /// Like [`Engine::feed_for`], but calls `go_on` before each step and returns None once it says no.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_while(
        &mut self,
        sequence: &mut Sequence<B>,
        ids: &[u32],
        chunk: usize,
        wants: Wants,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Logits<'_>>> {
        let chunk = chunk.max(1);
        step::check(&self.model.spec, sequence, Ids::Known(ids))?;
        let (first, last) = ids.split_at((ids.len() - 1) / chunk * chunk);
        // Whatever can be refused in advance is refused before the first step.
        self.admit(chunk.min(ids.len()), if wants == Wants::All { last.len() } else { 1 })?;
        for ids in first.chunks(chunk) {
            if !go_on() {
                return Ok(None);
            }
            self.step(&mut [Span::new(sequence, ids, Wants::Nothing)])?;
        }
        if !go_on() {
            return Ok(None);
        }
        Ok(self.step(&mut [Span::new(sequence, last, wants)])?.pop())
    }

    /// Runs one token and returns the likeliest next token, or its row of logits. With `more`, a backend that can do so
    /// also starts the step of that next token before the host knows which token it is. The device then works on while
    /// the host waits for the token and feeds it. If the caller does anything else instead, the early step has no
    /// effect.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_ahead(&mut self, sequence: &mut Sequence<B>, id: u32, more: bool) -> Result<Logits<'_>> {
        let ahead = sequence.ahead.take().filter(|ahead| ahead.id == id && ahead.step == self.steps);
        let choice = match ahead {
            Some(ahead) => ahead.choice,
            None => {
                self.begin(&mut [Run { sequence, ids: Ids::Known(&[id]), rows: LogitRows::Last }], None)?;
                let Some(choice) = self.backend.choose(&self.work.logits) else {
                    let row = super::last_row(&mut self.backend, &self.work.logits, 1);
                    self.backend.finish()?;
                    sequence.push(&[id]);
                    return Ok(row);
                };
                self.backend.finish()?;
                choice
            }
        };
        sequence.push(&[id]);
        let after = if more && sequence.len() < sequence.capacity() { self.begin_ahead(sequence)? } else { None };
        let (id, logit) = self.backend.chosen(choice)?;
        sequence.ahead = after.map(|choice| Ahead { id, choice, step: self.steps });
        Ok(Logits::Top(vec![(id, logit)]))
    }

    /// Starts the step of the token chosen last, and the choice of the token after it. The sequence does not count the
    /// token yet: the next step writes the same position.
    fn begin_ahead(&mut self, sequence: &mut Sequence<B>) -> Result<Option<crate::backend::Choice>> {
        self.begin(&mut [Run { sequence, ids: Ids::Chosen, rows: LogitRows::Last }], None)?;
        let choice = self.backend.choose(&self.work.logits);
        self.backend.finish().map(|()| choice)
    }

    /// Runs tokens in one step and returns the logits of all: `[ids, vocab_size]`.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_all(&mut self, sequence: &mut Sequence<B>, ids: &[u32]) -> Result<Vec<f32>> {
        match self.step(&mut [Span::new(sequence, ids, Wants::All)])?.pop() {
            Some(Logits::Rows(rows)) => Ok(rows.into_owned()),
            _ => unreachable!("rows were asked for"),
        }
    }

    /// Runs tokens in steps of `chunk` only to fill the KV cache: no logits.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_quietly(&mut self, sequence: &mut Sequence<B>, ids: &[u32], chunk: usize) -> Result<()> {
        for ids in ids.chunks(chunk.max(1)) {
            self.step(&mut [Span::new(sequence, ids, Wants::Nothing)])?;
        }
        Ok(())
    }

    /// Runs tokens in one step and returns the logits of all: `[ids, vocab_size]`. `tap` sees the result of every
    /// operation and may replace its rows.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn trace(&mut self, sequence: &mut Sequence<B>, ids: &[u32], tap: Tap<'_, '_>) -> Result<Vec<f32>> {
        self.admit(ids.len(), ids.len())?;
        let run = Run { sequence: &mut *sequence, ids: Ids::Known(ids), rows: LogitRows::All };
        self.begin(&mut [run], Some(tap))?;
        let logits = self.backend.read(&self.work.logits).into_owned();
        self.backend.finish()?;
        sequence.push(ids);
        Ok(logits)
    }

    /// Keys and values of the tokens that a sequence holds, in parts. The number of tokens determines their sizes.
    pub(crate) fn cached<'a>(&'a self, sequence: &'a Sequence<B>) -> Result<Vec<Cow<'a, [u8]>>> {
        self.backend.cache_bytes(&sequence.cache, sequence.len())
    }

    /// Puts back what [`Engine::cached`] returned for the tokens `ids`. `most` is the value of [`Sequence::most`] at
    /// that time. If the sizes do not match, returns false and leaves the sequence empty.
    pub(crate) fn restore(&mut self, sequence: &mut Sequence<B>, ids: &[u32], most: usize, kv: &[u8]) -> bool {
        let fits = ids.len() <= most
            && ids.len() <= sequence.capacity()
            && self.backend.set_cache_bytes(&mut sequence.cache, ids.len(), kv);
        let (ids, most) = if fits { (ids, most) } else { (&[][..], 0) };
        sequence.set_ids(&self.backend, ids, most);
        fits
    }

    /// A copy of a sequence: the same tokens, with its own keys and values.
    ///
    /// # Errors
    /// When there is no memory for it, or the keys and values cannot be read from the device.
    pub fn fork(&mut self, sequence: &Sequence<B>) -> Result<Sequence<B>> {
        let mut copy = self.sequence(sequence.capacity(), sequence.kv_type())?;
        let kv = self.backend.cache_bytes(&sequence.cache, sequence.len())?.concat();
        let fits = self.restore(&mut copy, sequence.ids(), sequence.most(), &kv);
        assert!(fits, "two caches of one shape take the same bytes");
        Ok(copy)
    }

    /// Ok if there is memory for a step of `tokens` tokens and `logits` rows of logits. A size that was admitted once
    /// stays admitted, because the buffers keep their memory; asking the system takes longer than a small step.
    pub(super) fn admit(&mut self, tokens: usize, logits: usize) -> Result<()> {
        let [most_tokens, most_logits] = self.admitted;
        if tokens <= most_tokens && logits <= most_logits {
            return Ok(());
        }
        super::admission::admit_step(&self.model.spec, tokens, logits, self.room())?;
        self.admitted = [tokens.max(most_tokens), logits.max(most_logits)];
        Ok(())
    }
}
