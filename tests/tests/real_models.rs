//! The ladder on real checkpoints, if `NANOSERVE_WEIGHTS` points at them.
//!
//! That folder is a checkpoint itself, or holds folders named after Llama-3.2-1B or TinyLlama-1.1B. Each needs a
//! reference made with transformers next to the weights:
//!
//! ```text
//! python tests/reference/make_reference.py --checkpoint DIR DIR/reference.safetensors
//! NANOSERVE_WEIGHTS=DIR cargo test --release -p nanoserve-tests --test real_models -- --nocapture
//! ```

use nanoserve_format::Encoding;
use nanoserve_runtime::diagnose::verify::{Reference, compare};
use nanoserve_runtime::{Engine, EngineOptions, KvType};
use nanoserve_tests::convert;
use std::fs;
use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = ["llama-3.2-1b", "tinyllama-1.1b"];

/// The folder itself if it is a checkpoint, otherwise the checkpoints in it.
fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    if folder.join("config.json").exists() {
        return vec![folder.to_path_buf()];
    }
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("NANOSERVE_WEIGHTS {}: {e}", folder.display()));
    let wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_lowercase();
        NAMES.iter().any(|n| name.contains(n)) && path.join("config.json").exists()
    };
    entries.map(|entry| entry.unwrap().path()).filter(wanted).collect()
}

/// In fp32 every implementation rounds differently, and real models have activations in the hundreds beside small ones.
/// So the tolerance of 1e-5 is relative to each component's largest value, not to each value.
fn ladder(checkpoint: &Path) {
    let reference = checkpoint.join("reference.safetensors");
    assert!(
        reference.exists(),
        "{} is missing; make it with: python tests/reference/make_reference.py --checkpoint {} {}",
        reference.display(),
        checkpoint.display(),
        reference.display()
    );
    let reference = Reference::read(&reference).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nsv");
    for encoding in Encoding::ALL {
        convert(checkpoint, encoding, &path);
        let mut engine = Engine::open(&path, &EngineOptions::default()).unwrap();
        let (report, _) = compare(&mut engine, &reference, KvType::F32, 1e-5, 1e-5).unwrap();
        println!(
            "{} {encoding}: KL mean {:.3e}, largest {:.3e}, top-1 {:.2} %, greedy {}",
            checkpoint.display(),
            report.kl_mean,
            report.kl_max,
            100.0 * report.top1,
            if report.greedy_pass { "equal" } else { "differs" }
        );
        if encoding != Encoding::F32 {
            continue;
        }
        let mut off = Vec::new();
        for row in &report.rows {
            let largest = reference.activations[&row.name].iter().fold(0f32, |m, x| m.max(x.abs()));
            let relative = row.max_abs / f64::from(largest);
            println!("{:<24} {:.2e} of {largest:.2e}: {relative:.1e} {}", row.name, row.max_abs, row.pass);
            if relative.is_nan() || relative > 1e-5 {
                off.push(row.name.clone());
            }
        }
        assert!(off.is_empty(), "{}: look at {} first", checkpoint.display(), off[0]);
        assert_eq!(report.greedy_ids, reference.greedy_ids, "{}", checkpoint.display());
    }
}

#[test]
fn the_ladder_holds_on_real_models() {
    let Some(folder) = std::env::var_os("NANOSERVE_WEIGHTS") else {
        println!("skipped: NANOSERVE_WEIGHTS is not set; see the head of tests/tests/real_models.rs");
        return;
    };
    let all = checkpoints(Path::new(&folder));
    assert!(!all.is_empty(), "NANOSERVE_WEIGHTS: no checkpoint of {NAMES:?} in {}", Path::new(&folder).display());
    all.iter().for_each(|checkpoint| ladder(checkpoint));
}
