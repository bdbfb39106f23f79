//! Prints rows: as a table for a person, as objects for programs.

use super::Arguments;
use super::figures::{Memory, Row, Test};
use crate::machine;
use nanoserve_format::InputForm;
use nanoserve_runtime::backend::Backend as _;
use nanoserve_runtime::cpu::threads::default_threads;
use nanoserve_runtime::diagnose::roofline::Work;

/// The processor's name, or its architecture if the system does not report a name.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

/// The lines above the table: what is measured, and the names of the columns.
pub fn heading(a: &Arguments, tests: &[Test], engine: &machine::Engine) -> String {
    let file = engine.file();
    let (layout, spec) = (file.layout(), file.spec());
    let forms = Work::of(layout).prompt_macs.into_iter().map(|(encoding, _)| encoding.input());
    let in_bytes = |form| form == InputForm::Bytes32;
    let name = a.model.file_name().unwrap_or(a.model.as_os_str()).display();
    let load = if a.how.load == machine::LoadMode::Huge { "copied into huge pages" } else { "mapped" };
    let locked = if a.how.lock { ", locked" } else { "" };
    let chunk = a.chunk.unwrap_or(engine.backend().chunk());
    let what = match tests {
        [Test { depth, prompt, n_gen }] => {
            let depth = if *depth > 0 { format!(" behind {depth} tokens") } else { String::new() };
            format!("prompt of {prompt}{depth} in steps of {chunk}, then {n_gen} generated")
        }
        _ => format!("a prompt in steps of {chunk}, then tokens generated"),
    };
    let of = match engine.backend().on_gpu() {
        Some(_) => "of mma",
        None if forms.clone().all(in_bytes) => "of dot",
        None if !forms.clone().any(in_bytes) => "of fma",
        None => "of max",
    };
    let columns = match tests {
        [_] => format!(
            "{:>7} {:<6} {:>15} {of:>6}  {:>14} {:>5} {:>7} {:>6} {:>7} {:>7} {:<8}",
            "threads",
            "isa",
            "prompt tok/s",
            "generate tok/s",
            "GB/s",
            "of read",
            "load s",
            "file MB",
            "anon MB",
            "logits",
        ),
        _ => format!(
            "{:>7} {:<6} {:>6} {:>6} {:>15} {of:>6} {:>6}  {:>14} {:>5} {:>7} {:<8}",
            "threads", "isa", "depth", "prompt", "tok/s", "gen", "tok/s", "GB/s", "of read", "logits",
        ),
    };
    format!(
        "model    {name}: {}, {} layers of {}, {:.3} GB of weights, {load}{locked}\n\
         machine  {}, {} cores\n\
         run      {what}, kv {}; median of {} rounds\n\n\
         {columns}\n",
        layout.encodings(),
        spec.n_layers,
        spec.hidden_size,
        layout.weight_bytes() as f64 / 1e9,
        match engine.backend().on_gpu() {
            Some(_) => format!("{}, {}", machine::device_name(engine), processor()),
            None => processor(),
        },
        default_threads(),
        a.how.kv_type(file).name(),
        a.rounds,
    )
}

/// A line of the table.
pub fn row(tests: &[Test], row: &Row) -> String {
    let share = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{:.0} %", 100.0 * x));
    let gb_s = if row.test.n_gen > 0 { format!("{:.1}", row.gb_s()) } else { "-".to_string() };
    if tests.len() > 1 {
        return format!(
            "{:>7} {:<6} {:>6} {:>6} {:>15} {:>6} {:>6}  {:>14} {gb_s:>5} {:>7} {}\n",
            row.threads,
            row.isa,
            row.test.depth,
            row.test.prompt,
            row.prompt.show(),
            share(row.prompt_share()),
            row.test.n_gen,
            row.generate.show(),
            share(row.generate_share()),
            &row.logits_hash[..8],
        );
    }
    let megabytes = |x: Option<u64>| x.map_or("-".to_string(), |x| format!("{:.0}", x as f64 / 1e6));
    format!(
        "{:>7} {:<6} {:>15} {:>6}  {:>14} {gb_s:>5} {:>7} {:>6.3} {:>7} {:>7} {}\n",
        row.threads,
        row.isa,
        row.prompt.show(),
        share(row.prompt_share()),
        row.generate.show(),
        share(row.generate_share()),
        row.load_s,
        megabytes(row.memory.file),
        megabytes(row.memory.anonymous),
        &row.logits_hash[..8],
    )
}

/// The lines below the table: the machine's limits, and the peak of memory.
pub fn limits(rows: &[Row]) -> String {
    let mut text = String::from("\n");
    // Each number of threads once: its first row stands for it.
    let first = |(at, row): &(usize, &Row)| rows[..*at].iter().all(|before| before.threads != row.threads);
    for (_, row) in rows.iter().enumerate().filter(first) {
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
