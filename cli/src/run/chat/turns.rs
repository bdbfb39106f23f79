//! The turns of a conversation: each renders the prompt, runs its new part, prints the answer and keeps it.

use super::banner::banner;
use super::fit::say;
use super::lines::{Line, Lines};
use super::screen::{Look, Screen, without_reasoning};
use super::settings::{self, Shown};
use super::turn::Turn;
use crate::run::cache::{Kept, When};
use crate::run::{Arguments, progress, statistics};
use crate::{console, machine};
use anyhow::{Result, bail};
use nanoserve_runtime::chat::{ChatTemplate, Conversation, Prompter, Reasoning};
use nanoserve_runtime::{GenerateOptions, RuntimeError, Session, StopReason, Tokenizer};
use nanoserve_template::Clock;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A conversation on a session.
pub struct Chat<'c> {
    session: Session<'c, machine::Backend>,
    tokenizer: &'c Tokenizer,
    pub template: ChatTemplate,
    pub conversation: Conversation,
    prompter: Prompter,
    options: GenerateOptions,
    interrupted: &'c AtomicBool,
    pub arguments: &'c Arguments,
    pub shown: Shown,
    /// What `/read` has read: it comes before the next message.
    read: String,
    /// Messages of which it is known that the template writes them.
    written: usize,
    /// What `--prompt-cache` keeps.
    pub kept: Kept<'c>,
    /// Seconds until the model could run.
    pub load_s: f64,
    /// What `--json` says of several answers to one conversation.
    pub reports: Vec<serde_json::Value>,
    last: Option<Turn>,
}

/// What to say of a message that the template does not write.
pub fn lost(template: &ChatTemplate, conversation: &Conversation, clock: Clock, from: usize) -> Option<String> {
    let (index, role) = template.lost(conversation, clock, from)?;
    Some(format!(
        "message {} has the role '{role}', which the chat template leaves out: what it says would be lost",
        index + 1
    ))
}

/// How a turn ended.
pub enum Answered {
    /// There is an answer, or a part of one.
    Done(StopReason),
    /// Too little of the context is left: tokens of the prompt, and positions of the context.
    Full { prompt: usize, capacity: usize },
    /// Standard output takes no more: the exit code that the program ends with.
    Gone(ExitCode),
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
        let hide_reasoning = arguments.chat.hide_reasoning;
        Chat {
            session,
            tokenizer,
            template,
            conversation,
            prompter,
            options,
            interrupted,
            arguments,
            shown: Shown { stats: false, wrap: true, hide_reasoning },
            read: String::new(),
            written: 0,
            kept,
            load_s,
            reports,
            last: None,
        }
    }

    /// The line that a conversation begins with.
    pub fn banner(&self) -> Result<String> {
        banner(self.session.engine(), &self.arguments.model, self.session.capacity())
    }

    /// Adds what the user says, behind what was read for it.
    pub fn say(&mut self, text: &str) {
        self.conversation.push("user", &[&self.read, text].concat());
    }

    /// Keeps a file's text for the next message; its characters so far.
    pub fn read(&mut self, text: &str) -> usize {
        self.read.push_str(text.strip_suffix('\n').unwrap_or(text));
        self.read.push_str("\n\n");
        self.read.chars().count()
    }

    /// Forgets what `/read` has read.
    pub fn unread(&mut self) {
        self.read.clear();
    }

    /// Whether `/read` has read something for the next message.
    pub fn has_read(&self) -> bool {
        !self.read.is_empty()
    }

    /// Sets what the model is told before the conversation; None takes it away.
    pub fn set_system(&mut self, text: Option<&str>) {
        self.conversation.set_system(text);
        self.written = 0;
    }

    /// Whether the last message is the model's, in answer to something.
    pub fn is_answered(&self) -> bool {
        self.conversation.last_role().as_deref() == Some("assistant") && self.conversation.len() > 1
    }

    /// Forgets the last answer, so that another can be made: with the next seed.
    pub fn forget_answer(&mut self) {
        self.conversation.pop();
        self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
    }

    /// Does what `/set` says: NAME VALUE, or nothing for a list.
    pub fn set(&mut self, argument: &str) -> Result<String> {
        match argument.split_once(char::is_whitespace) {
            None if argument.is_empty() => Ok(settings::list(&self.options, &self.shown)),
            None => bail!("/set needs a name and a value; alone it lists them"),
            Some((name, value)) => {
                let name = settings::set(name, value.trim(), &mut self.options, &mut self.shown)?;
                Ok(format!("[{name} is {} from here on]", value.trim()))
            }
        }
    }

    /// Takes one message from the user, passing over empty ones; whether there was any.
    pub fn hear(&mut self, lines: &mut Lines) -> Result<bool> {
        loop {
            match lines.next()? {
                Line::Text(text) if text.trim().is_empty() => {}
                Line::Text(text) => {
                    self.say(text.strip_prefix('/').filter(|_| text.starts_with("//")).unwrap_or(&text));
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
                "the conversation has {prompt} tokens, the context {capacity}: too little is left for an answer; {}",
                self.remedy()
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
        let clock = a.chat.now.unwrap_or_else(Clock::now);
        let from = self.written.min(self.conversation.len().saturating_sub(1));
        if let Some(lost) = lost(&self.template, &self.conversation, clock, from) {
            bail!(lost);
        }
        // Checked before the prompt runs, which takes time.
        self.options.check()?;
        let (interrupted, mut broken) = (self.interrupted, None);
        interrupted.store(false, Ordering::SeqCst);
        self.kept.begin(&self.session, &prompt, self.options.max_tokens);
        let going = progress::of(&self.session, &prompt, self.options.chunk, a.quiet);
        let ran = self.session.prompt(&prompt, self.options.chunk, &mut || {
            going.step();
            !interrupted.load(Ordering::SeqCst)
        })?;
        drop(going);
        if ran.is_complete() {
            self.kept.save(When::Prompt, &self.session);
        }
        let mut nowhere = std::io::sink();
        let to: &mut dyn Write = if a.json { &mut nowhere } else { &mut *out };
        let reasoning = match self.conversation.continued_text() {
            Some(said) => Reasoning::after_part(&text, &said),
            None => Reasoning::after(&text),
        };
        let mut screen =
            Screen::new(to, reasoning.clone(), Look::of_output(self.shown.wrap, self.shown.hide_reasoning));
        let generation = self.session.generate_after(&ran, &self.options, Some(self.tokenizer), &mut |text| {
            broken = broken.take().or_else(|| screen.push(text).err());
            broken.is_none() && !interrupted.load(Ordering::SeqCst)
        })?;
        broken = broken.or_else(|| screen.finish().err());
        interrupted.store(false, Ordering::SeqCst);
        self.kept.save(When::Answer, &self.session);
        let shown = match self.shown.hide_reasoning {
            true => &without_reasoning(reasoning, &generation.text),
            false => &generation.text,
        };
        let run = prompt.len() - generation.reused;
        let turn = Turn {
            prompt: prompt.len(),
            run,
            generated: generation.ids.len(),
            timings: generation.timings,
            seconds: start.elapsed().as_secs_f64(),
            stop_reason: generation.stop_reason,
        };
        let written = match a.json {
            true => {
                let (seed, device) = (self.options.sampling.seed, machine::device_name(self.session.engine()));
                let tokenizer = Some(self.tokenizer);
                let mut report = statistics::json(&ran, &generation, seed, self.load_s, tokenizer, &device)?;
                report["prompt_run"] = run.into();
                report["text"] = shown.as_str().into();
                match a.answer.n_samples {
                    Some(_) => {
                        self.reports.push(report);
                        Ok(())
                    }
                    None => writeln!(out, "{}", console::json(&report)),
                }
            }
            false => Ok(()),
        };
        if let Some(e) = broken.or(written.err()) {
            return Ok(Answered::Gone(console::broken_pipe(e)?));
        }
        self.last = Some(turn);
        if generation.ids.is_empty() && generation.stop_reason == StopReason::Cancelled {
            // An empty message would be the model's answer from here on.
            if !a.quiet && !a.json {
                say("[stopped before the answer began: nothing was added to the conversation]");
            }
            return Ok(Answered::Done(StopReason::Cancelled));
        }
        self.conversation.answered(&generation.content);
        self.written = self.conversation.len();
        self.read.clear();
        let said = generation.said.map(|said| &generation.ids[..said]);
        self.prompter.answered(&text, &prompt, &generation.content, said);
        if let Some(turn) = &self.last
            && self.shown.stats
            && !a.json
        {
            console::tell_dim(turn.speed());
        }
        if !a.quiet && !a.json && generation.stop_reason == StopReason::Context {
            say("[the context is full: the answer ends here]");
        }
        Ok(Answered::Done(generation.stop_reason))
    }

    /// Forgets the conversation except for the system message.
    pub fn reset(&mut self) {
        self.conversation.clear();
        self.prompter.reset();
        (self.read, self.written, self.last) = (String::new(), 0, None);
    }

    /// Continues with another conversation.
    pub fn take(&mut self, conversation: Conversation) {
        self.conversation = conversation;
        self.prompter.reset();
        self.written = 0;
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
        if let Some(turn) = &self.last {
            text = text + "\n" + &turn.told();
        }
        text
    }
}
