//! Measures a model on this machine: prompt and generation speed, with a hash of the logits behind them.

use anyhow::{Result, bail};
use clap::Parser;
use nanoserve_runtime::session::DEFAULT_CHUNK;
use nanoserve_runtime::{Engine, EngineOptions, KvType};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[path = "../cli.rs"]
mod cli;

const EXAMPLES: &str = "\
Examples:
  nanoserve-bench model.nsv
  nanoserve-bench model.nsv -t 1,2 -p 512 -n 64 -r 5 --json

Each round runs a prompt of random token ids, then generates after it from random ids: speed does not depend on which.
Figures are medians over the rounds, after one that is not counted.";

/// Measure the speed of a .nsv model.
#[derive(Debug, Parser)]
#[command(name = "nanoserve-bench", version, about, after_help = EXAMPLES)]
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
    /// Tokens of the prompt that are run together
    #[arg(long, default_value_t = DEFAULT_CHUNK, value_name = "N")]
    chunk: usize,
    /// Instruction set of the kernels [default: the fastest here]
    #[arg(long, value_name = "scalar|avx2|avx512|neon")]
    isa: Option<String>,
    /// How keys and values are kept [default: f32 for a model in f32, else f16]
    #[arg(long, value_enum)]
    kv: Option<cli::Kv>,
    /// Print no heading
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object a row
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    cli::exit(run(&Arguments::parse()))
}

/// What one number of threads gave.
struct Measured {
    isa: &'static str,
    prompt_tok_s: Vec<f64>,
    generate_tok_s: Vec<f64>,
    load_s: f64,
    logits_hash: String,
}

fn run(a: &Arguments) -> Result<ExitCode> {
    if a.prompt == 0 || a.rounds == 0 {
        bail!("--prompt and --rounds are at least 1");
    }
    let threads = match &a.threads[..] {
        [] => vec![nanoserve_runtime::cpu::threads::default_threads()],
        given => given.to_vec(),
    };
    let mut out = std::io::stdout();
    for (i, &threads) in threads.iter().enumerate() {
        let machine = cli::Machine { threads: Some(threads), device: cli::Device::Cpu, isa: a.isa.clone(), kv: a.kv };
        let start = Instant::now();
        let mut engine = Engine::open(&a.model, &EngineOptions::try_from(&machine)?)?;
        let load_s = start.elapsed().as_secs_f64();
        let kv_type = machine.kv_type(engine.file());
        // What a token reads: every weight but the embedding, of which it reads one row, unless that is the head.
        let layout = engine.file().layout();
        let head_apart = layout.tensors.last().is_some_and(|t| t.alias_of.is_none());
        let embed = if head_apart { layout.tensors[0].range.len() as u64 } else { 0 };
        let read = (layout.weight_bytes() - embed) as f64;
        let m = measure(a, &mut engine, kv_type, load_s)?;
        let text = if a.json { json(a, threads, &m, read) } else { table(a, i == 0, threads, &m, read) };
        if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return cli::broken_pipe(e);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(
    a: &Arguments,
    engine: &mut Engine<nanoserve_runtime::cpu::CpuBackend>,
    kv_type: KvType,
    load_s: f64,
) -> Result<Measured> {
    let vocab_size = engine.file().spec().vocab_size as u64;
    let isa = engine.backend().kernels().name;
    let mut session = engine.session(a.prompt + a.n_gen, kv_type)?;
    let (mut prompt_tok_s, mut generate_tok_s) = (Vec::new(), Vec::new());
    let mut logits_hash = String::new();
    for round in 0..=a.rounds {
        // Knuth's multiplier: the same ids in each round, so that each round's hash must be the last one's.
        let mut state = 1u64;
        let mut id = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab_size) as u32
        };
        session.truncate(0);
        let prompt: Vec<u32> = (0..a.prompt).map(|_| id()).collect();
        let mut hash = blake3::Hasher::new();
        let start = Instant::now();
        let logits = session.feed(&prompt, a.chunk)?;
        let prompt_s = start.elapsed().as_secs_f64();
        hash.update(bytemuck::cast_slice(&logits));
        let mut generate_s = 0.0;
        for _ in 0..a.n_gen {
            let id = [id()];
            let start = Instant::now();
            let logits = session.feed(&id, 1)?;
            generate_s += start.elapsed().as_secs_f64();
            hash.update(bytemuck::cast_slice(&logits));
        }
        let hash = hash.finalize().to_hex().to_string();
        if round > 0 {
            if hash != logits_hash {
                bail!("two rounds gave different logits: {logits_hash} and {hash}");
            }
            prompt_tok_s.push(a.prompt as f64 / prompt_s);
            generate_tok_s.push(if a.n_gen > 0 { a.n_gen as f64 / generate_s } else { 0.0 });
        }
        logits_hash = hash;
    }
    prompt_tok_s.sort_by(f64::total_cmp);
    generate_tok_s.sort_by(f64::total_cmp);
    Ok(Measured { isa, prompt_tok_s, generate_tok_s, load_s, logits_hash })
}

/// The median of sorted figures.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0
}

fn table(a: &Arguments, first: bool, threads: usize, m: &Measured, read: f64) -> String {
    let mut text = String::new();
    if first && !a.quiet {
        text += "threads  isa      prompt  tok/s   (min .. max)        generate  tok/s  (min .. max)         GB/s  load s  logits\n";
    }
    let spread = |v: &[f64]| format!("({:.1} .. {:.1})", v[0], v[v.len() - 1]);
    let (p, g) = (median(&m.prompt_tok_s), median(&m.generate_tok_s));
    text += &format!(
        "{threads:>7}  {:<7}  {:>6}  {p:>6.1}  {:<18}  {:>8}  {g:>6.2}  {:<18}  {:>5.1}  {:>6.3}  {}\n",
        m.isa,
        a.prompt,
        spread(&m.prompt_tok_s),
        a.n_gen,
        spread(&m.generate_tok_s),
        read * g / 1e9,
        m.load_s,
        &m.logits_hash[..16],
    );
    text
}

fn json(a: &Arguments, threads: usize, m: &Measured, read: f64) -> String {
    let g = median(&m.generate_tok_s);
    let row = serde_json::json!({
        "threads": threads,
        "isa": m.isa,
        "prompt": a.prompt,
        "prompt_tok_s": median(&m.prompt_tok_s),
        "prompt_tok_s_range": [m.prompt_tok_s[0], m.prompt_tok_s[m.prompt_tok_s.len() - 1]],
        "generated": a.n_gen,
        "generate_tok_s": g,
        "generate_tok_s_range": [m.generate_tok_s[0], m.generate_tok_s[m.generate_tok_s.len() - 1]],
        "gb_s": read * g / 1e9,
        "load_s": m.load_s,
        "logits_hash": m.logits_hash,
    });
    format!("{row}\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(super::median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(super::median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
