//! What a file holds, whether its bytes are intact, and who signed it.

use super::about::About;
use super::provenance::{self, Listing};
use super::{damage_lines, open, switches};
use crate::console;
use anyhow::{Context, Result, bail};
use clap::Args;
use nanoserve_format::{Damage, Foreign, NsvFile, PublicKey, SectionKind, hex};
use nanoserve_runtime::RuntimeError;
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Show what a file holds
#[derive(Debug, Args)]
pub struct Show {
    /// The model file
    model: PathBuf,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Read every byte and compare it with the hashes in the file
    #[arg(long)]
    check: bool,
    /// Check that this key (a file, or its 64 hex digits) signed the header; with --check also the bytes
    #[arg(long, value_name = "PUB")]
    verify_key: Option<PathBuf>,
    /// Show where the file came from, and nothing else of it: all, or what b3sum or sha256sum can check
    #[arg(long, value_enum, value_name = "all|b3sum|sha256sum", hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    provenance: Option<Listing>,
    /// Print what --check and --verify-key refuse, nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Show) -> Result<ExitCode> {
    console::begin(&a.model);
    let signer = a.verify_key.as_deref().map(PublicKey::read).transpose()?;
    let start = Instant::now();
    let file = open(&a.model)?;
    let open_s = start.elapsed().as_secs_f64();
    let refused = signer.and_then(|key| file.layout().require_signer(&key).err());
    let start = Instant::now();
    let damage = a.check.then(|| file.check());
    let seconds = start.elapsed().as_secs_f64();
    let good = refused.is_none() && damage.as_ref().is_none_or(Vec::is_empty);
    let mut text = String::new();
    if a.json {
        let mut report = json(a, &file, open_s)?;
        if let Some(damage) = &damage {
            let part = |d: &Damage| json!({"what": d.what, "offset": d.range.start, "bytes": d.range.len()});
            report["damage"] = damage.iter().map(part).collect();
        }
        if signer.is_some() {
            report["verified"] = json!({"good": refused.is_none(), "error": refused.map(|e| e.to_string())});
        }
        return console::print(&(console::json(&report) + "\n"), good);
    }
    if let Some(part) = a.provenance {
        let provenance = file.provenance().map_err(RuntimeError::from)?;
        let shown = provenance::text(&provenance, part).with_context(|| a.model.display().to_string())?;
        if shown.is_empty() {
            bail!("{}: holds no hashes of this kind; convert again with --sha256", a.model.display());
        }
        text += &shown;
    } else if !a.quiet {
        describe(&mut text, a, &file)?;
    }
    match (signer, refused) {
        (_, Some(error)) => writeln!(text, "REFUSED: {error}")?,
        (Some(key), None) if !a.quiet => writeln!(text, "verified: {key} signed this file")?,
        _ => {}
    }
    let gb = file.layout().file_len as f64 / 1e9;
    match damage {
        Some(damage) if !damage.is_empty() => text += &damage_lines(&damage),
        Some(_) if !a.quiet => {
            writeln!(text, "intact: every byte checked, {gb:.3} GB in {seconds:.3} s, {:.1} GB/s", gb / seconds)?;
        }
        _ => {}
    }
    console::print(&text, good)
}

/// The key of the signature, and whether the signature is valid.
fn signature(file: &NsvFile) -> Option<(String, bool)> {
    let signature = file.layout().signature?;
    Some((signature.key.to_string(), signature.verify(&file.layout().root).is_ok()))
}

fn describe(text: &mut String, a: &Show, file: &NsvFile) -> Result<()> {
    let (layout, spec) = (file.layout(), file.spec());
    let (bytes, count) = (layout.weight_bytes(), layout.weight_count());
    *text += &About::of(file)?.text();
    writeln!(text, "file        {} bytes, root {}", layout.file_len, hex(&layout.root))?;
    if let Some(bundle) = file.bundle() {
        writeln!(text, "bundle      a program before the file, which begins at byte {}", bundle.offset)?;
    }
    match signature(file) {
        None => writeln!(text, "signed by   nobody")?,
        Some((key, true)) => writeln!(text, "signed by   {key}")?,
        Some((key, false)) => writeln!(text, "signed by   {key}: the signature is WRONG")?,
    }
    writeln!(
        text,
        "weights     {count} in {} tensors, {bytes} bytes, {:.2} bits each, matrices {}",
        layout.tensors.len(),
        8.0 * bytes as f64 / count as f64,
        layout.encodings()
    )?;
    writeln!(
        text,
        "model       {} layers, hidden {}, intermediate {}, heads {} (kv {}) of {}, vocabulary {}, context {}",
        spec.n_layers,
        spec.hidden_size,
        spec.intermediate_size,
        spec.n_heads,
        spec.n_kv_heads,
        spec.head_dim,
        spec.vocab_size,
        spec.context_length
    )?;
    writeln!(text, "switches    {}", switches::words(spec).join("\n            "))?;
    for s in &layout.sections {
        let name = SectionKind::from_code(s.code).map_or(format!("unknown kind {}", s.code), |k| k.to_string());
        writeln!(text, "section     {name:<14} {:>10} bytes at {}", s.range.len(), s.range.start)?;
    }
    let defaults = file.generation().map_err(RuntimeError::from)?;
    writeln!(text, "generation  {}", Foreign(&console::json(&defaults)))?;
    let provenance = file.provenance().map_err(RuntimeError::from)?;
    writeln!(text, "made by     {}", Foreign(&format!("{} {}", provenance.converter, provenance.recipe)))?;
    for (what, value) in [("repository", &provenance.repository), ("revision", &provenance.revision)] {
        if let Some(value) = value {
            writeln!(text, "{what:<11} {}", Foreign(value))?;
        }
    }
    let names = provenance.license.iter().chain(provenance.license_files.iter().map(|f| &f.name));
    let names: Vec<&str> = names.map(String::as_str).collect();
    if !names.is_empty() {
        writeln!(text, "licence     {}", Foreign(&names.join(", ")))?;
    }
    for s in &provenance.sources {
        writeln!(text, "source      {} {:>12} bytes  {}", Foreign(&s.blake3), s.bytes, Foreign(&s.name))?;
    }
    if a.tensors {
        let width = layout.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for t in &layout.tensors {
            let place = match &t.alias_of {
                Some(target) => format!("= {target}"),
                None => format!("{:>12} bytes at {:>12}  {}", t.range.len(), t.range.start, &hex(&t.hash)[..16]),
            };
            writeln!(text, "{:<width$}  {:>4}  {:<16} {place}", t.name, t.encoding, t.shape)?;
        }
    }
    Ok(())
}

fn json(a: &Show, file: &NsvFile, open_s: f64) -> Result<serde_json::Value> {
    let layout = file.layout();
    let sections = layout.sections.iter().map(|s| {
        json!({
            "kind": s.code,
            "name": SectionKind::from_code(s.code).map(|k| k.to_string()),
            "offset": s.range.start,
            "bytes": s.range.len(),
            "blake3": hex(&s.hash),
        })
    });
    let mut report = json!({
        "file_bytes": layout.file_len,
        "root": hex(&layout.root),
        "about": About::of(file)?.json(),
        "bundle": file.bundle().map(|bundle| json!({"offset": bundle.offset})),
        "signature": signature(file).map(|(key, good)| json!({"signer": key, "good": good})),
        "open_s": open_s,
        "weights": layout.weight_count(),
        "weight_bytes": layout.weight_bytes(),
        "spec": file.spec(),
        "generation": file.generation().map_err(RuntimeError::from)?,
        "provenance": file.provenance().map_err(RuntimeError::from)?,
        "sections": sections.collect::<Vec<_>>(),
    });
    if a.tensors {
        let tensors = layout.tensors.iter().map(|t| {
            json!({
                "name": t.name,
                "encoding": t.encoding.name(),
                "shape": t.shape.dims(),
                "offset": t.range.start,
                "bytes": t.range.len(),
                "blake3": hex(&t.hash),
                "alias_of": t.alias_of,
            })
        });
        report["tensors"] = tensors.collect();
    }
    Ok(report)
}
