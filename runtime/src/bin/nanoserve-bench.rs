//! Measures a model on this machine: prompt and generation speed, how far they are from what the machine can do, and a
//! hash of the logits behind them.

use anyhow::{Result, bail};
use clap::Parser;
use nanoserve_format::InputForm;
use nanoserve_runtime::backend::Backend as _;
use nanoserve_runtime::cpu::threads::default_threads;
use nanoserve_runtime::diagnose::roofline::{Limits, Work, attended_bytes};
use nanoserve_runtime::{KvType, Logits, RuntimeError, Wants};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[path = "../cli.rs"]
#[allow(dead_code, reason = "this program has numbers of threads, not one")]
mod cli;

type Session<'e> = nanoserve_runtime::Session<'e, cli::Backend>;

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
struct Arguments {
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
    place: cli::Where,
    #[command(flatten)]
    how: cli::How,
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::begin(&arguments.model);
    cli::exit(run(&arguments))
}

/// What one number of threads gave.
struct Row {
    threads: usize,
    isa: &'static str,
    /// The GPU's name, where it has layers.
    gpu: Option<String>,
    chunk: usize,
    kv: KvType,
    prompt: Figures,
    generate: Figures,
    work: Work,
    /// Bytes of keys and values that a generated token reads.
    attended: f64,
    limits: Option<Limits>,
    load_s: f64,
    memory: Memory,
    logits_hash: String,
}

fn run(a: &Arguments) -> Result<ExitCode> {
    for (option, value) in [("--prompt", a.prompt), ("--rounds", a.rounds), ("--chunk", a.chunk.unwrap_or(1))] {
        if value == 0 {
            bail!("{option} is 0, expected at least 1");
        }
    }
    let threads = if a.threads.is_empty() { vec![default_threads()] } else { a.threads.clone() };
    // All of them before the first row: a wrong one shows at once.
    let options = threads.into_iter().map(|n| a.how.on(Some(n))).collect::<Result<Vec<_>>>()?;
    a.place.check()?;
    let mut out = std::io::stdout();
    let mut rows = Vec::new();
    for options in &options {
        let start = Instant::now();
        let mut engine = a.place.open(&a.model, options)?;
        let load_s = start.elapsed().as_secs_f64();
        let heading = if rows.is_empty() && !a.quiet && !a.json { heading(a, &engine) } else { String::new() };
        let row = measure(a, &mut engine, load_s)?;
        let text = if a.json { format!("{}\n", json(a, &row)) } else { heading + &table(a, &row) };
        if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return cli::broken_pipe(e);
        }
        rows.push(row);
    }
    if !a.quiet
        && !a.json
        && let Err(e) = out.write_all(limits(&rows).as_bytes())
    {
        return cli::broken_pipe(e);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(a: &Arguments, engine: &mut cli::Engine, load_s: f64) -> Result<Row> {
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
        gpu: on_gpu.then(|| cli::device_name(engine)),
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

/// A prompt and what follows it: seconds of both, and the hash of all logits, where it is `hashed`. Else only the likeliest
/// token is asked for, and follows.
fn round(a: &Arguments, session: &mut Session, chunk: usize, hashed: bool) -> Result<(f64, f64, String)> {
    let vocab_size = session.engine().file().spec().vocab_size as u64;
    // Knuth's multiplier: the same ids in each round, so that each round's hash must be the last one's.
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

/// One figure of each round, sorted.
struct Figures(Vec<f64>);

impl Figures {
    fn new(mut all: Vec<f64>) -> Figures {
        all.sort_by(f64::total_cmp);
        Figures(all)
    }

    fn median(&self) -> f64 {
        let n = self.0.len();
        (self.0[(n - 1) / 2] + self.0[n / 2]) / 2.0
    }

    /// The least and the most.
    fn range(&self) -> [f64; 2] {
        [self.0[0], self.0[self.0.len() - 1]]
    }

    /// The median, and how far the furthest is from it.
    fn show(&self) -> String {
        let (median, [least, most]) = (self.median(), self.range());
        if median == 0.0 {
            return "-".to_string();
        }
        let off = 100.0 * (most - median).max(median - least) / median;
        // No wider than the column, whatever the figures.
        let digits = |x: f64, limit| usize::from(x < limit);
        let off = format!("+-{off:.*}%", digits(off, 9.95));
        format!("{median:.*} {off:>6}", digits(median, 9999.5))
    }
}

/// What this process holds, in bytes, where the system says it.
#[derive(Clone, Copy, Default)]
struct Memory {
    /// Pages of files: the map, shared with whoever else has it.
    file: Option<u64>,
    /// Pages of its own.
    anonymous: Option<u64>,
    /// The most it ever held of both.
    peak: Option<u64>,
}

impl Memory {
    fn now() -> Memory {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
        };
        Memory { file: bytes("RssFile:"), anonymous: bytes("RssAnon:"), peak: bytes("VmHWM:") }
    }
}

impl Row {
    fn gb_s(&self) -> f64 {
        self.work.read_bytes as f64 * self.generate.median() / 1e9
    }

    /// How much of the limit on products the prompt gets.
    fn prompt_share(&self) -> Option<f64> {
        Some(self.limits?.prompt_s(&self.work)? * self.prompt.median())
    }

    /// How much of the limit on reading generation gets.
    fn generate_share(&self) -> Option<f64> {
        let gb_s = self.gb_s() + self.attended * self.generate.median() / 1e9;
        self.limits.filter(|_| gb_s > 0.0).map(|limits| gb_s / limits.read_gb_s)
    }
}

/// The processor's own name, where the system says it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

fn heading(a: &Arguments, engine: &cli::Engine) -> String {
    let file = engine.file();
    let (layout, spec) = (file.layout(), file.spec());
    let forms = Work::of(layout).prompt_macs.into_iter().map(|(encoding, _)| encoding.input());
    let in_bytes = |form| form == InputForm::Bytes32;
    let name = a.model.file_name().unwrap_or(a.model.as_os_str()).display();
    let load = if a.how.load == cli::LoadMode::Huge { "copied into huge pages" } else { "mapped" };
    let locked = if a.how.lock { ", locked" } else { "" };
    format!(
        "model    {name}: {}, {} layers of {}, {:.3} GB of weights, {load}{locked}\n\
         machine  {}, {} cores\n\
         run      prompt of {} in steps of {}, then {} generated, kv {}; median of {} rounds\n\n\
         {:>7} {:<6} {:>15} {:>6}  {:>14} {:>5} {:>7} {:>6} {:>7} {:>7} {:<8}\n",
        layout.encodings(),
        spec.n_layers,
        spec.hidden_size,
        layout.weight_bytes() as f64 / 1e9,
        match engine.backend().on_gpu() {
            Some(_) => format!("{}, {}", cli::device_name(engine), processor()),
            None => processor(),
        },
        default_threads(),
        a.prompt,
        a.chunk.unwrap_or(engine.backend().chunk()),
        a.n_gen,
        a.how.kv_type(file).name(),
        a.rounds,
        "threads",
        "isa",
        "prompt tok/s",
        match engine.backend().on_gpu() {
            Some(_) => "of mma",
            None if forms.clone().all(in_bytes) => "of dot",
            None if !forms.clone().any(in_bytes) => "of fma",
            None => "of max",
        },
        "generate tok/s",
        "GB/s",
        "of read",
        "load s",
        "file MB",
        "anon MB",
        "logits",
    )
}

fn table(a: &Arguments, row: &Row) -> String {
    let share = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{:.0} %", 100.0 * x));
    let megabytes = |x: Option<u64>| x.map_or("-".to_string(), |x| format!("{:.0}", x as f64 / 1e6));
    format!(
        "{:>7} {:<6} {:>15} {:>6}  {:>14} {:>5} {:>7} {:>6.3} {:>7} {:>7} {}\n",
        row.threads,
        row.isa,
        row.prompt.show(),
        share(row.prompt_share()),
        row.generate.show(),
        if a.n_gen > 0 { format!("{:.1}", row.gb_s()) } else { "-".to_string() },
        share(row.generate_share()),
        row.load_s,
        megabytes(row.memory.file),
        megabytes(row.memory.anonymous),
        &row.logits_hash[..8],
    )
}

/// What the shares are of, and the memory at its most.
fn limits(rows: &[Row]) -> String {
    let mut text = String::from("\n");
    for row in rows {
        let Some(limits) = &row.limits else { continue };
        if let Some(gpu) = &row.gpu {
            text += &format!("limits   {gpu}: copy {:.0} GB/s", limits.read_gb_s);
            if let Some(rate) = limits.tensor_gmac_s {
                text += &format!(", f16 mma {:.0} TFLOP/s", 2e-3 * rate);
            }
            text += "\n";
            continue;
        }
        let threads = if row.threads == 1 { "1 thread".to_string() } else { format!("{} threads", row.threads) };
        text += &format!("limits   {threads}: read {:.1} GB/s", limits.read_gb_s);
        for (name, rate) in [("int8 dot", limits.dot_gmac_s), ("f32 fma", limits.fma_gmac_s)] {
            if let Some(rate) = rate {
                text += &format!(", {name} {rate:.0} GMAC/s");
            }
        }
        text += "\n";
    }
    if let Some(peak) = Memory::now().peak {
        text += &format!("memory   {:.0} MB at the most, pages of the file included\n", peak as f64 / 1e6);
    }
    text
}

fn json(a: &Arguments, row: &Row) -> serde_json::Value {
    serde_json::json!({
        "threads": row.threads,
        "isa": row.isa,
        "device": row.gpu.as_deref().unwrap_or("cpu"),
        "prompt": a.prompt,
        "prompt_tok_s": row.prompt.median(),
        "prompt_tok_s_range": row.prompt.range(),
        "generated": a.n_gen,
        "generate_tok_s": row.generate.median(),
        "generate_tok_s_range": row.generate.range(),
        "gb_s": row.gb_s(),
        "limits": row.limits.map(|l| serde_json::json!({
            "read_gb_s": l.read_gb_s,
            "dot_gmac_s": l.dot_gmac_s,
            "fma_gmac_s": l.fma_gmac_s,
            "tensor_gmac_s": l.tensor_gmac_s,
        })),
        "attended_bytes": row.attended,
        "shares": {"prompt": row.prompt_share(), "generate": row.generate_share()},
        "kv": row.kv.name(),
        "chunk": row.chunk,
        "rounds": a.rounds,
        "load": if a.how.load == cli::LoadMode::Huge { "huge" } else { "map" },
        "lock": a.how.lock,
        "load_s": row.load_s,
        "rss_file_bytes": row.memory.file,
        "rss_anon_bytes": row.memory.anonymous,
        "rss_peak_bytes": row.memory.peak,
        "logits_hash": row.logits_hash,
    })
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Figures::new(vec![9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Figures::new(vec![4.0, 1.0, 9.0, 2.0]).median(), 3.0);
    }

    #[test]
    fn the_spread_is_the_round_that_is_furthest_off() {
        assert_eq!(Figures::new(vec![100.0, 90.0, 101.0]).show(), "100.0  +-10%");
        assert_eq!(Figures::new(vec![100.0, 102.0, 99.0]).show(), "100.0 +-2.0%");
    }
}
