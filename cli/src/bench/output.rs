//! Rows for other programs: JSON, CSV, and a table in Markdown.

use super::Arguments;
use super::figures::Row;
use clap::ValueEnum;
use serde_json::Value;

/// What rows are printed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for the eye.
    Table,
    /// Comma-separated values, the first line their names.
    Csv,
    /// A table in Markdown.
    Md,
    /// One JSON array.
    Json,
    /// A JSON object a row.
    Jsonl,
}

/// The columns of CSV, in the words of [`json`], and where one is in an object or an array the way to it.
const COLUMNS: [(&str, &str); 23] = [
    ("model", "/model"),
    ("weights", "/weights"),
    ("device", "/device"),
    ("isa", "/isa"),
    ("threads", "/threads"),
    ("kv", "/kv"),
    ("chunk", "/chunk"),
    ("rounds", "/rounds"),
    ("depth", "/depth"),
    ("prompt", "/prompt"),
    ("prompt_tok_s", "/prompt_tok_s"),
    ("prompt_tok_s_least", "/prompt_tok_s_range/0"),
    ("prompt_tok_s_most", "/prompt_tok_s_range/1"),
    ("generated", "/generated"),
    ("generate_tok_s", "/generate_tok_s"),
    ("generate_tok_s_least", "/generate_tok_s_range/0"),
    ("generate_tok_s_most", "/generate_tok_s_range/1"),
    ("gb_s", "/gb_s"),
    ("read_gb_s", "/limits/read_gb_s"),
    ("load", "/load"),
    ("load_s", "/load_s"),
    ("rss_peak_bytes", "/rss_peak_bytes"),
    ("logits_hash", "/logits_hash"),
];

/// A row as an object.
pub fn json(a: &Arguments, row: &Row) -> Value {
    serde_json::json!({
        "model": a.model,
        "weights": row.weights,
        "threads": row.threads,
        "isa": row.isa,
        "device": row.gpu.as_deref().unwrap_or("cpu"),
        "depth": row.test.depth,
        "prompt": row.test.prompt,
        "prompt_tok_s": row.prompt.median(),
        "prompt_tok_s_range": row.prompt.range(),
        "generated": row.test.n_gen,
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
        "load": if a.how.load == crate::machine::LoadMode::Huge { "huge" } else { "map" },
        "lock": a.how.lock,
        "load_s": row.load_s,
        "rss_file_bytes": row.memory.file,
        "rss_anon_bytes": row.memory.anonymous,
        "rss_peak_bytes": row.memory.peak,
        "logits_hash": row.logits_hash,
    })
}

/// The line of CSV's names.
pub fn csv_names() -> String {
    COLUMNS.map(|(name, _)| name).join(",") + "\n"
}

/// A row of CSV.
pub fn csv(a: &Arguments, row: &Row) -> String {
    let row = json(a, row);
    let field = |path| match row.pointer(path) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    COLUMNS.map(|(_, path)| field(path)).join(",") + "\n"
}

/// The first two lines of the Markdown table.
pub fn md_names() -> String {
    let names =
        "| model | weights | runs on | threads | depth | prompt | tok/s | generated | tok/s | GB/s | logits |\n";
    names.to_string() + "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|\n"
}

/// A row of the Markdown table.
pub fn md(a: &Arguments, row: &Row) -> String {
    let name = a.model.file_name().unwrap_or(a.model.as_os_str()).display().to_string().replace('|', "\\|");
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {} |\n",
        row.weights,
        row.gpu.as_deref().unwrap_or(row.isa),
        row.threads,
        row.test.depth,
        row.test.prompt,
        row.prompt.show(),
        row.test.n_gen,
        row.generate.show(),
        row.gb_s(),
        &row.logits_hash[..8],
    )
}
