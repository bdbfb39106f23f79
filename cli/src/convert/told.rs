//! The report of a conversion: as text for a person, and as one JSON object for programs.

use super::Arguments;
use crate::console::{self, size};
use crate::hints;
use nanoserve_converter::{Comparison, Report};
use nanoserve_format::{NsvFile, SectionKind};
use std::path::Path;

/// A few lines for the eye; the last is the command that comes next.
pub fn summary(report: &Report, args: &Arguments) -> String {
    let Report { tensors, parameters, bytes, bits_per_weight, .. } = report;
    let verb = if args.dry_run { "would be" } else { "is" };
    let snr = report.worst_snr.as_ref().map(|w| format!("\nworst signal to noise {:.1} dB, {}", w.db, w.tensor));
    format!(
        "{} {verb} {}: {tensors} tensors, {parameters} weights, {bits_per_weight:.2} bits a weight, {:.2} s{}{}",
        report.file.display(),
        size(*bytes),
        report.time.as_secs_f64(),
        snr.unwrap_or_default(),
        if args.dry_run { None } else { next(&report.file) }.map_or(String::new(), |next| format!("\nnext: {next}"))
    )
}

/// The command that shows what a new file can do, as it is typed; None where its name cannot be.
fn next(path: &Path) -> Option<String> {
    let (file, name) = (NsvFile::open(path).ok()?, typed(path)?);
    let has = |kind| file.section(kind).ok().flatten().is_some();
    Some(if !has(SectionKind::Tokenizer) && !has(SectionKind::Vocabulary) {
        format!("nanoserve run {name} --ids 1,2,3")
    } else if has(SectionKind::ChatTemplate) {
        format!("nanoserve chat {name}")
    } else {
        format!("nanoserve run {name} -p \"Once upon a time\"")
    })
}

/// A path as a shell takes it.
fn typed(path: &Path) -> Option<String> {
    let path = path.to_str().filter(|path| !path.contains(char::is_control))?;
    // It would be taken for an option.
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_string() };
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    Some(if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) })
}

/// The whole report as one JSON object.
pub fn json(report: &Report) -> String {
    let root = report.root.map(|hash| nanoserve_format::hex(&hash));
    let worst = report.worst_snr.as_ref().map(|w| serde_json::json!({"tensor": w.tensor, "db": w.db}));
    let warnings: Vec<String> = report.warnings.iter().map(hints::warning).collect();
    console::json(&serde_json::json!({
        "file": report.file.display().to_string(),
        "bytes": report.bytes,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "bits_per_weight": report.bits_per_weight,
        "seconds": report.time.as_secs_f64(),
        "worst_snr_db": worst,
        "root": root,
        "warnings": warnings,
    }))
}

/// The result of a comparison, as text or JSON; None if there is nothing to print.
pub fn comparison(found: &Comparison, args: &Arguments) -> Option<String> {
    let Comparison { tensors, differences } = found;
    if args.json {
        let differences = differences.iter().map(|d| serde_json::json!({"what": d.what, "how": d.how}));
        let differences: Vec<_> = differences.collect();
        return Some(console::json(&serde_json::json!({"tensors": tensors, "differences": differences})));
    }
    if differences.is_empty() {
        let (out, source) = (args.out().display(), args.source().display());
        let all = format!("{out} is what {source} becomes: {tensors} tensors and everything beside them compared");
        return (!args.quiet).then_some(all);
    }
    let lines: Vec<String> = differences.iter().map(|d| format!("DIFFERS: {}: {}", d.what, d.how)).collect();
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_typed_so_that_a_shell_takes_them() {
        for (path, expected) in [
            ("model.nsv", Some("model.nsv")),
            ("/a/b_c-1.nsv", Some("/a/b_c-1.nsv")),
            ("my model.nsv", Some("'my model.nsv'")),
            ("it's $HOME", Some(r"'it'\''s $HOME'")),
            ("-p", Some("./-p")),
            ("a\nb", None),
        ] {
            assert_eq!(typed(Path::new(path)).as_deref(), expected, "{path:?}");
        }
    }
}
