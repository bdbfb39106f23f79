//! Tokens of one sequence, in steps of a chunk.

use super::sequence::Ahead;
use super::step::{self, LogitRows, Run, Tap};
use super::{Engine, Logits, Sequence, Span, Wants};
use crate::backend::{Backend, Ids};
use crate::error::Result;
use std::borrow::Cow;

impl<B: Backend> Engine<B> {
    /// Runs tokens in steps of `chunk` and returns the logits of the last: `[vocab_size]`.
    ///
    /// # Errors
    /// When there is no token, no room for all of them, no memory for a step, or one is not in the vocabulary; nothing is
    /// run then.
    pub fn feed(&mut self, sequence: &mut Sequence<B>, ids: &[u32], chunk: usize) -> Result<Vec<f32>> {
        match self.feed_for(sequence, ids, chunk, Wants::Last)? {
            Logits::Rows(row) => Ok(row),
            Logits::Top(_) => unreachable!("the row was asked for"),
        }
    }

    /// As [`Engine::feed`], giving what `wants` says of the last chunk.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_for(&mut self, sequence: &mut Sequence<B>, ids: &[u32], chunk: usize, wants: Wants) -> Result<Logits> {
        Ok(self.feed_while(sequence, ids, chunk, wants, &mut || true)?.expect("nothing stops it"))
    }

    /// As [`Engine::feed_for`], asking before each step whether to go on; None when the answer was no.
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
    ) -> Result<Option<Logits>> {
        let chunk = chunk.max(1);
        step::check(&self.model.spec, sequence, Ids::Known(ids))?;
        let (first, last) = ids.split_at((ids.len() - 1) / chunk * chunk);
        // All that is known to be refused is refused before the first step.
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

    /// Runs one token and gives the likeliest one behind it, or its row of logits. With `more`, where the backend can: the
    /// step of that likeliest token is begun before the host knows which it is, so that the device goes on while this waits
    /// and until the token is fed in its turn. Whatever else is done, it is as if that step had not been.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_ahead(&mut self, sequence: &mut Sequence<B>, id: u32, more: bool) -> Result<Logits> {
        let ahead = sequence.ahead.take().filter(|ahead| ahead.id == id && ahead.step == self.steps);
        let choice = match ahead {
            Some(ahead) => ahead.choice,
            None => {
                self.begin(&mut [Run { sequence, ids: Ids::Known(&[id]), rows: LogitRows::Last }], None)?;
                let choice = self.backend.choose(&self.work.logits);
                let row = if choice.is_none() { Some(self.last_row(Some(1))) } else { None };
                self.backend.finish()?;
                match (choice, row) {
                    (Some(choice), _) => choice,
                    (None, row) => {
                        sequence.push(&[id]);
                        return Ok(row.expect("read above"));
                    }
                }
            }
        };
        sequence.push(&[id]);
        let after = if more && sequence.len() < sequence.capacity() { self.begin_ahead(sequence)? } else { None };
        let (id, logit) = self.backend.chosen(choice)?;
        sequence.ahead = after.map(|choice| Ahead { id, choice, step: self.steps });
        Ok(Logits::Top(vec![(id, logit)]))
    }

    /// The step of the token that was chosen last, and the choice behind it. The token does not count yet: its position is
    /// the next step's.
    fn begin_ahead(&mut self, sequence: &mut Sequence<B>) -> Result<Option<crate::backend::Choice>> {
        self.begin(&mut [Run { sequence, ids: Ids::Chosen, rows: LogitRows::Last }], None)?;
        let choice = self.backend.choose(&self.work.logits);
        self.backend.finish().map(|()| choice)
    }

    /// Runs tokens in one step; logits of all: `[ids, vocab_size]`.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_all(&mut self, sequence: &mut Sequence<B>, ids: &[u32]) -> Result<Vec<f32>> {
        match self.step(&mut [Span::new(sequence, ids, Wants::All)])?.pop() {
            Some(Logits::Rows(rows)) => Ok(rows),
            _ => unreachable!("rows were asked for"),
        }
    }

    /// Runs tokens in steps of `chunk` for the cache alone.
    ///
    /// # Errors
    /// As [`Engine::feed`].
    pub fn feed_quietly(&mut self, sequence: &mut Sequence<B>, ids: &[u32], chunk: usize) -> Result<()> {
        for ids in ids.chunks(chunk.max(1)) {
            self.step(&mut [Span::new(sequence, ids, Wants::Nothing)])?;
        }
        Ok(())
    }

    /// Runs tokens in one step, showing every operation's result to `tap`, which may put other rows in its place; logits
    /// of all: `[ids, vocab_size]`.
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

    /// Keys and values of the tokens that a sequence holds, in parts whose sizes follow from their number.
    pub(crate) fn cached<'a>(&'a self, sequence: &'a Sequence<B>) -> Result<Vec<Cow<'a, [u8]>>> {
        self.backend.cache_bytes(&sequence.cache, sequence.len())
    }

    /// Takes back what [`Engine::cached`] gave for these tokens, of `most` that there had been; false, and an empty
    /// sequence, where the sizes are others.
    pub(crate) fn restore(&mut self, sequence: &mut Sequence<B>, ids: &[u32], most: usize, kv: &[u8]) -> bool {
        let fits = ids.len() <= most
            && ids.len() <= sequence.capacity()
            && self.backend.set_cache_bytes(&mut sequence.cache, ids.len(), kv);
        let (ids, most) = if fits { (ids, most) } else { (&[][..], 0) };
        sequence.set_ids(&self.backend, ids, most);
        fits
    }

    /// A sequence that holds the same tokens as another, with keys and values of its own.
    ///
    /// # Errors
    /// When there is no memory for it, or a device does not give the keys and values.
    pub fn fork(&mut self, sequence: &Sequence<B>) -> Result<Sequence<B>> {
        let mut copy = self.sequence(sequence.capacity(), sequence.kv_type())?;
        let kv = self.backend.cache_bytes(&sequence.cache, sequence.len())?.concat();
        let fits = self.restore(&mut copy, sequence.ids(), sequence.most(), &kv);
        assert!(fits, "two caches of one shape take the same bytes");
        Ok(copy)
    }

    /// Ok where there is memory for a step of so many tokens and rows of logits. What was admitted once stays so, since the
    /// buffers keep their room: to ask the system takes longer than a small step.
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
