//! Runs a model: reads a prompt, and writes text as it is generated.

use crate::hub::{self, Name};
use crate::programs::Program;
use crate::{console, imported, llama, machine, sandbox, stop, trust, values};
use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, CommandFactory, Parser};
use nanoserve_format::ModelSpec;
use nanoserve_runtime::backend::Backend;
use nanoserve_runtime::backend::rope::unstretched;
use nanoserve_runtime::{EngineOptions, RuntimeError, StopReason};
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

mod cache;
mod chat;
mod escape;
mod perplexity;
mod progress;
mod sampling;
mod selftest;
mod statistics;
mod tasks;

/// Positions reserved when --ctx is not given, unless prompt and answer need more.
const DEFAULT_CONTEXT: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  nanoserve-run model.nsv -p \"Once upon a time\"
  nanoserve-run model.nsv \"Once upon a time\"
  echo \"Once upon a time\" | nanoserve-run model.nsv
  nanoserve-run model.nsv -f prompt.txt -n 200 --temperature 0
  cat prompt.txt | nanoserve-run model.nsv -f - --json
  nanoserve-run model.nsv -p \"A cat as JSON: \" --json-schema '{\"type\": \"object\", \"properties\": {\"name\": {\"type\":
      \"string\"}}, \"required\": [\"name\"], \"additionalProperties\": false}'
  nanoserve-run model.nsv -p \"Yes or no? \" --grammar answer.lark       where answer.lark is   start: \"yes\" | \"no\"
  nanoserve-run model.nsv -f long.txt --prompt-cache long.kv --lookup
  nanoserve-run model.nsv --perplexity text.txt --ctx 512
  nanoserve-run model.nsv
  nanoserve-run model.nsv --chat --system \"Answer in one sentence.\"
  nanoserve-run model.nsv --chat --single-turn -p \"Why is the sky blue?\"
  nanoserve-run model.nsv --messages conversation.json --render
  nanoserve-run model.nsv --self-test
  nanoserve-run -hf Qwen/Qwen2.5-0.5B-Instruct --chat
  nanoserve-run model.nsv --require-signer key.pub.pem -p \"Once upon a time\"

Standard output carries only the continuation, as it is made; the prompt is not repeated. Without --chat this is plain \
completion, whatever the model: the text goes to the model as it is. With --chat the text is a message, and the model's own \
template makes a prompt of it. --chat then reads messages from the terminal; if standard input is no terminal, each line is \
a message. With -p and no terminal, or with --single-turn, it ends after the answer. In a conversation an answer ends by \
itself (-n bounds it).
On a terminal, a model without a prompt begins a conversation.
A sampling option that is not given has the file's value; if the file has none, the default shown here.
A grammar is written in Lark, as llguidance reads it: rules 'name: ...' in lower case, terminals in capitals, texts in \
quotes, expressions in slashes. It begins at 'start': GBNF's 'root ::= x' is 'start: x'.
Exit codes: 0 done; 1 the machine failed, the file is damaged (--check), or this machine computes something else \
(--self-test); 2 the input or the command line is wrong, or \
the file is not signed as --require-signer asks; 130 stopped with Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.";

const CHAT_EXAMPLES: &str = "\
Examples:
  nanoserve-chat model.nsv
  nanoserve-chat model.nsv --system \"Answer in one sentence.\"
  nanoserve-chat model.nsv --single-turn -p \"Why is the sky blue?\"

This is nanoserve-run with --chat, and takes the same options. The message /help lists the commands of a conversation.";

/// Continue a prompt, or talk, with a .nsv model.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-run", version, after_help = EXAMPLES, arg = llama::help_option())]
pub struct Arguments {
    /// The model file: .nsv, or .gguf, which is converted once into the user's cache
    // The default is never opened: with --hf the file takes its place.
    #[arg(
        required_unless_present = "hf",
        conflicts_with = "hf",
        default_value = "-",
        hide_default_value = true,
        env = "NANOSERVE_MODEL"
    )]
    model: PathBuf,
    /// Run this model of the Hugging Face Hub in place of a file; the first time it is downloaded and converted to q8 (-hf is
    /// the same option)
    #[arg(long, value_name = "ORG/NAME[:REVISION]")]
    hf: Option<Name>,
    /// With --hf: do not ask before the model is downloaded
    #[arg(short, long, requires = "hf")]
    yes: bool,
    /// Where .gguf files, and models that --hf brings, are kept once they are converted [default: nanoserve in the user's
    /// cache folder]
    #[arg(long, value_name = "FOLDER", env = "NANOSERVE_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Print the text alone, no statistics
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object when done, instead of text as it is made
    #[arg(long)]
    json: bool,
    /// Positions of the context: prompt and answer together; 0 is all that the model has. RoPE dynamic and longrope take this
    /// as the length of the text; their default is at most the length that the model was first trained on [default: 4096, or
    /// more if prompt and answer need it; --perplexity: 512]
    #[arg(short, long, value_name = "N", env = "NANOSERVE_CTX")]
    ctx: Option<usize>,
    /// Tokens of the prompt that are run together [default: 256; with all layers on a GPU 2048]
    #[arg(short_alias = 'b', long, value_name = "N", env = "NANOSERVE_CHUNK", value_parser = values::positive)]
    chunk: Option<usize>,
    /// Read \n, \r, \t, \\, \', \" and \xHH in prompt, system message, stop texts and DRY's breakers as what they stand for
    #[arg(short, long)]
    escape: bool,
    #[command(flatten)]
    prompt: Prompt,
    #[command(flatten)]
    score: perplexity::Score,
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
    /// Keep what the program otherwise gives up before it reads the model, on Linux and the CPU: to write files but where an
    /// option or the folder it runs in says, to start programs, to use the network
    #[arg(long, env = "NANOSERVE_NO_SANDBOX", value_parser = clap::builder::FalseyValueParser::new())]
    no_sandbox: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The prompt, or what to do in its place")]
#[group(multiple = false)]
struct Prompt {
    /// The prompt; what is piped in is one too, without its last line end
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file that holds the prompt; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The prompt as token ids, with commas; nothing is added to them
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    ids: Option<Vec<u32>>,
    /// Score this text (- is standard input): exp of the mean -ln(probability) of its tokens. The text is cut into windows of
    /// --ctx tokens, and the second half of each window counts
    #[arg(long, value_name = "FILE")]
    perplexity: Option<PathBuf>,
    /// Replay the answers that the file keeps on every kernel path of this machine, bit for bit
    #[arg(long)]
    self_test: bool,
}

impl Prompt {
    /// Whether a prompt, a text to score or the self-test was asked for.
    fn is_given(&self) -> bool {
        self.text.is_some()
            || self.prompt.is_some()
            || self.file.is_some()
            || self.ids.is_some()
            || self.perplexity.is_some()
            || self.self_test
    }

    fn text(&self, escaped: bool) -> Result<Option<String>> {
        let text = self.plain_text()?;
        text.map(|text| if escaped { escape::read(&text) } else { Ok(text) }).transpose()
    }

    fn plain_text(&self) -> Result<Option<String>> {
        let Some(file) = self.file.as_ref().or(self.perplexity.as_ref()) else {
            return Ok(self.text.clone().or_else(|| self.prompt.clone()));
        };
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
    /// Positions of a session for a prompt of so many tokens, and an answer that has a bound or none. A cache that is
    /// restored holds `cached`.
    fn capacity(&self, spec: &ModelSpec, prompt: usize, answer: Option<usize>, cached: usize) -> usize {
        let usual = unstretched(&spec.rope).map_or(DEFAULT_CONTEXT, |n| n.min(DEFAULT_CONTEXT));
        let wanted = match answer {
            Some(answer) => prompt.saturating_add(answer),
            // Where a long prompt leaves little of the usual context, an answer without a bound gets one more.
            None if prompt > usual - usual / 4 => prompt.saturating_add(usual),
            None => prompt,
        };
        match self.ctx {
            Some(0) => spec.context_length,
            Some(ctx) => ctx,
            None => wanted.max(cached).max(usual).min(spec.context_length),
        }
    }

    /// Gives up what the rest of the run does not need; see docs/reliability.md. The driver of a GPU needs more than can be listed.
    fn enter_sandbox(&self) {
        if self.no_sandbox || self.machine.place.device != machine::Device::Cpu {
            return;
        }
        let mut folders: Vec<PathBuf> = self.cache.prepare().into_iter().chain(self.score.written()).collect();
        if self.chat.chat {
            // What /save names is not known yet.
            folders.extend(std::env::current_dir());
        }
        sandbox::enter(&folders);
    }

    /// Reads the prompt from standard input, where one is piped in and nothing else is asked for.
    fn take_piped(&mut self) -> Result<()> {
        if self.prompt.is_given() || self.chat.is_on() || std::io::stdin().is_terminal() {
            return Ok(());
        }
        let text = std::io::read_to_string(std::io::stdin()).context("cannot read the prompt from standard input")?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        self.prompt.text = Some(text.to_string()).filter(|text| !text.is_empty());
        Ok(())
    }

    /// Reads the escapes of `--escape` in every text but the prompt's, which may still be in a file.
    fn unescape(&mut self) -> Result<()> {
        let texts = self.answer.stop.iter_mut().chain(&mut self.sampling.dry_sequence_breaker);
        texts.chain(&mut self.chat.system).try_for_each(|text| {
            *text = escape::read(text)?;
            Ok(())
        })
    }

    /// Options that each want all of standard input.
    fn readers_of_input(&self) -> Vec<&'static str> {
        let all = [
            ("--file", &self.prompt.file),
            ("--perplexity", &self.prompt.perplexity),
            ("--messages", &self.chat.messages),
            ("--system-file", &self.chat.system_file),
            ("--chat-template", &self.chat.chat_template),
        ];
        let reads = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str() == "-");
        all.into_iter().filter(|(_, path)| reads(path)).map(|(option, _)| option).collect()
    }
}

impl Program for Arguments {
    fn check(matches: &ArgMatches, command: &Command) -> Result<(), String> {
        if matches.get_flag(llama::HELP) {
            llama::help();
        }
        // Clap does not hold --yes to this, because --hf and a file exclude each other.
        if matches.get_flag("yes") && !matches.contains_id("hf") {
            return Err("'--yes' needs --hf ORG/NAME".into());
        }
        tasks::check(matches, command)
    }

    fn start(mut self, command: &mut Command) -> ExitCode {
        let conflict = self.sampling.check().err().or_else(|| match self.readers_of_input()[..] {
            [one, other, ..] => Some(format!("{one} and {other} cannot both read standard input")),
            _ => None,
        });
        if let Some(conflict) = conflict {
            command.error(ErrorKind::ArgumentConflict, conflict).exit();
        }
        let prepared = self.take_piped().and_then(|()| if self.escape { self.unescape() } else { Ok(()) });
        if let Err(e) = prepared {
            return console::exit(Err(e));
        }
        if !self.prompt.is_given() && !self.chat.is_on() {
            self.chat.chat = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        }
        if !self.prompt.is_given() && !self.chat.is_on() {
            let what = "what to do is missing: a prompt (TEXT, -p TEXT, -f FILE, --ids IDS), --chat, --messages FILE, \
                        --perplexity FILE or --self-test";
            command.error(ErrorKind::MissingRequiredArgument, what).exit();
        }
        if let Some(name) = &self.hf {
            match hub::model(name, self.cache_dir.as_deref(), self.yes, self.quiet, chat::restore_terminal) {
                Ok(file) => self.model = file,
                Err(error) => return console::exit(Err(error)),
            }
        }
        match imported::model(&self.model, self.cache_dir.as_deref(), self.quiet, chat::restore_terminal) {
            Ok(file) => self.model = file,
            Err(error) => return console::exit(Err(error)),
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
    a.enter_sandbox();
    let mut engine = a.trust.open(&a.model, a.machine.place, &EngineOptions::try_from(&a.machine)?)?;
    if a.prompt.self_test {
        return selftest::run(&mut engine, a);
    }
    // The first Ctrl-C ends the answer in good order; the second ends the program at once.
    let interrupted = stop::listen(chat::restore_terminal)?;
    let text = a.prompt.text(a.escape && a.prompt.perplexity.is_none())?;
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
    let mut defaults = engine.file().generation().map_err(RuntimeError::from)?;
    let template = if a.chat.is_on() { Some(chat::template(&engine, a)?) } else { None };
    if let (Some(template), Some(tokenizer)) = (&template, tokenizer) {
        chat::add_ends(&mut defaults, template, tokenizer);
    }
    let mut options = sampling::options(&defaults, &a.sampling, &a.answer, tokenizer, vocab_size)?;
    options.chunk = a.chunk.unwrap_or(engine.backend().chunk());
    options.hash = a.json;
    if let Some(template) = template {
        let tokenizer = tokenizer.ok_or(RuntimeError::NoTokenizer)?;
        return chat::run(&mut engine, a, (template, text), tokenizer, options, &interrupted, start);
    }
    let prompt = match (text, tokenizer) {
        (Some(text), Some(tokenizer)) => tokenizer.encode(&text, true).map_err(RuntimeError::from)?,
        _ => a.prompt.ids.clone().unwrap_or_default(),
    };
    let seed = options.sampling.seed;
    let kv_type = a.machine.how.kv_type(engine.file());
    let mut kept = a.cache.open(engine.file(), kv_type, engine.backend().kind(), a.trust.require_signer.is_some())?;
    let capacity = a.capacity(engine.file().spec(), prompt.len(), options.max_tokens, kept.tokens());
    let mut session = engine.session(capacity, kv_type)?;
    kept.restore(&mut session)?;
    kept.begin(&session, &prompt, options.max_tokens);
    let load_s = start.elapsed().as_secs_f64();
    let device = machine::device_name(session.engine());

    let mut out = std::io::stdout().lock();
    let mut broken = None;
    let going = progress::of(&session, &prompt, options.chunk, a.quiet);
    let ran = session.prompt(&prompt, options.chunk, &mut || {
        going.step();
        !interrupted.load(Ordering::SeqCst)
    })?;
    drop(going);
    if ran.is_complete() {
        kept.save(cache::When::Prompt, &session);
    }
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
                let written = out.write_all(console::answered(text).as_bytes()).and_then(|()| out.flush());
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
        generations.push(statistics::json(&ran, &generation, options.sampling.seed, load_s, tokenizer, &device)?);
        if cancelled {
            break;
        }
    }
    kept.save(cache::When::Answer, &session);
    if !a.quiet && !a.json {
        kept.tell();
    }
    if a.json {
        let object = match a.answer.n_samples {
            Some(_) => serde_json::Value::Array(generations),
            None => generations.pop().unwrap_or_default(),
        };
        if let Err(e) = writeln!(out, "{}", console::json(&object)) {
            return console::broken_pipe(e);
        }
    }
    let interrupted = interrupted.load(Ordering::SeqCst);
    Ok(if interrupted { ExitCode::from(130) } else { kept.code() })
}
