//! verify and bisect on real checkpoints, if `NANOSERVE_WEIGHTS` points at them.
//!
//! That folder is a checkpoint itself, or holds folders with one of these names. Each needs a reference made with
//! transformers, next to the weights or as `NAME.safetensors` in the folder `NANOSERVE_REFERENCES`:
//!
//! ```text
//! python tests/reference/make_reference.py --checkpoint DIR DIR/reference.safetensors
//! NANOSERVE_WEIGHTS=DIR cargo test --release -p nanoserve-tests --test real_models -- --nocapture
//! ```

use nanoserve_format::{Encoding, NsvFile};
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cpu::{CpuBackend, isa, threads::default_threads};
use nanoserve_runtime::diagnose::bisect;
use nanoserve_runtime::diagnose::rule::Tolerance;
use nanoserve_runtime::diagnose::verify::{Reference, compare};
use nanoserve_runtime::{Engine, EngineOptions, KvType};
use nanoserve_tests::convert;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAMES: [&str; 5] = ["llama-3.2-1b", "tinyllama-1.1b", "gemma-3-270m", "qwen2.5-coder-0.5b", "smollm2-135m"];

/// What the program allows by default.
const USUAL: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5 };

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

/// The reference of a checkpoint.
fn reference(checkpoint: &Path) -> Reference {
    let beside = checkpoint.join("reference.safetensors");
    let path = match std::env::var_os("NANOSERVE_REFERENCES") {
        Some(folder) => {
            let name = checkpoint.file_name().expect("a checkpoint's folder has a name");
            Path::new(&folder).join(format!("{}.safetensors", name.display()))
        }
        None => beside,
    };
    let (dir, out) = (checkpoint.display(), path.display());
    assert!(
        path.exists(),
        "{out} is missing; make it with: python tests/reference/make_reference.py --checkpoint {dir} {out}"
    );
    Reference::read(&path).unwrap()
}

/// In f32 every component and the greedy text pass; rounded, the answers do. Bisect finds nothing.
fn passes(checkpoint: &Path) {
    let reference = reference(checkpoint);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nsv");
    for encoding in Encoding::CHOICES {
        convert(checkpoint, encoding, &path);
        let what = format!("{} {encoding}", checkpoint.display());
        let mut engine = Engine::open(&path, &EngineOptions::default()).unwrap();
        let kv = if encoding.is_exact() { KvType::F32 } else { KvType::F16 };
        let (report, _) = compare(&mut engine, &reference, kv, USUAL).unwrap();
        println!(
            "{what}: KL mean {:.3e}, largest {:.3e}, top-1 {:.2} %, greedy {}",
            report.kl_mean,
            report.kl_max,
            100.0 * report.top1,
            if report.greedy_pass { "equal" } else { "differs" }
        );
        let off: Vec<_> = report.rows.iter().filter(|row| !row.pass).collect();
        assert_eq!(report.bounds.is_none(), encoding.is_exact(), "{what}");
        assert!(report.pass(), "{what}: {off:?}, {:?}", report.bounds.and_then(|b| b.exceeded(&report)));
        let file = Arc::new(NsvFile::open(&path).unwrap());
        let pool = Arc::new(Pool::new(default_threads()).unwrap());
        let judged =
            bisect::reference(&file, CpuBackend::new(isa::choose(None).unwrap(), pool), &reference, USUAL).unwrap();
        assert_eq!((judged.findings, judged.skipped), (vec![], vec![]), "{what}");
        assert_eq!(judged.compared, reference.activations.len(), "{what}");
    }
}

#[test]
fn real_models_pass_and_nothing_is_blamed() {
    let Some(folder) = std::env::var_os("NANOSERVE_WEIGHTS") else {
        println!("skipped: NANOSERVE_WEIGHTS is not set; see the head of tests/tests/real_models.rs");
        return;
    };
    let all = checkpoints(Path::new(&folder));
    assert!(!all.is_empty(), "NANOSERVE_WEIGHTS: no checkpoint of {NAMES:?} in {}", Path::new(&folder).display());
    all.iter().for_each(|checkpoint| passes(checkpoint));
}
