//! The text of an answer: what is printed, what a conversation remembers, and which tokens stand in it.
//!
//! ```text
//! an ordinary token      its text, as far as its characters are whole
//! a special token        its name, which stop texts may match; printed and returned only where the options say so
//! a token that ends      as a special token, whether or not it is one
//! ```

use super::options::{GenerateOptions, Specials};
use super::outcome::StopReason;
use super::stops::StopMatcher;
use crate::error::Result;
use nanoserve_tokenizer::{TextStream, Tokenizer};

/// The text so far. Without a tokenizer there is none.
pub(super) struct AnswerText {
    tokens: Option<(Tokenizer, TextStream)>,
    specials: Specials,
    stops: StopMatcher,
    /// What is certain, and was passed on.
    text: String,
    /// The same without special tokens; None where none has a text.
    content: Option<(StopMatcher, String)>,
    /// For each token, where its text ends, names of special tokens included; empty without stop texts.
    ends: Vec<usize>,
}

impl AnswerText {
    /// The text that follows a prompt.
    pub fn after(prompt: &[u32], options: &GenerateOptions, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let stops = StopMatcher::new(options.stops.clone())?;
        let stream =
            |t: &Tokenizer| Ok::<_, crate::error::RuntimeError>((t.clone(), TextStream::after(t, prompt, true)?));
        Ok(AnswerText {
            tokens: tokenizer.map(stream).transpose()?,
            specials: options.specials.clone(),
            content: (options.specials != Specials::None).then(|| (stops.clone(), String::new())),
            stops,
            text: String::new(),
            ends: Vec::new(),
        })
    }

    /// Adds a token, which may be one that ends the answer. Returns the text that is certain now, and whether a stop text
    /// is complete.
    pub fn push(&mut self, id: u32, is_end: bool) -> Result<(String, bool)> {
        let Some((tokenizer, stream)) = &mut self.tokens else { return Ok((String::new(), false)) };
        let is_mark = is_end || tokenizer.is_special(id);
        let shown = match &self.specials {
            Specials::None => false,
            Specials::These(ids) => ids.contains(&id),
            Specials::All => true,
        };
        let new = match is_mark {
            true => tokenizer.id_to_piece(id).unwrap_or_default(),
            false => stream.push(id)?,
        };
        if self.stops.has_stops() {
            self.ends.push(self.ends.last().unwrap_or(&0) + new.len());
        }
        if let Some((stops, content)) = &mut self.content {
            content.push_str(&if is_mark { stops.push_hidden(&new) } else { stops.push(&new) }.0);
        }
        let hide = is_mark && !shown;
        let (text, stopped) = if hide { self.stops.push_hidden(&new) } else { self.stops.push(&new) };
        self.text.push_str(&text);
        Ok((text, stopped.is_some()))
    }

    /// The text so far.
    pub fn so_far(&self) -> &str {
        &self.text
    }

    /// Ends the text where no stop text has. Returns what was held back.
    pub fn end(&mut self) -> String {
        let end = self.tokens.as_mut().map_or(String::new(), |(_, stream)| stream.finish());
        let rest = last(&mut self.stops, &end);
        self.text.push_str(&rest);
        if let Some((stops, content)) = &mut self.content {
            content.push_str(&last(stops, &end));
        }
        rest
    }

    /// How many of `made` tokens are in the text; see [`Generation::said`](super::Generation::said).
    pub fn said(&self, reason: StopReason, made: usize) -> Option<usize> {
        match reason {
            StopReason::Eos => Some(made - 1),
            StopReason::Stop => {
                let cut = self.stops.passed();
                let said = self.ends.partition_point(|&end| end <= cut);
                let end = said.checked_sub(1).map_or(0, |last| self.ends[last]);
                (end == cut).then_some(said)
            }
            _ => Some(made),
        }
    }

    /// The text, and the same without special tokens.
    pub fn into_texts(self) -> (String, String) {
        let content = self.content.map_or_else(|| self.text.clone(), |(_, content)| content);
        (self.text, content)
    }
}

/// The last text, and what was held back before it.
fn last(stops: &mut StopMatcher, end: &str) -> String {
    let (mut rest, stopped) = stops.push(end);
    if stopped.is_none() {
        rest.push_str(&stops.flush());
    }
    rest
}
