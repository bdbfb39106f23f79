//! The report of a conversion: as text for a person, and as one JSON object for programs.

use super::Arguments;
use crate::hints;
use nanoserve_converter::{Comparison, Report};

/// One or two lines for a person.
pub fn summary(report: &Report, args: &Arguments) -> String {
    let Report { tensors, parameters, bytes, bits_per_weight, .. } = report;
    let verb = if args.dry_run { "would be" } else { "is" };
    let snr = report.worst_snr.as_ref().map(|w| format!("\nworst signal to noise {:.1} dB, {}", w.db, w.tensor));
    format!(
        "{} {verb} {}: {tensors} tensors, {parameters} weights, {bits_per_weight:.2} bits a weight, {:.2} s{}",
        report.file.display(),
        size(*bytes),
        report.time.as_secs_f64(),
        snr.unwrap_or_default()
    )
}

/// A file's size with a decimal unit.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.2} {unit}") }
}

/// The whole report as one JSON object.
pub fn json(report: &Report) -> String {
    let root = report.root.map(|hash| nanoserve_format::hex(&hash));
    let worst = report.worst_snr.as_ref().map(|w| serde_json::json!({"tensor": w.tensor, "db": w.db}));
    let warnings: Vec<String> = report.warnings.iter().map(hints::warning).collect();
    serde_json::json!({
        "file": report.file.display().to_string(),
        "bytes": report.bytes,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "bits_per_weight": report.bits_per_weight,
        "seconds": report.time.as_secs_f64(),
        "worst_snr_db": worst,
        "root": root,
        "warnings": warnings,
    })
    .to_string()
}

/// The result of a comparison, as text or JSON; None if there is nothing to print.
pub fn comparison(found: &Comparison, args: &Arguments) -> Option<String> {
    let Comparison { tensors, differences } = found;
    if args.json {
        let differences = differences.iter().map(|d| serde_json::json!({"what": d.what, "how": d.how}));
        let differences: Vec<_> = differences.collect();
        return Some(serde_json::json!({"tensors": tensors, "differences": differences}).to_string());
    }
    if differences.is_empty() {
        let (out, source) = (args.out().display(), args.source().display());
        let all = format!("{out} is what {source} becomes: {tensors} tensors and everything beside them compared");
        return (!args.quiet).then_some(all);
    }
    let lines: Vec<String> = differences.iter().map(|d| format!("DIFFERS: {}: {}", d.what, d.how)).collect();
    Some(lines.join("\n"))
}
