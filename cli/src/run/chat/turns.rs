//! The turns of a conversation: each renders the prompt, runs its new part, prints the answer and keeps it.

use crate::run::Arguments;
use crate::{console, machine};
use anyhow::{Result, bail};
use nanoserve_runtime::chat::{ChatTemplate, Conversation, Prompter};
use nanoserve_runtime::{GenerateOptions, RuntimeError, Session, StopReason, Tokenizer};
use nanoserve_template::Clock;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A conversation on a session.
pub struct Chat<'c> {
    session: Session<'c, machine::Backend>,
    tokenizer: &'c Tokenizer,
    template: ChatTemplate,
    pub conversation: Conversation,
    prompter: Prompter,
    options: GenerateOptions,
    interrupted: &'c AtomicBool,
    pub arguments: &'c Arguments,
    last: Option<Turn>,
}

/// Token counts and times of a turn.
#[derive(Clone, Debug)]
struct Turn {
    prompt: usize,
    run: usize,
    generated: usize,
    first_token_s: f64,
    seconds: f64,
    stop_reason: StopReason,
}

/// How a turn ended.
pub enum Answered {
    /// There is an answer, or a part of one.
    Done(StopReason),
    /// Too little of the context is left: tokens of the prompt, and positions of the context.
    Full { prompt: usize, capacity: usize },
    /// The reader of standard output has closed it.
    Gone,
}

impl<'c> Chat<'c> {
    pub fn new(
        session: Session<'c, machine::Backend>,
        tokenizer: &'c Tokenizer,
        template: ChatTemplate,
        conversation: Conversation,
        options: GenerateOptions,
        interrupted: &'c AtomicBool,
        arguments: &'c Arguments,
    ) -> Self {
        let prompter = Prompter::default();
        Chat { session, tokenizer, template, conversation, prompter, options, interrupted, arguments, last: None }
    }

    /// The least number of positions for an answer. With fewer left, the context counts as full.
    fn least(&self) -> usize {
        (self.session.capacity() / 8).clamp(1, 64).min(self.options.max_tokens.unwrap_or(64))
    }

    /// The prompt's text and ids.
    fn prompt(&self) -> Result<(String, Vec<u32>)> {
        let clock = self.arguments.chat.now.unwrap_or_else(Clock::now);
        let text = self.template.render(&self.conversation, clock)?;
        let ids = self.prompter.ids(&text, self.tokenizer).map_err(RuntimeError::from)?;
        Ok((text, ids))
    }

    /// Answers the conversation where no user can be asked: a full context is an error.
    pub fn answer(&mut self, out: &mut dyn Write) -> Result<Answered> {
        match self.try_answer(out)? {
            Answered::Full { prompt, capacity } => bail!(
                "the conversation has {prompt} tokens, the context {capacity}: too little is left for an answer; shorten \
                 it, or give a larger --ctx"
            ),
            other => Ok(other),
        }
    }

    /// The same as [`Self::answer`], but a full context is returned as [`Answered::Full`].
    pub fn try_answer(&mut self, out: &mut dyn Write) -> Result<Answered> {
        let start = Instant::now();
        let a = self.arguments;
        let (text, prompt) = self.prompt()?;
        let capacity = self.session.capacity();
        if prompt.len() + self.least() > capacity {
            return Ok(Answered::Full { prompt: prompt.len(), capacity });
        }
        let (interrupted, mut broken) = (self.interrupted, None);
        interrupted.store(false, Ordering::SeqCst);
        let generation = self.session.generate(&prompt, &self.options, Some(self.tokenizer), &mut |text| {
            if !a.json && !text.is_empty() {
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                broken = broken.take().or(written.err());
            }
            broken.is_none() && !interrupted.load(Ordering::SeqCst)
        })?;
        interrupted.store(false, Ordering::SeqCst);
        let run = prompt.len() - generation.reused;
        self.last = Some(Turn {
            prompt: prompt.len(),
            run,
            generated: generation.ids.len(),
            first_token_s: generation.timings.first_token_s,
            seconds: start.elapsed().as_secs_f64(),
            stop_reason: generation.stop_reason,
        });
        let written = match a.json {
            true => writeln!(
                out,
                "{}",
                serde_json::json!({
                    "prompt_ids": prompt, "ids": generation.ids, "text": generation.text, "prompt_run": run,
                    "stop_reason": generation.stop_reason.to_string(), "logits_hash": generation.logits_hash,
                    "seed": self.options.sampling.seed,
                    "timings": {
                        "first_token_s": generation.timings.first_token_s,
                        "prompt_tok_s": generation.timings.prompt_tok_s,
                        "generate_tok_s": generation.timings.generate_tok_s,
                    },
                })
            ),
            false => writeln!(out),
        };
        if let Some(e) = broken.or(written.err()) {
            console::broken_pipe(e)?;
            return Ok(Answered::Gone);
        }
        self.conversation.answered(&generation.text);
        let ended = usize::from(generation.stop_reason == StopReason::Eos);
        let said = &generation.ids[..generation.ids.len() - ended];
        // If the text lacks some of the generated tokens, the next prompt encodes it anew.
        if generation.stop_reason == StopReason::Stop || said.iter().any(|&id| self.tokenizer.is_special(id)) {
            self.prompter.reset();
        } else {
            self.prompter.answered(&text, &prompt, &generation.text, said);
        }
        if !a.quiet && !a.json && generation.stop_reason == StopReason::Context {
            console::tell("[the context is full: the answer ends here]");
        }
        Ok(Answered::Done(generation.stop_reason))
    }

    /// Forgets the conversation except for the system message.
    pub fn reset(&mut self) {
        self.conversation.clear();
        self.prompter.reset();
        self.last = None;
    }

    /// Continues with another conversation.
    pub fn take(&mut self, conversation: Conversation) {
        self.conversation = conversation;
        self.prompter.reset();
    }

    /// Drops the oldest turns until there is room for an answer. Returns how many were dropped.
    pub fn make_room(&mut self) -> Result<usize> {
        let capacity = self.session.capacity();
        let mut dropped = 0;
        // Makes room for more than one short answer; otherwise the next turn would ask again.
        while self.prompt()?.1.len() + self.least().max(capacity / 4) > capacity && self.conversation.drop_oldest() {
            dropped += 1;
        }
        Ok(dropped)
    }

    /// The text of `/stats`.
    pub fn stats(&self) -> String {
        let capacity = self.session.capacity();
        let mut text = format!(
            "{} messages | context: {} of {capacity} positions used",
            self.conversation.len(),
            self.session.len()
        );
        if let Some(Turn { prompt, run, generated, first_token_s, seconds, stop_reason }) = &self.last {
            text += &format!(
                "\nlast turn: prompt {prompt} tokens, {run} of them run, {} kept | generated {generated} | first token \
                 {first_token_s:.3} s, all {seconds:.3} s | stopped: {stop_reason}",
                prompt - run
            );
        }
        text
    }
}
