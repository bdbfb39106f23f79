//! Runs a model: reads a prompt, and writes text as it is generated.

use crate::programs::Program;
use crate::{console, machine, trust};
use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, Parser};
use nanoserve_format::ModelSpec;
use nanoserve_runtime::backend::Backend;
use nanoserve_runtime::backend::rope::unstretched;
use nanoserve_runtime::{EngineOptions, RuntimeError, StopReason};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

mod cache;
mod chat;
mod perplexity;
mod sampling;
mod selftest;
mod statistics;

/// Positions reserved when --ctx is not given, unless prompt and answer need more.
const DEFAULT_CONTEXT: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  nanoserve-run model.nsv -p \"Once upon a time\"
  nanoserve-run model.nsv -f prompt.txt -n 200 --temperature 0
  cat prompt.txt | nanoserve-run model.nsv -f - --json
  nanoserve-run model.nsv -p \"A cat as JSON: \" --json-schema '{\"type\": \"object\", \"properties\": {\"name\": {\"type\":
      \"string\"}}, \"required\": [\"name\"], \"additionalProperties\": false}'
  nanoserve-run model.nsv -p \"Yes or no? \" --grammar answer.lark       where answer.lark is   start: \"yes\" | \"no\"
  nanoserve-run model.nsv -f long.txt --prompt-cache long.kv --lookup
  nanoserve-run model.nsv --perplexity text.txt --ctx 512
  nanoserve-run model.nsv --chat --system \"Answer in one sentence.\"
  nanoserve-run model.nsv --chat --single-turn -p \"Why is the sky blue?\"
  nanoserve-run model.nsv --messages conversation.json --render
  nanoserve-run model.nsv --self-test
  nanoserve-run model.nsv --require-signer key.pub.pem -p \"Once upon a time\"

Standard output is the continuation alone, as it is made; the prompt is not repeated. Without --chat it is plain \
completion, whatever the model: the text goes to it as it is. With --chat the text is a message: the model's own template \
makes a prompt of it. --chat goes on with messages from the terminal, or, where standard input is none, with one message \
a line; with -p and no terminal, or with --single-turn, it ends after the answer. An answer ends by itself (-n bounds it).
Sampling options that are not given are the file's own, and where it has none those shown.
A grammar is written in Lark, as llguidance reads it: rules 'name: ...' in lower case, terminals in capitals, texts in \
quotes, expressions in slashes; 'start' is where it begins. Of GBNF, 'root ::= x' is 'start: x'.
Exit codes: 0 done; 1 the machine failed, the file is damaged (--check), or this machine computes something else \
(--self-test); 2 the input or the command line is wrong, or \
the file is not signed as --require-signer asks; 130 stopped with Ctrl-C.";

const CHAT_EXAMPLES: &str = "\
Examples:
  nanoserve-chat model.nsv
  nanoserve-chat model.nsv --system \"Answer in one sentence.\"
  nanoserve-chat model.nsv --single-turn -p \"Why is the sky blue?\"

This is nanoserve-run with --chat, and takes all that it takes; /help, said as a message, lists what can be done within a \
conversation.";

/// Continue a prompt, or talk, with a .nsv model.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-run", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The model file
    model: PathBuf,
    /// Print the text alone, no statistics
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object when done, instead of text as it is made
    #[arg(long)]
    json: bool,
    /// Positions of the context, prompt and answer together [default: 4096, or what they need; --perplexity: 512]; where the
    /// model's RoPE goes by a text's length, that is it, and the default no more than the model was first trained on
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Tokens of the prompt that are run together [default: 256; with all layers on a GPU 2048]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    #[command(flatten)]
    prompt: Prompt,
    #[command(flatten)]
    chat: chat::ChatArgs,
    #[command(flatten)]
    cache: cache::Cache,
    #[command(flatten)]
    answer: sampling::Answer,
    #[command(flatten)]
    sampling: sampling::Sampling,
    #[command(flatten, next_help_heading = "The machine")]
    machine: machine::Machine,
    #[command(flatten)]
    trust: trust::Trust,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The prompt, or what to do in its place")]
#[group(multiple = false)]
struct Prompt {
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file that holds the prompt; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The prompt as token ids, with commas; nothing is added to them
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    ids: Option<Vec<u32>>,
    /// Score this text (- is standard input): exp of the mean -ln(probability) of its tokens, in windows of --ctx tokens, the
    /// second half of each
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,
    /// Replay the answers that the file keeps on every kernel path of this machine, bit for bit
    #[arg(long)]
    self_test: bool,
}

impl Prompt {
    /// Whether a prompt, a text to score or the self-test was asked for.
    fn is_given(&self) -> bool {
        self.prompt.is_some()
            || self.file.is_some()
            || self.ids.is_some()
            || self.perplexity.is_some()
            || self.self_test
    }

    fn text(&self) -> Result<Option<String>> {
        let Some(file) = self.file.as_ref().or(self.perplexity.as_ref()) else { return Ok(self.prompt.clone()) };
        let mut text = Vec::new();
        if file.as_os_str() == "-" {
            std::io::stdin().read_to_end(&mut text).context("cannot read the prompt from standard input")?;
        } else {
            text = std::fs::read(file).with_context(|| format!("cannot read the prompt file {}", file.display()))?;
        }
        let bad = |e: std::string::FromUtf8Error| anyhow::anyhow!("the prompt is no UTF-8 text: {e}");
        Ok(Some(String::from_utf8(text).map_err(bad)?))
    }
}

impl Arguments {
    /// The capacity of a session in positions: `--ctx`, or else room for `wanted` positions, at least the default and
    /// at most the model's context.
    fn capacity(&self, spec: &ModelSpec, wanted: usize) -> usize {
        let usual = unstretched(&spec.rope).map_or(DEFAULT_CONTEXT, |n| n.min(DEFAULT_CONTEXT));
        self.ctx.unwrap_or(wanted.max(usual).min(spec.context_length))
    }
}

impl Program for Arguments {
    fn start(self, command: &mut Command) -> ExitCode {
        if !self.prompt.is_given() && !self.chat.is_on() {
            let what = "what to do is missing: a prompt (-p TEXT, -f FILE, --ids IDS), --chat, --messages FILE, \
                        --perplexity FILE or --self-test";
            command.error(ErrorKind::MissingRequiredArgument, what).exit();
        }
        console::begin(&self.model);
        console::exit(run(&self))
    }
}

/// The command `nanoserve chat`: the same options, with `--chat` implied and hidden.
pub fn chat_command() -> Command {
    Arguments::command()
        .name("nanoserve-chat")
        .about("Talk with a .nsv model")
        .after_help(CHAT_EXAMPLES)
        .mut_arg("chat", |chat| chat.hide(true).overrides_with("chat"))
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let start = Instant::now();
    let mut engine = a.trust.open(&a.model, a.machine.place, &EngineOptions::try_from(&a.machine)?)?;
    if a.prompt.self_test {
        return selftest::run(&mut engine, a);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    // The first Ctrl-C ends the answer in good order; the second ends the program at once.
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            chat::restore_terminal();
            std::process::exit(130);
        }
    })?;
    let text = a.prompt.text()?;
    if let (Some(_), Some(text)) = (&a.prompt.perplexity, &text) {
        return perplexity::run(&mut engine, a, text, &interrupted);
    }
    let tokenizer = match engine.tokenizer() {
        Ok(tokenizer) => Some(tokenizer),
        Err(RuntimeError::NoTokenizer) if text.is_none() => None,
        Err(e) => return Err(e.into()),
    };
    let tokenizer = tokenizer.as_ref();
    let vocab_size = engine.file().spec().vocab_size;
    let defaults = engine.file().generation().map_err(RuntimeError::from)?;
    let mut options = sampling::options(&defaults, &a.sampling, &a.answer, tokenizer, vocab_size)?;
    options.chunk = a.chunk.unwrap_or(engine.backend().chunk());
    options.hash = a.json;
    if a.chat.is_on() {
        let tokenizer = tokenizer.ok_or(RuntimeError::NoTokenizer)?;
        return chat::run(&mut engine, a, text, tokenizer, options, &interrupted);
    }
    let prompt = match (text, tokenizer) {
        (Some(text), Some(tokenizer)) => tokenizer.encode(&text, true).map_err(RuntimeError::from)?,
        _ => a.prompt.ids.clone().unwrap_or_default(),
    };
    let seed = options.sampling.seed;
    let kv_type = a.machine.how.kv_type(engine.file());
    let cached = a.cache.read(engine.file(), kv_type, engine.backend().kind())?;
    let wanted = prompt.len().saturating_add(options.max_tokens.unwrap_or(0));
    let wanted = wanted.max(cached.as_ref().map_or(0, |c| c.ids().len()));
    let capacity = a.capacity(engine.file().spec(), wanted);
    let mut session = engine.session(capacity, kv_type)?;
    if let Some(cached) = &cached {
        cached.restore(&mut session).map_err(RuntimeError::from)?;
    }
    let load_s = start.elapsed().as_secs_f64();
    let device = machine::device_name(session.engine());

    let mut out = std::io::stdout().lock();
    let mut broken = None;
    let ran = session.prompt(&prompt, options.chunk, &mut || !interrupted.load(Ordering::SeqCst))?;
    let mut saved = match ran.is_complete() {
        true => a.cache.save(cache::When::Prompt, &session, cached.as_ref(), kv_type)?,
        false => None,
    };
    let mut generations = Vec::new();
    let samples = a.answer.n_samples.unwrap_or(1);
    for sample in 0..samples {
        options.sampling.seed = seed.wrapping_add(sample);
        if sample > 0 && !a.json && broken.is_none() {
            let number = sample + 1;
            broken = writeln!(out, "--- {number} of {samples}, seed {} ---", options.sampling.seed).err();
        }
        let generation = session.generate_after(&ran, &options, tokenizer, &mut |text| {
            if !a.json && !text.is_empty() {
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                broken = broken.take().or(written.err());
            }
            broken.is_none() && !interrupted.load(Ordering::SeqCst)
        })?;
        if broken.is_none() && !a.json {
            let ids = || generation.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            broken = writeln!(out, "{}", if tokenizer.is_none() { ids() } else { String::new() }).err();
        }
        if let Some(e) = broken {
            return console::broken_pipe(e);
        }
        if !a.quiet && !a.json {
            statistics::tell(&ran, &generation, load_s, options.sampling.seed, &session, kv_type);
        }
        let cancelled = generation.stop_reason == StopReason::Cancelled;
        generations.push(statistics::json(&ran, generation, options.sampling.seed, load_s, tokenizer, &device)?);
        if cancelled {
            break;
        }
    }
    saved = saved.or(a.cache.save(cache::When::Answer, &session, cached.as_ref(), kv_type)?);
    if let (Some((bytes, tokens)), false, false) = (saved, a.quiet, a.json) {
        console::tell(format_args!("prompt cache: {tokens} tokens, {:.2} MB", bytes as f64 / 1e6));
    }
    if a.json {
        let object = match a.answer.n_samples {
            Some(_) => serde_json::Value::Array(generations),
            None => generations.pop().unwrap_or_default(),
        };
        if let Err(e) = writeln!(out, "{object}") {
            return console::broken_pipe(e);
        }
    }
    let interrupted = interrupted.load(Ordering::SeqCst);
    Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}
