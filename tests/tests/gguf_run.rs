//! GGUF files as users run them: converted once into a cache, and mapped from there.

use nanoserve_format::NsvFile;
use nanoserve_tests::{Run, command, nanoserve};
use std::fs;
use std::path::{Path, PathBuf};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/gguf/qwen2.gguf")
}

const PROMPT: [&str; 6] = ["--ids", "5,4,3", "-n", "4", "--temp", "0"];

/// Runs `model` with the user's cache in `cache`.
fn run(model: &Path, cache: &Path, more: &[&str]) -> Run {
    let mut command = command("nanoserve-run", [&[model.to_str().unwrap()][..], &PROMPT, more].concat());
    Run::of(command.env("XDG_CACHE_HOME", cache))
}

/// The converted files in a cache.
fn converted(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("nanoserve/gguf")).into_iter().flatten();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.collect()
}

#[test]
fn a_file_is_converted_once() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, copy) = (folder.path().join("cache"), folder.path().join("copy.gguf"));
    let first = run(&model(), &cache, &["--json"]).expect(0);
    assert!(first.stderr.contains("converting") && first.stderr.contains("once"), "{}", first.stderr);
    let files = converted(&cache);
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].extension().unwrap(), "nsv");
    let written = fs::metadata(&files[0]).unwrap().modified().unwrap();
    // Another path has the same bytes, and so the same file.
    fs::copy(model(), &copy).unwrap();
    for path in [model(), copy.clone()] {
        let again = run(&path, &cache, &["--json"]).expect(0);
        assert!(!again.stderr.contains("converting"), "{}", again.stderr);
        assert_eq!(again.json()["logits_hash"], first.json()["logits_hash"]);
        assert_eq!(converted(&cache), files);
        assert_eq!(fs::metadata(&files[0]).unwrap().modified().unwrap(), written);
    }
    // What is gone is made again.
    fs::remove_file(&files[0]).unwrap();
    let again = run(&copy, &cache, &["--json"]).expect(0);
    assert_eq!(again.json()["logits_hash"], first.json()["logits_hash"]);
    // It is the file that a conversion makes.
    let out = folder.path().join("out.nsv");
    nanoserve("convert", [copy.to_str().unwrap(), out.to_str().unwrap(), "-q", "--no-golden"]).expect(0);
    let (cached, direct) = (NsvFile::open(&files[0]).unwrap(), NsvFile::open(&out).unwrap());
    assert_eq!(cached.spec(), direct.spec());
    for tensor in &cached.layout().tensors {
        assert!(cached.tensor(&tensor.name).unwrap().bytes == direct.tensor(&tensor.name).unwrap().bytes);
    }
    let own = folder.path().join("own");
    run(&copy, &cache, &["--cache-dir", own.to_str().unwrap(), "-q"]).expect(0);
    assert_eq!(fs::read_dir(own.join("gguf")).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(), 1);
}

#[test]
fn two_at_once_convert_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let start = || {
        let model = model();
        let mut command = command("nanoserve-run", [&[model.to_str().unwrap()][..], &PROMPT, &["--json"]].concat());
        command.env("XDG_CACHE_HOME", &cache);
        command.spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let told = |word: &str| outputs.iter().filter(|o| String::from_utf8_lossy(&o.stderr).contains(word)).count();
    assert!(outputs.iter().all(|o| o.status.success()), "{outputs:?}");
    assert_eq!(told("once, into"), 1, "{outputs:?}");
    assert_eq!(converted(&cache).len(), 1);
}

#[test]
fn a_file_that_cannot_be_converted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let whole = fs::read(model()).unwrap();
    let broken = folder.path().join("broken.gguf");
    for len in [4, 24, 200, whole.len() / 2, whole.len() - 1] {
        fs::write(&broken, &whole[..len]).unwrap();
        let refused = run(&broken, &cache, &[]).expect(2);
        assert!(refused.stderr.contains("broken.gguf"), "{}", refused.stderr);
        assert!(converted(&cache).is_empty(), "{:?}", converted(&cache));
    }
}
