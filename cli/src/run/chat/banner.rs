//! What a conversation begins with: the model, its size, the context, and where it runs.

use crate::machine;
use anyhow::Result;
use nanoserve_format::Foreign;
use nanoserve_runtime::RuntimeError;
use std::path::Path;

/// One line. `capacity` is the session's.
pub fn banner(engine: &machine::Engine, model: &Path, capacity: usize) -> Result<String> {
    let (file, layout) = (engine.file(), engine.file().layout());
    let name = model.file_name().unwrap_or(model.as_os_str()).to_string_lossy();
    let published = file.provenance().map_err(RuntimeError::from)?.repository;
    let published = published.map_or(String::new(), |published| format!(" ({})", Foreign(&published)));
    let (weights, bytes) = (short(layout.weight_count() as f64), short(layout.file_len as f64));
    let most = file.spec().context_length;
    let of = if capacity < most { format!(" of {most}") } else { String::new() };
    let place = match engine.backend().on_gpu() {
        Some(_) => machine::device_name(engine),
        None => {
            let threads = engine.backend().on_cpu().pool().threads();
            let s = if threads == 1 { "" } else { "s" };
            format!("CPU, {}, {threads} thread{s}", machine::device_name(engine))
        }
    };
    Ok(format!(
        "{name}{published} | {weights} weights in {}, {bytes}B | context {capacity}{of} | {place}",
        layout.encodings()
    ))
}

/// A count with three figures: 134 M, 1.54 G.
fn short(count: f64) -> String {
    let (unit, scale) =
        [("G", 1e9), ("M", 1e6), ("k", 1e3)].into_iter().find(|(_, n)| count >= *n).unwrap_or((" ", 1.0));
    let count = count / scale;
    let decimals = if count >= 99.95 {
        0
    } else if count >= 9.995 {
        1
    } else {
        2
    };
    format!("{count:.decimals$} {}", unit.trim())
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn three_figures() {
        let shown: Vec<String> =
            [1_543_714_304.0, 134_515_008.0, 30_400_000.0, 3_040_000.0, 9e3, 15.0].map(short).into();
        assert_eq!(shown, ["1.54 G", "135 M", "30.4 M", "3.04 M", "9.00 k", "15.0 "]);
    }
}
