//! Runs a model: a prompt in, text out as it is made.

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use nanoserve_runtime::{EngineOptions, GenerateOptions, Generation, RuntimeError, StopReason};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

mod chat;
#[path = "../../cli.rs"]
mod cli;
mod selftest;

/// Positions reserved when --ctx is not given, unless prompt and answer need more.
const DEFAULT_CONTEXT: usize = 4096;

const EXAMPLES: &str = "\
Examples:
  nanoserve-run model.nsv -p \"Once upon a time\"
  nanoserve-run model.nsv -f prompt.txt -n 200 --temperature 0
  cat prompt.txt | nanoserve-run model.nsv -f - --json
  nanoserve-run model.nsv --chat --system \"Answer in one sentence.\"
  nanoserve-run model.nsv --chat --single-turn -p \"Why is the sky blue?\"
  nanoserve-run model.nsv --messages conversation.json --render
  nanoserve-run model.nsv --self-test
  nanoserve-run model.nsv --require-signer key.pub.pem -p \"Once upon a time\"

Standard output is the continuation alone, as it is made; the prompt is not repeated. Without --chat it is plain
completion, whatever the model: the text goes to it as it is. With --chat the text is a message: the model's own template
makes a prompt of it. --chat goes on with messages from the terminal, or, where standard input is none, with one message
a line; with -p and no terminal, or with --single-turn, it ends after the answer. An answer ends by itself (-n bounds it).
Sampling options that are not given are the file's own, and where it has none those shown.
Exit codes: 0 done; 1 the machine failed, the file is damaged (--check), or this machine computes something else
(--self-test); 2 the input or the command line is wrong, or
the file is not signed as --require-signer asks; 130 stopped with Ctrl-C.";

/// Continue a prompt with a .nsv model.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-run", version, after_help = EXAMPLES)]
struct Arguments {
    /// The model file
    model: PathBuf,
    #[command(flatten)]
    prompt: Prompt,
    #[command(flatten)]
    chat: chat::ChatArgs,
    /// Tokens to make at most; -1 goes on to the context's end
    #[arg(short = 'n', long = "n-predict", default_value_t = 128, allow_negative_numbers = true, value_name = "N")]
    n_predict: i64,
    #[command(flatten)]
    machine: cli::Machine,
    #[command(flatten)]
    trust: cli::Trust,
    /// Positions of the context, prompt and answer together [default: 4096, or what they need]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Tokens of the prompt that are run together
    #[arg(long, default_value_t = nanoserve_runtime::session::DEFAULT_CHUNK, value_name = "N")]
    chunk: usize,
    /// Divides the logits; 0 is greedy [default: 0.8]
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,
    /// Keep the N likeliest tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Keep the likeliest tokens of this probability together [default: 0.95]
    #[arg(long, value_name = "X")]
    top_p: Option<f32>,
    /// Keep tokens of at least this share of the likeliest one's probability [default: 0.05]
    #[arg(long, value_name = "X")]
    min_p: Option<f32>,
    /// Divides the logits of tokens seen before; 1 is off [default: 1.0]
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// How many of the last tokens count as seen before [default: 64]
    #[arg(long, value_name = "N")]
    repeat_last_n: Option<usize>,
    /// Where the sampler starts; the same seed gives the same text on every machine [default: a new one each run]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Stop at this text, and do not print it; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Never choose an end token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the text alone, no statistics
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object when done, instead of text as it is made
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
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
    /// In place of a prompt: replay the answers that the file keeps on every kernel path of this machine, bit for bit
    #[arg(long)]
    self_test: bool,
}

impl Prompt {
    /// Whether one was given.
    fn is_given(&self) -> bool {
        self.prompt.is_some() || self.file.is_some() || self.ids.is_some() || self.self_test
    }

    fn text(&self) -> Result<Option<String>> {
        let Some(file) = &self.file else { return Ok(self.prompt.clone()) };
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

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let mut arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    arguments.chat.n_given = matches.value_source("n_predict") == Some(ValueSource::CommandLine);
    if !arguments.prompt.is_given() && !arguments.chat.is_on() {
        let what =
            "what to do is missing: a prompt (-p TEXT, -f FILE, --ids IDS), --chat, --messages FILE or --self-test";
        Arguments::command().error(ErrorKind::MissingRequiredArgument, what).exit();
    }
    cli::begin(&arguments.model);
    cli::exit(run(&arguments))
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let start = Instant::now();
    let mut engine = a.trust.open(&a.model, &EngineOptions::try_from(&a.machine)?)?;
    if a.prompt.self_test {
        return selftest::run(&engine, a);
    }
    let defaults = engine.file().generation().map_err(RuntimeError::from)?;
    let mut options = GenerateOptions::from_defaults(&defaults);
    let s = &mut options.sampling;
    s.temperature = a.temperature.unwrap_or(s.temperature);
    s.top_k = a.top_k.unwrap_or(s.top_k);
    s.top_p = a.top_p.unwrap_or(s.top_p);
    s.min_p = a.min_p.unwrap_or(s.min_p);
    s.repeat_penalty = a.repeat_penalty.unwrap_or(s.repeat_penalty);
    s.repeat_last_n = a.repeat_last_n.unwrap_or(s.repeat_last_n);
    s.seed = a.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    options.stops.clone_from(&a.stop);
    options.ignore_eos = a.ignore_eos;
    options.chunk = a.chunk;
    options.max_tokens = usize::try_from(a.n_predict).ok();
    let seed = options.sampling.seed;

    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    // The first Ctrl-C ends the text in good order; the second ends the program.
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })?;
    let text = a.prompt.text()?;
    if a.chat.is_on() {
        return chat::run(&mut engine, a, text, &options, &interrupted);
    }
    let tokenizer = match engine.tokenizer() {
        Ok(tokenizer) => Some(tokenizer),
        Err(RuntimeError::NoTokenizer) if text.is_none() => None,
        Err(e) => return Err(e.into()),
    };
    let prompt = match (text, &tokenizer) {
        (Some(text), Some(tokenizer)) => tokenizer.encode(&text, true).map_err(RuntimeError::from)?,
        _ => a.prompt.ids.clone().unwrap_or_default(),
    };
    if tokenizer.is_none() && !a.stop.is_empty() {
        bail!("--stop needs a tokenizer, and the file holds none");
    }
    let limit = engine.file().spec().context_length;
    let wanted = prompt.len().saturating_add(options.max_tokens.unwrap_or(0));
    let capacity = a.ctx.unwrap_or(wanted.max(DEFAULT_CONTEXT).min(limit));
    let kv_type = a.machine.how.kv_type(engine.file());
    let mut session = engine.session(capacity, kv_type)?;
    let load_s = start.elapsed().as_secs_f64();

    let mut out = std::io::stdout().lock();
    let mut broken = None;
    let generation = session.generate(&prompt, &options, tokenizer.as_ref(), &mut |text| {
        if !a.json && !text.is_empty() {
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            broken = broken.take().or(written.err());
        }
        broken.is_none() && !interrupted.load(Ordering::SeqCst)
    })?;
    if let Some(e) = broken {
        return cli::broken_pipe(e);
    }
    let written = if a.json {
        let report = report(&prompt, &generation, seed, load_s);
        writeln!(out, "{report}")
    } else if tokenizer.is_none() {
        let ids: Vec<String> = generation.ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", ids.join(","))
    } else {
        writeln!(out)
    };
    if let Err(e) = written {
        return cli::broken_pipe(e);
    }
    if !a.quiet && !a.json {
        let Generation { ids, stop_reason, timings: t, .. } = &generation;
        cli::tell(format_args!(
            "\nprompt {} tokens, {:.1} tok/s | generated {}, {:.1} tok/s | first token {:.3} s, load {load_s:.3} s | \
             stopped: {stop_reason} | seed {seed} | {} kv {}",
            prompt.len(),
            t.prompt_tok_s,
            ids.len(),
            t.generate_tok_s,
            t.first_token_s,
            session.engine().backend().kernels().name,
            kv_type.name(),
        ));
    }
    let cancelled = generation.stop_reason == StopReason::Cancelled;
    Ok(if cancelled { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

fn report(prompt: &[u32], g: &Generation, seed: u64, load_s: f64) -> serde_json::Value {
    let t = &g.timings;
    serde_json::json!({
        "prompt_ids": prompt,
        "prompt_reused": g.reused,
        "ids": g.ids,
        "text": g.text,
        "stop_reason": g.stop_reason.to_string(),
        "logits_hash": g.logits_hash,
        "seed": seed,
        "timings": {
            "load_s": load_s,
            "first_token_s": t.first_token_s,
            "prompt_tok_s": t.prompt_tok_s,
            "generate_tok_s": t.generate_tok_s,
        },
    })
}
