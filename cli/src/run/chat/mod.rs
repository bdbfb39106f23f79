//! `--chat`, `--messages`, `--render`: conversations, rendered with the model's own template.

mod banner;
mod commands;
mod fit;
mod lines;
mod screen;
mod settings;
mod turn;
mod turns;
#[cfg_attr(not(unix), path = "typed_elsewhere.rs")]
mod typed;
mod wrap;

use super::cache::When;
use super::{Arguments, escape};
use crate::{console, machine};
use anyhow::{Context, Result, bail};
use clap::Args;
use fit::say;
use lines::Lines;
use nanoserve_format::{Foreign, GenerationDefaults};
use nanoserve_runtime::backend::Backend;
use nanoserve_runtime::chat::{ChatTemplate, Conversation, Reasoning};
use nanoserve_runtime::generate::Specials;
use nanoserve_runtime::{GenerateOptions, RuntimeError, StopReason, Tokenizer};
use nanoserve_template::Clock;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use turns::{Answered, Chat};
use typed::TypedAhead;
pub use typed::restore_now as restore_terminal;

/// Conversations.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conversations")]
pub struct ChatArgs {
    /// Talk with the model by its own chat template; -p or -f is then the first message. Without it, -p is plain completion
    #[arg(long, conflicts_with_all = ["ids", "self_test", "perplexity"])]
    pub chat: bool,
    /// The system message, which the model reads before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// A file that holds the system message; - is standard input
    #[arg(long, value_name = "FILE", requires = "chat", conflicts_with = "system")]
    pub system_file: Option<PathBuf>,
    /// Answer the conversation in this file, or continue it with --chat: a JSON array of messages, or an object of
    /// messages, tools and the template's own variables; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "ids", "self_test", "perplexity", "system", "system_file", "text"])]
    pub messages: Option<PathBuf>,
    /// With --chat: end after the first answer
    #[arg(long, requires = "chat")]
    pub single_turn: bool,
    /// Leave out what the model thinks before it answers
    #[arg(long)]
    pub hide_reasoning: bool,
    /// Print the prompt that the template makes, with --json also its ids, and stop
    #[arg(long, conflicts_with_all = ["ids", "self_test", "perplexity"])]
    pub render: bool,
    /// The time that the template sees, such as 2026-01-15T12:00:00 [default: the clock's]
    #[arg(long, value_name = "TIME", value_parser = |text: &str| text.parse::<Clock>())]
    pub now: Option<Clock>,
    /// Use this template (Jinja) in place of the model's; or the name of one of the model's templates, if it has several
    #[arg(long, value_name = "FILE|NAME")]
    pub chat_template: Option<PathBuf>,
    /// The template's own variables, as a JSON object, such as {"enable_thinking": false}
    #[arg(long, value_name = "JSON")]
    pub chat_template_kwargs: Option<String>,
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

/// The template of `--chat-template`, or the file's.
pub fn template(engine: &machine::Engine, a: &Arguments) -> Result<ChatTemplate> {
    let own = ChatTemplate::of_file(engine.file()).map_err(RuntimeError::from)?;
    let Some(path) = &a.chat.chat_template else { return Ok(own) };
    if let Some(named) = path.to_str().and_then(|name| own.with_name(name)) {
        return Ok(named);
    }
    let source = read(path, "the chat template")?;
    own.with_source(&source).with_context(|| path.display().to_string())
}

/// Adds the tokens that end an answer in a conversation to those that end any text.
pub fn add_ends(defaults: &mut GenerationDefaults, template: &ChatTemplate, tokenizer: &Tokenizer) {
    let ends = std::mem::take(&mut defaults.turn_end_ids).into_iter().chain(template.ends(tokenizer));
    for id in ends {
        if !defaults.eos_ids.contains(&id) {
            defaults.eos_ids.push(id);
        }
    }
}

/// The conversation before the first answer.
fn beginning(a: &Arguments, template: &ChatTemplate, text: Option<String>) -> Result<Conversation> {
    let mut conversation = match &a.chat.messages {
        Some(path) => {
            let text = read(path, "the conversation")?;
            template.read(&text).with_context(|| path.display().to_string())?
        }
        None => Conversation::default(),
    };
    if let Some(path) = &a.chat.system_file {
        let text = read(path, "the system message")?;
        let text = if a.escape { escape::read(&text)? } else { text };
        conversation.set_system(Some(text.trim_end_matches(['\r', '\n'])));
    } else if a.chat.system.is_some() {
        conversation.set_system(a.chat.system.as_deref());
    }
    if let Some(text) = text {
        conversation.push("user", &text);
    }
    if let Some(variables) = &a.chat.chat_template_kwargs {
        conversation.set_variables(variables).context("--chat-template-kwargs")?;
    }
    Ok(conversation)
}

/// Tokens of the prompt for a conversation, as far as its template takes it yet.
fn tokens_of(template: &ChatTemplate, conversation: &Conversation, a: &Arguments, tokenizer: &Tokenizer) -> usize {
    let text = template.render(conversation, a.chat.now.unwrap_or_else(Clock::now));
    text.ok().and_then(|text| tokenizer.encode(&text, false).ok()).map_or(0, |ids| ids.len())
}

/// Runs the conversation, or renders it, as the options ask.
pub fn run(
    engine: &mut machine::Engine,
    a: &Arguments,
    (template, text): (ChatTemplate, Option<String>),
    tokenizer: &Tokenizer,
    mut options: GenerateOptions,
    interrupted: &AtomicBool,
    start: Instant,
) -> Result<ExitCode> {
    let conversation = beginning(a, &template, text)?;
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
        let clock = a.chat.now.unwrap_or_else(Clock::now);
        let text = template.render(&conversation, clock)?;
        if let Some(lost) = turns::lost(&template, &conversation, clock, 0) {
            console::tell(format_args!("warning: {}", Foreign(&lost)));
        }
        return print(a, &text, || Ok(tokenizer.encode(&text, false).map_err(RuntimeError::from)?));
    }
    if a.answer.n_predict.is_none() {
        options.max_tokens = None;
    }
    if !a.answer.special {
        options.specials = Specials::These(Reasoning::special_marks(tokenizer));
    }
    let kv_type = a.machine.how.kv_type(engine.file());
    let mut kept = a.cache.open(engine.file(), kv_type, engine.backend().kind(), a.trust.require_signer.is_some())?;
    let tokens = tokens_of(&template, &conversation, a, tokenizer);
    let capacity = a.capacity(engine.file().spec(), tokens, options.max_tokens, kept.tokens());
    let mut session = engine.session(capacity, kv_type)?;
    kept.restore(&mut session)?;
    let asked = conversation.continues().is_some()
        || conversation.last_role().is_some_and(|role| role != "assistant" && role != "system");
    let mut chat = Chat::new(session, tokenizer, template, conversation, options, interrupted, a);
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let once = !a.chat.chat || a.chat.single_turn || (asked && !terminal);
    if !once {
        kept.at_end();
    }
    (chat.kept, chat.load_s) = (kept, start.elapsed().as_secs_f64());
    if terminal {
        typed::remember();
    }
    if a.chat.single_turn && !asked && !chat.hear(&mut Lines::open(terminal)?)? {
        return Ok(ExitCode::SUCCESS);
    }
    let _typed_ahead = if once || !terminal { None } else { TypedAhead::keep() };
    if once {
        return answers(&mut chat, a);
    }
    if terminal && !a.quiet {
        say(chat.banner()?);
    }
    if asked {
        if let Answered::Gone(code) = chat.answer(&mut std::io::stdout().lock())? {
            return Ok(code);
        }
        if !chat.is_answered() {
            chat.conversation.pop();
        }
    }
    let mut lines = Lines::open(terminal)?;
    if terminal && !a.quiet {
        say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.");
    }
    let code = commands::talk(&mut chat, &mut lines);
    chat.keep(When::End);
    code.map(|code| if code == ExitCode::SUCCESS { chat.kept.code() } else { code })
}

/// The answer to a conversation, or as many as were asked for: each with a seed of its own.
fn answers(chat: &mut Chat, a: &Arguments) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let samples = a.answer.n_samples.unwrap_or(1);
    let (asked, mut cancelled) = (chat.conversation.clone(), false);
    for sample in 1..=samples {
        if sample > 1 {
            let seed = chat.begin_again(asked.clone());
            let heading = if a.json { Ok(()) } else { writeln!(out, "--- {sample} of {samples}, seed {seed} ---") };
            if let Err(e) = heading {
                return console::broken_pipe(e);
            }
        }
        match chat.answer(&mut out)? {
            Answered::Gone(code) => return Ok(code),
            Answered::Done(StopReason::Cancelled) => {
                cancelled = true;
                break;
            }
            _ => {}
        }
    }
    if !chat.reports.is_empty()
        && let Err(e) = writeln!(out, "{}", console::json(&std::mem::take(&mut chat.reports)))
    {
        return console::broken_pipe(e);
    }
    if !a.quiet && !a.json {
        chat.kept.tell();
    }
    Ok(if cancelled { ExitCode::from(130) } else { chat.kept.code() })
}

fn print(a: &Arguments, text: &str, ids: impl FnOnce() -> Result<Vec<u32>>) -> Result<ExitCode> {
    match a.json {
        true => {
            let object = serde_json::json!({"prompt": text, "prompt_ids": ids()?});
            console::print(console::json(&object) + "\n", true)
        }
        false => console::print(text, true),
    }
}
