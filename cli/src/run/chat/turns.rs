//! One turn after another: a prompt is rendered, what is new of it runs, the answer is printed and remembered.

use super::lines::{Line, Lines};
use crate::run::cache::{Kept, When};
use crate::run::{Arguments, statistics};
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
    /// What `--prompt-cache` keeps.
    pub kept: Kept<'c>,
    /// Seconds until the model could run.
    pub load_s: f64,
    /// What `--json` says of several answers to one conversation.
    pub reports: Vec<serde_json::Value>,
    last: Option<Turn>,
}

/// What a turn took.
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
    /// Too little of the context is left: tokens of the prompt, and positions there are.
    Full { prompt: usize, capacity: usize },
    /// Nobody reads our output any more.
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
        let (prompter, kept, load_s, reports) = (Prompter::default(), Kept::nothing(), 0.0, Vec::new());
        let last = None;
        Chat {
            session,
            tokenizer,
            template,
            conversation,
            prompter,
            options,
            interrupted,
            arguments,
            kept,
            load_s,
            reports,
            last,
        }
    }

    /// Takes one message from the user, passing over empty ones; whether there was any.
    pub fn hear(&mut self, lines: &mut Lines) -> Result<bool> {
        loop {
            match lines.next()? {
                Line::Text(text) if text.trim().is_empty() => {}
                Line::Text(text) => {
                    self.conversation
                        .push("user", text.strip_prefix('/').filter(|_| text.starts_with("//")).unwrap_or(&text));
                    return Ok(true);
                }
                Line::Interrupted | Line::End => return Ok(false),
            }
        }
    }

    /// Goes back to a conversation for another answer, with the next seed, which is returned.
    pub fn begin_again(&mut self, conversation: Conversation) -> u64 {
        self.take(conversation);
        let seed = self.options.sampling.seed.wrapping_add(1);
        self.options.sampling.seed = seed;
        seed
    }

    /// Keeps what the session holds, if it is time for that.
    pub fn keep(&mut self, when: When) {
        self.kept.save(when, &self.session);
    }

    /// What to do about a context that is too short.
    pub fn remedy(&self) -> &'static str {
        match self.session.capacity() < self.session.engine().file().spec().context_length {
            true => "shorten it, or give a larger --ctx",
            false => "shorten it: the model has no more positions",
        }
    }

    /// Positions that an answer needs at least: a conversation that leaves fewer is full.
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

    /// Answers the conversation as it stands; outside an interactive one, a full context is an error.
    pub fn answer(&mut self, out: &mut dyn Write) -> Result<Answered> {
        match self.try_answer(out)? {
            Answered::Full { prompt, capacity } => bail!(
                "the conversation has {prompt} tokens, the context {capacity}: too little is left for an answer; {}",
                self.remedy()
            ),
            other => Ok(other),
        }
    }

    /// As [`Self::answer`], but a full context is one of the answers.
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
        // Checked before the prompt runs, which takes time.
        self.options.check()?;
        self.kept.begin(&self.session, &prompt, self.options.max_tokens);
        let go_on = &mut || !interrupted.load(Ordering::SeqCst);
        let ran = self.session.prompt(&prompt, self.options.chunk, go_on)?;
        if ran.is_complete() {
            self.kept.save(When::Prompt, &self.session);
        }
        let generation = self.session.generate_after(&ran, &self.options, Some(self.tokenizer), &mut |text| {
            if !a.json && !text.is_empty() {
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                broken = broken.take().or(written.err());
            }
            broken.is_none() && !interrupted.load(Ordering::SeqCst)
        })?;
        interrupted.store(false, Ordering::SeqCst);
        self.kept.save(When::Answer, &self.session);
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
            true => {
                let (seed, device) = (self.options.sampling.seed, machine::device_name(self.session.engine()));
                let tokenizer = Some(self.tokenizer);
                let mut report = statistics::json(&ran, &generation, seed, self.load_s, tokenizer, &device)?;
                report["prompt_run"] = run.into();
                match a.answer.n_samples {
                    Some(_) => {
                        self.reports.push(report);
                        Ok(())
                    }
                    None => writeln!(out, "{report}"),
                }
            }
            false => writeln!(out),
        };
        if let Some(e) = broken.or(written.err()) {
            console::broken_pipe(e)?;
            return Ok(Answered::Gone);
        }
        self.conversation.answered(&generation.text);
        let ended = usize::from(generation.stop_reason == StopReason::Eos);
        let said = &generation.ids[..generation.ids.len() - ended];
        // Where the text is not all that was said, it will be encoded anew.
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

    /// Forgets the conversation but for the system message.
    pub fn reset(&mut self) {
        self.conversation.clear();
        self.prompter.reset();
        self.last = None;
    }

    /// Takes another conversation up.
    pub fn take(&mut self, conversation: Conversation) {
        self.conversation = conversation;
        self.prompter.reset();
    }

    /// Drops turns from the oldest on until there is room for an answer; how many were dropped.
    pub fn make_room(&mut self) -> Result<usize> {
        let capacity = self.session.capacity();
        let mut dropped = 0;
        // Room for more than one short answer, or the next turn would ask again.
        while self.prompt()?.1.len() + self.least().max(capacity / 4) > capacity && self.conversation.drop_oldest() {
            dropped += 1;
        }
        Ok(dropped)
    }

    /// What `/stats` tells.
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
