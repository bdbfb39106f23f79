//! Measures a model on this machine: the speed of prompt and generation, their share of the machine's limits, and a
//! hash of the logits.

mod figures;
mod lists;
mod output;
mod table;

use crate::programs::Program;
use crate::{console, imported, machine, values};
use anyhow::Result;
use clap::{Command, Parser};
use figures::{Figures, Memory, Row, Test};
use lists::Counts;
use nanoserve_runtime::backend::Backend as _;
use nanoserve_runtime::cpu::threads::default_threads;
use nanoserve_runtime::diagnose::roofline::{Limits, Work, attended_bytes};
use nanoserve_runtime::{Logits, RuntimeError, Wants};
use output::Format;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

type Session<'e> = nanoserve_runtime::Session<'e, machine::Backend>;

const EXAMPLES: &str = "\
Examples:
  nanoserve-bench model.nsv
  nanoserve-bench model.nsv -t 1,2 -p 512 -n 64 -r 5 --json
  nanoserve-bench model.nsv -p 128,512 -n 32,64 -t 1-4 -o md
  nanoserve-bench model.nsv -p 64 -n 64 -d 0-4096+1024 -o csv
  nanoserve-bench model.nsv --device cuda -p 2048 -n 128

A list is numbers and ranges with commas: 128, 1-4, 128-512+128, 128-1024*2. All combinations are measured.
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
    /// The model file: .nsv, or .gguf, which is converted once into the user's cache
    #[arg(env = "NANOSERVE_MODEL")]
    model: PathBuf,
    /// Threads to measure with [default: physical cores]
    #[arg(short, long, value_name = "N,...", env = "NANOSERVE_THREADS", value_delimiter = ',', value_parser = lists::threads)]
    threads: Vec<Counts>,
    /// Tokens of the prompt
    #[arg(short, long, default_value = "512", value_name = "N,...", value_delimiter = ',', value_parser = lists::positive)]
    prompt: Vec<Counts>,
    /// Tokens to generate after it
    #[arg(short = 'n', long, default_value = "64", value_name = "N,...", value_delimiter = ',', value_parser = lists::counts)]
    n_gen: Vec<Counts>,
    /// Tokens that stand before the prompt and are not timed
    #[arg(short, long, default_value = "0", value_name = "N,...", value_delimiter = ',', value_parser = lists::counts)]
    depth: Vec<Counts>,
    /// Rounds
    #[arg(short, long, default_value = "5", value_name = "N", value_parser = values::positive)]
    rounds: usize,
    /// Tokens of the prompt that are run together [default: 256; with all layers on a GPU 2048]
    #[arg(long, value_name = "N", env = "NANOSERVE_CHUNK", value_parser = values::positive)]
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
    /// What to print rows as
    #[arg(short, long, value_enum, default_value_t = Format::Table, hide_possible_values = true, value_name = "table|csv|md|json|jsonl")]
    output: Format,
    /// Print one JSON object a row, as -o jsonl does
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Arguments {
    fn format(&self) -> Format {
        if self.json { Format::Jsonl } else { self.output }
    }

    /// Everything to measure with one number of threads.
    fn tests(&self) -> Vec<Test> {
        let [prompts, counts, depths] = [&self.prompt, &self.n_gen, &self.depth].map(|list| Counts::all(list));
        let mut tests = Vec::new();
        for &depth in &depths {
            for &prompt in &prompts {
                tests.extend(counts.iter().map(|&n_gen| Test { depth, prompt, n_gen }));
            }
        }
        tests
    }
}

impl Program for Arguments {
    fn start(mut self, _: &mut Command) -> ExitCode {
        match imported::model(&self.model, None, false, || {}) {
            Ok(file) => self.model = file,
            Err(error) => return console::exit(Err(error)),
        }
        console::begin(&self.model);
        console::exit(run(&self))
    }
}

fn run(a: &Arguments) -> Result<ExitCode> {
    let threads = if a.threads.is_empty() { vec![default_threads()] } else { Counts::all(&a.threads) };
    let options = threads.into_iter().map(|n| a.how.on(Some(n))).collect::<Result<Vec<_>>>()?;
    a.place.check()?;
    let (tests, format) = (a.tests(), a.format());
    let mut out = std::io::stdout();
    let mut print = |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush());
    let mut rows = Vec::new();
    for options in &options {
        let start = Instant::now();
        let mut engine = a.place.open(&a.model, options)?;
        let load_s = start.elapsed().as_secs_f64();
        // All options are checked before the first row, so that a wrong one is refused at once.
        let (longest, expected) = (tests.iter().map(Test::positions).max(), engine.file().spec().context_length);
        if let Some(got) = longest.filter(|&got| got > expected) {
            return Err(RuntimeError::ContextTooLong { got, expected }.into());
        }
        for &test in &tests {
            let heading = match format {
                _ if !rows.is_empty() || (a.quiet && format != Format::Json) => String::new(),
                Format::Table => table::heading(a, &tests, &engine),
                Format::Csv => output::csv_names(),
                Format::Md => output::md_names(),
                Format::Json => "[\n".into(),
                Format::Jsonl => String::new(),
            };
            // It says what is about to be measured, which takes a while.
            if let Err(e) = print(&heading) {
                return console::broken_pipe(e);
            }
            let row = measure(a, test, &mut engine, load_s)?;
            let text = match format {
                Format::Table => table::row(&tests, &row),
                Format::Csv => output::csv(a, &row),
                Format::Md => output::md(a, &row),
                Format::Json => format!("{}{}", if rows.is_empty() { "" } else { ",\n" }, output::json(a, &row)),
                Format::Jsonl => format!("{}\n", output::json(a, &row)),
            };
            if let Err(e) = print(&text) {
                return console::broken_pipe(e);
            }
            rows.push(row);
        }
    }
    let end = match format {
        Format::Table if !a.quiet => table::limits(&rows),
        Format::Json => "\n]\n".into(),
        _ => String::new(),
    };
    match print(&end) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => console::broken_pipe(e),
    }
}

fn measure(a: &Arguments, test: Test, engine: &mut machine::Engine, load_s: f64) -> Result<Row> {
    let capacity = test.positions();
    let kv = a.how.kv_type(engine.file());
    let chunk = a.chunk.unwrap_or(engine.backend().chunk());
    let mut session = engine.session(capacity, kv)?;
    let on_gpu = session.engine().backend().on_gpu().is_some();
    let other = |hash: &str, last: &str| anyhow::anyhow!("two rounds gave different logits: {last} and {hash}");
    let (mut prompt, mut generate, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    let (_, _, logits_hash) = round(test, &mut session, chunk, true)?;
    for _ in 0..a.rounds {
        let (prompt_s, generate_s, hash) = round(test, &mut session, chunk, !on_gpu)?;
        if !on_gpu && hash != logits_hash {
            return Err(other(&hash, &logits_hash));
        }
        prompt.push(test.prompt as f64 / prompt_s);
        generate.push(if test.n_gen > 0 { test.n_gen as f64 / generate_s } else { 0.0 });
        if !a.no_limits {
            let engine = session.engine();
            limits.push(match engine.backend().on_gpu() {
                Some(gpu) => Limits::of_device(gpu.device()).map_err(RuntimeError::from)?,
                None => Limits::measure(engine.file(), engine.backend().on_cpu()),
            });
        }
    }
    if on_gpu {
        let (_, _, hash) = round(test, &mut session, chunk, true)?;
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
        test,
        weights: engine.file().layout().encodings().to_string(),
        threads: engine.backend().on_cpu().pool().threads(),
        isa: if on_gpu { "cuda" } else { engine.backend().on_cpu().kernels().name },
        gpu: on_gpu.then(|| machine::device_name(engine)),
        chunk,
        kv,
        prompt: Figures::new(prompt),
        generate: Figures::new(generate),
        work: Work::of(engine.file().layout()),
        attended: attended_bytes(engine.file().spec(), kv, test.depth + test.prompt..capacity),
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
fn round(test: Test, session: &mut Session, chunk: usize, hashed: bool) -> Result<(f64, f64, String)> {
    let vocab_size = session.engine().file().spec().vocab_size as u64;
    // A generator with Knuth's multiplier: all rounds have the same ids, so they must have the same hash.
    let ids = |mut state: u64| {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab_size) as u32
        }
    };
    // What stands before the prompt runs once, where its keys and values can be kept.
    if session.truncate(test.depth) < test.depth {
        _ = session.truncate(0);
        let mut id = ids(2);
        let before: Vec<u32> = (0..test.depth).map(|_| id()).collect();
        session.feed_quietly(&before, chunk)?;
    }
    let mut id = ids(1);
    let prompt: Vec<u32> = (0..test.prompt).map(|_| id()).collect();
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
    for left in (0..test.n_gen).rev() {
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
