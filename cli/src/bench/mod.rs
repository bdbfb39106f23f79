//! Measures a model on this machine: the speed of prompt and generation, their share of the machine's limits, and a
//! hash of the logits.

mod figures;
mod table;

use crate::programs::Program;
use crate::{console, machine};
use anyhow::{Result, bail};
use clap::{Command, Parser};
use figures::{Figures, Memory, Row};
use nanoserve_runtime::backend::Backend as _;
use nanoserve_runtime::cpu::threads::default_threads;
use nanoserve_runtime::diagnose::roofline::{Limits, Work, attended_bytes};
use nanoserve_runtime::{Logits, RuntimeError, Wants};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

type Session<'e> = nanoserve_runtime::Session<'e, machine::Backend>;

const EXAMPLES: &str = "\
Examples:
  nanoserve-bench model.nsv
  nanoserve-bench model.nsv -t 1,2 -p 512 -n 64 -r 5 --json
  nanoserve-bench model.nsv --device cuda -p 2048 -n 128

Each round runs a prompt of random token ids, then generates after it from random ids: speed does not depend on which.
Figures are medians over the rounds, after one that is not counted; behind the +- is the round that is furthest off.
GB/s are the weights' bytes a token times tokens a second. The limits are measured after each round: how fast the \
threads read the map, and products of int8 (q8) or of f32 (f16, f32) with nothing else to do; 'of dot', 'of fma' and \
'of read' say how much of them the model gets, attention and all else included; 'of read' counts keys and values as well. \
Memory is as at the end of a row.
On a GPU the limits are its copy of its own memory, bytes read and written, and products of f16 on its tensor cores by \
mma.sync. A timed round there goes on with the likeliest token, as nanoserve-run --temperature 0 does, and the logits are \
hashed in rounds of their own, the first and the last.
Exit codes: 0 done; 1 the machine failed; 2 the input or the command line is wrong.";

/// Measure the speed of a .nsv model.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-bench", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The model file
    model: PathBuf,
    /// Threads to measure with, with commas [default: physical cores]
    #[arg(short, long, value_name = "N,...", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Tokens of the prompt
    #[arg(short, long, default_value_t = 512, value_name = "N")]
    prompt: usize,
    /// Tokens to generate after it
    #[arg(short = 'n', long = "n-gen", default_value_t = 64, value_name = "N")]
    n_gen: usize,
    /// Rounds
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Tokens of the prompt that are run together [default: 256; with all layers on a GPU 2048]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    #[command(flatten)]
    place: machine::Where,
    #[command(flatten)]
    how: machine::How,
    /// Do not measure the machine's limits
    #[arg(long)]
    no_limits: bool,
    /// Print the rows alone, no heading
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object a row
    #[arg(long)]
    json: bool,
}

impl Program for Arguments {
    fn start(self, _: &mut Command) -> ExitCode {
        console::begin(&self.model);
        console::exit(run(&self))
    }
}

fn run(a: &Arguments) -> Result<ExitCode> {
    for (option, value) in [("--prompt", a.prompt), ("--rounds", a.rounds), ("--chunk", a.chunk.unwrap_or(1))] {
        if value == 0 {
            bail!("{option} is 0, expected at least 1");
        }
    }
    let threads = if a.threads.is_empty() { vec![default_threads()] } else { a.threads.clone() };
    // All options are checked before the first row, so that a wrong one is refused at once.
    let options = threads.into_iter().map(|n| a.how.on(Some(n))).collect::<Result<Vec<_>>>()?;
    a.place.check()?;
    let mut out = std::io::stdout();
    let mut rows = Vec::new();
    for options in &options {
        let start = Instant::now();
        let mut engine = a.place.open(&a.model, options)?;
        let load_s = start.elapsed().as_secs_f64();
        let heading = if rows.is_empty() && !a.quiet && !a.json { table::heading(a, &engine) } else { String::new() };
        let row = measure(a, &mut engine, load_s)?;
        let text = if a.json { format!("{}\n", table::json(a, &row)) } else { heading + &table::row(a, &row) };
        if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return console::broken_pipe(e);
        }
        rows.push(row);
    }
    if !a.quiet
        && !a.json
        && let Err(e) = out.write_all(table::limits(&rows).as_bytes())
    {
        return console::broken_pipe(e);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(a: &Arguments, engine: &mut machine::Engine, load_s: f64) -> Result<Row> {
    let (capacity, expected) = (a.prompt.saturating_add(a.n_gen), engine.file().spec().context_length);
    if capacity > expected {
        return Err(RuntimeError::ContextTooLong { got: capacity, expected }.into());
    }
    let kv = a.how.kv_type(engine.file());
    let chunk = a.chunk.unwrap_or(engine.backend().chunk());
    let mut session = engine.session(capacity, kv)?;
    let on_gpu = session.engine().backend().on_gpu().is_some();
    let other = |hash: &str, last: &str| anyhow::anyhow!("two rounds gave different logits: {last} and {hash}");
    let (mut prompt, mut generate, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    let (_, _, logits_hash) = round(a, &mut session, chunk, true)?;
    for _ in 0..a.rounds {
        let (prompt_s, generate_s, hash) = round(a, &mut session, chunk, !on_gpu)?;
        if !on_gpu && hash != logits_hash {
            return Err(other(&hash, &logits_hash));
        }
        prompt.push(a.prompt as f64 / prompt_s);
        generate.push(if a.n_gen > 0 { a.n_gen as f64 / generate_s } else { 0.0 });
        if !a.no_limits {
            let engine = session.engine();
            limits.push(match engine.backend().on_gpu() {
                Some(gpu) => Limits::of_device(gpu.device()).map_err(RuntimeError::from)?,
                None => Limits::measure(engine.file(), engine.backend().on_cpu()),
            });
        }
    }
    if on_gpu {
        let (_, _, hash) = round(a, &mut session, chunk, true)?;
        if hash != logits_hash {
            return Err(other(&hash, &logits_hash));
        }
    }
    let memory = Memory::now();
    let engine = session.engine();
    let median = |of: fn(&Limits) -> Option<f64>| {
        let all: Option<Vec<f64>> = limits.iter().map(of).collect();
        all.filter(|all| !all.is_empty()).map(|all| Figures::new(all).median())
    };
    Ok(Row {
        threads: engine.backend().on_cpu().pool().threads(),
        isa: if on_gpu { "cuda" } else { engine.backend().on_cpu().kernels().name },
        gpu: on_gpu.then(|| machine::device_name(engine)),
        chunk,
        kv,
        prompt: Figures::new(prompt),
        generate: Figures::new(generate),
        work: Work::of(engine.file().layout()),
        attended: attended_bytes(engine.file().spec(), kv, a.prompt..capacity),
        limits: median(|l| Some(l.read_gb_s)).map(|read_gb_s| Limits {
            read_gb_s,
            dot_gmac_s: median(|l| l.dot_gmac_s),
            fma_gmac_s: median(|l| l.fma_gmac_s),
            tensor_gmac_s: median(|l| l.tensor_gmac_s),
        }),
        load_s,
        memory,
        logits_hash,
    })
}

/// Runs a prompt and generates after it. Returns the seconds of both, and the hash of all logits if `hashed`; otherwise
/// each step returns only its likeliest token, which is fed next.
fn round(a: &Arguments, session: &mut Session, chunk: usize, hashed: bool) -> Result<(f64, f64, String)> {
    let vocab_size = session.engine().file().spec().vocab_size as u64;
    // A generator with Knuth's multiplier: all rounds have the same ids, so they must have the same hash.
    let mut state = 1u64;
    let mut id = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_size) as u32
    };
    _ = session.truncate(0);
    let prompt: Vec<u32> = (0..a.prompt).map(|_| id()).collect();
    let mut hash = blake3::Hasher::new();
    let start = Instant::now();
    let wants = if hashed { Wants::Last } else { Wants::Top(1) };
    let logits = session.feed_for(&prompt, chunk, wants)?;
    let prompt_s = start.elapsed().as_secs_f64();
    let mut add = |logits: &Logits| {
        if let Logits::Rows(row) = logits {
            hash.update(bytemuck::cast_slice(row));
        }
    };
    add(&logits);
    let mut generate_s = 0.0;
    let mut likeliest = match logits {
        Logits::Top(top) => top.first().map(|(id, _)| *id),
        Logits::Rows(_) => None,
    };
    for left in (0..a.n_gen).rev() {
        let id = likeliest.unwrap_or_else(&mut id);
        let start = Instant::now();
        let logits = match likeliest {
            Some(id) => session.feed_ahead(id, left > 0)?,
            None => session.feed_for(&[id], 1, wants)?,
        };
        generate_s += start.elapsed().as_secs_f64();
        add(&logits);
        if let Logits::Top(top) = logits {
            likeliest = top.first().map(|(id, _)| *id);
        }
    }
    Ok((prompt_s, generate_s, hash.finalize().to_hex().to_string()))
}
