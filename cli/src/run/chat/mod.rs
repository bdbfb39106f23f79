//! `--chat`, `--messages`, `--render`: conversations by the model's own template.

mod commands;
mod lines;
mod turns;
#[cfg_attr(not(unix), path = "typed_elsewhere.rs")]
mod typed;

use super::Arguments;
use crate::{console, machine};
use anyhow::{Context, Result, bail};
use clap::Args;
use lines::Lines;
use nanoserve_runtime::chat::{ChatTemplate, Conversation};
use nanoserve_runtime::{GenerateOptions, RuntimeError, StopReason, Tokenizer};
use nanoserve_template::Clock;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use turns::{Answered, Chat};
use typed::TypedAhead;
pub use typed::restore as restore_terminal;

/// Conversations.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conversations")]
pub struct ChatArgs {
    /// Talk with the model by its own chat template; -p or -f is then the first message. Without it, -p is plain completion
    #[arg(long, conflicts_with_all = ["ids", "self_test", "perplexity"])]
    pub chat: bool,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Answer the conversation in this file, or go on from it with --chat: a JSON array of messages, or an object of
    /// messages, tools and the template's own variables; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "ids", "self_test", "perplexity", "system"])]
    pub messages: Option<PathBuf>,
    /// With --chat -p: leave after the answer
    #[arg(long, requires = "chat")]
    pub single_turn: bool,
    /// Print the prompt that the template makes, with --json also its ids, and stop
    #[arg(long)]
    pub render: bool,
    /// The time that the template sees, such as 2026-01-15T12:00:00 [default: the clock's]
    #[arg(long, value_name = "TIME", value_parser = |text: &str| text.parse::<Clock>())]
    pub now: Option<Clock>,
    /// Use this template (Jinja) in place of the model's, or that of the model's templates which has this name
    #[arg(long, value_name = "FILE|NAME")]
    pub chat_template: Option<PathBuf>,
}

impl ChatArgs {
    /// Whether a conversation is asked for.
    pub fn is_on(&self) -> bool {
        self.chat || self.messages.is_some() || self.render
    }
}

fn read(path: &Path, what: &str) -> Result<String> {
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    text.with_context(|| format!("cannot read {what} {}", path.display()))
}

/// The template that was given, or the file's.
fn template(engine: &machine::Engine, a: &Arguments) -> Result<ChatTemplate> {
    let own = ChatTemplate::of_file(engine.file()).map_err(RuntimeError::from)?;
    let Some(path) = &a.chat.chat_template else { return Ok(own) };
    if let Some(named) = path.to_str().and_then(|name| own.with_name(name)) {
        return Ok(named);
    }
    let source = read(path, "the chat template")?;
    own.with_source(&source).with_context(|| path.display().to_string())
}

/// What was said before the first answer.
fn beginning(a: &Arguments, text: Option<String>) -> Result<Conversation> {
    if let Some(path) = &a.chat.messages {
        let text = read(path, "the conversation")?;
        return Conversation::from_json(&text).with_context(|| path.display().to_string());
    }
    let mut conversation = Conversation::default();
    conversation.set_system(a.chat.system.as_deref());
    if let Some(text) = text {
        conversation.push("user", &text);
    }
    Ok(conversation)
}

/// Everything that was asked for.
pub fn run(
    engine: &mut machine::Engine,
    a: &Arguments,
    text: Option<String>,
    tokenizer: &Tokenizer,
    mut options: GenerateOptions,
    interrupted: &AtomicBool,
) -> Result<ExitCode> {
    let template = template(engine, a)?;
    let conversation = beginning(a, text)?;
    if template.is_empty_for(&conversation) {
        let others: Vec<&str> = template.names().collect();
        let others = if others.is_empty() { String::new() } else { format!(" but those named {}", others.join(", ")) };
        bail!(
            "{} has no chat template{others}: give one with --chat-template FILE; plain completion is nanoserve run -p TEXT, \
             without --chat",
            a.model.display()
        );
    }
    if a.chat.render {
        if a.chat.messages.is_none() && conversation.is_empty() {
            bail!("--render needs a conversation: give --messages FILE, or --chat -p TEXT");
        }
        let text = template.render(&conversation, a.chat.now.unwrap_or_else(Clock::now))?;
        return print(a, &text, || Ok(tokenizer.encode(&text, false).map_err(RuntimeError::from)?));
    }
    if a.answer.n_predict.is_none() {
        options.max_tokens = None;
    }
    // Templates end an answer with a token that not every model's makers list.
    options.eos_ids.extend(template.end_of_turn(tokenizer).filter(|id| !options.eos_ids.contains(id)));
    let kv_type = a.machine.how.kv_type(engine.file());
    let capacity = a.capacity(engine.file().spec(), 0);
    let session = engine.session(capacity, kv_type)?;
    let asked = conversation.continues().is_some()
        || conversation.last_role().is_some_and(|role| role != "assistant" && role != "system");
    let mut chat = Chat::new(session, tokenizer, template, conversation, options, interrupted, a);
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let once = !a.chat.chat || a.chat.single_turn || (asked && !terminal);
    let _typed_ahead = if once || !terminal { None } else { TypedAhead::keep() };
    if once || asked {
        let answered = chat.answer(&mut std::io::stdout().lock())?;
        if once || matches!(answered, Answered::Gone) {
            let cancelled = matches!(answered, Answered::Done(StopReason::Cancelled));
            return Ok(if cancelled { ExitCode::from(130) } else { ExitCode::SUCCESS });
        }
    }
    let mut lines = Lines::open(terminal)?;
    if terminal && !a.quiet {
        console::tell("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.");
    }
    commands::talk(&mut chat, &mut lines)
}

fn print(a: &Arguments, text: &str, ids: impl FnOnce() -> Result<Vec<u32>>) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let written = match a.json {
        true => writeln!(out, "{}", serde_json::json!({"prompt": text, "prompt_ids": ids()?})),
        false => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
    };
    match written {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => console::broken_pipe(e),
    }
}
