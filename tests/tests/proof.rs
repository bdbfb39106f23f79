//! The proofs in a file: golden vectors, a reference, the tokenizer's test texts, and its sources.

use nanoserve_converter::{ConvertError, LastStep, Options, convert_with};
use nanoserve_format::{Encoding, Golden, NsvFile, SectionKind};
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::diagnose::selftest;
use nanoserve_tests::{Run, fixture, nanoserve};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// Root of the demo in q8, including golden vectors. If it changes, the format, the conversion or the arithmetic has
/// changed.
const DEMO_ROOT: &str = "818bc268c1f143478bad738143530dd90df3d2548c2c283bb1087952520fd873";

/// The same in q4: the search for scales, the packing of codes and their arithmetic.
const DEMO_ROOT_Q4: &str = "17e434486ed534e2422877d4c748f0f8050f7722fbe9abb64b94f69c54128b65";

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Converts with the program; returns its output and the file's path.
fn converted(folder: &TempDir, source: &Path, name: &str, more: &[&str]) -> (Run, PathBuf) {
    let out = folder.path().join(name);
    (nanoserve("convert", [&[text(source), text(&out)], more].concat()), out)
}

fn self_test(file: &Path, more: &[&str]) -> Run {
    nanoserve("run", [&[text(file), "--self-test"], more].concat())
}

/// Converts with a last step that spoils the golden vectors.
fn spoiled(folder: &TempDir, name: &str, spoil: &(dyn Fn(&mut Golden) + Sync)) -> PathBuf {
    let output = folder.path().join(name);
    let options = Options::new(demo(), &output, Encoding::Q8);
    let last: LastStep = &|path| {
        let mut golden = selftest::golden(&Arc::new(NsvFile::open(path)?), None)?;
        spoil(&mut golden);
        Ok(vec![(SectionKind::Golden, golden)])
    };
    convert_with(&options, &(), &AtomicBool::new(false), Some(last)).unwrap();
    output
}

#[test]
fn every_path_of_this_machine_gives_the_bits_that_the_file_keeps() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in ["q8", "f16", "f32", "q6", "q4", "q4,down=q8,v=q6"] {
        let (run, file) = converted(&folder, &demo(), dtype, &["--dtype", dtype, "-q"]);
        run.expect(0);
        let shown = self_test(&file, &[]).expect(0).stdout;
        for kernels in isa::available() {
            let rows = shown.lines().filter(|l| l.starts_with("PASS") && l.contains(&format!(" {} ", kernels.name)));
            assert_eq!(rows.count(), 4, "{}: {shown}", kernels.name);
        }
        assert!(shown.contains("PASS  tokenizer: ") && !shown.contains("FAIL"), "{shown}");
        let report: Value = serde_json::from_str(&self_test(&file, &["--json", "-t", "1"]).expect(0).stdout).unwrap();
        assert_eq!(report["pass"], true);
        assert_eq!(report["paths"].as_array().unwrap().len(), 4 * isa::available().len());
        assert_eq!(report["reference"], Value::Null);
    }
    let one = self_test(&folder.path().join("q8"), &["--isa", "scalar", "-q"]).expect(0);
    assert_eq!((one.stdout.as_str(), one.stderr.as_str()), ("", ""));
}

#[test]
fn the_demo_is_always_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    for threads in ["1", "2", "16"] {
        for (dtype, root) in [("q8", DEMO_ROOT), ("q4", DEMO_ROOT_Q4)] {
            let options = ["-t", threads, "--dtype", dtype, "--json"];
            let (run, file) = converted(&folder, &demo(), "demo.nsv", &options);
            let report: Value = serde_json::from_str(&run.expect(0).stdout).unwrap();
            assert_eq!(report["root"], root, "{dtype}, {threads} threads");
            assert_eq!(NsvFile::open(&file).unwrap().check(), []);
        }
    }
}

#[test]
fn other_bits_fail() {
    let folder = tempfile::tempdir().unwrap();
    let file = spoiled(&folder, "hash.nsv", &|golden| {
        golden.runs[1].rows[2].hash = golden.runs[1].rows[1].hash.clone();
    });
    let run = self_test(&file, &[]).expect(1);
    let fails = run.stdout.lines().filter(|l| l.starts_with("FAIL")).count();
    assert_eq!(fails, 2 * isa::available().len(), "{}", run.stdout);
    assert!(run.stdout.contains("other bits at position 3, largest difference 0e0"), "{}", run.stdout);

    // A changed weight; the tensor's hash is not checked here.
    let (run, file) = converted(&folder, &demo(), "weight.nsv", &["-q"]);
    run.expect(0);
    let at = NsvFile::open(&file).unwrap().layout().tensor("layers.0.attn.q.weight").unwrap().range.start;
    let mut bytes = fs::read(&file).unwrap();
    bytes[at + 1] ^= 0x10;
    fs::write(&file, bytes).unwrap();
    let report: Value = serde_json::from_str(&self_test(&file, &["--json"]).expect(1).stdout).unwrap();
    assert_eq!(report["pass"], false);
    assert!(
        report["paths"].as_array().unwrap().iter().all(|p| p["pass"] == false && p["max_abs"].as_f64() > Some(0.0))
    );
}

#[test]
fn vectors_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spoilers: [&(dyn Fn(&mut Golden) + Sync); 4] = [
        &|golden| golden.runs[0].kv = "f8".into(),
        &|golden| golden.ids[0] = u32::MAX,
        &|golden| golden.runs[0].rows.clear(),
        &|golden| golden.ids.clear(),
    ];
    for spoil in spoilers {
        let run = self_test(&spoiled(&folder, "bad.nsv", spoil), &[]).expect(2);
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    }
    let (run, file) = converted(&folder, &demo(), "none.nsv", &["--no-golden", "-q"]);
    run.expect(0);
    assert!(self_test(&file, &[]).expect(2).stderr.contains("--no-golden"));
    assert!(NsvFile::open(&file).unwrap().golden().unwrap().is_none());
}

#[test]
fn a_reference_stands_beside_the_files_own_answers() {
    let folder = tempfile::tempdir().unwrap();
    let f = fixture("tied-llama3");
    let reference = f.reference_path();
    let (run, file) = converted(&folder, &f.path, "m.nsv", &["--dtype", "f32", "--golden", text(&reference), "-q"]);
    run.expect(0);
    let opened = NsvFile::open(&file).unwrap();
    let (own, theirs) = (opened.golden().unwrap().unwrap(), opened.reference().unwrap().unwrap());
    assert!(own.made_by.starts_with("this file") && own.runs[0].rows[0].hash.is_some());
    let hash = blake3::hash(&fs::read(&reference).unwrap()).to_hex();
    assert_eq!(theirs.made_by, format!("reference.safetensors, BLAKE3 {hash}"));
    assert!(theirs.runs[0].rows.iter().all(|row| row.hash.is_none()));
    let report: Value = serde_json::from_str(&self_test(&file, &["--json"]).expect(0).stdout).unwrap();
    assert!(report["reference"]["max_abs"].as_f64().unwrap() < 1e-5, "{report}");
    assert_eq!(report["reference"]["same_first"], report["reference"]["positions"]);
    assert!(self_test(&file, &[]).expect(0).stdout.contains("reference reference.safetensors"));

    // With another model's reference, or a file that is no reference, nothing is written.
    let other = fixture("odd-sizes").reference_path();
    for bad in [text(&other), text(&f.path.join("config.json")), "none.safetensors"] {
        let (run, out) = converted(&folder, &f.path, "x.nsv", &["--golden", bad]);
        run.expect(2);
        assert!(!out.exists());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_model_whose_answers_are_no_numbers_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("nan.nsv");
    let mut options = Options::new(demo(), &output, Encoding::Q8);
    options.threads = Some(1);
    let last: LastStep = &|_| Err("no numbers".into());
    let error = convert_with(&options, &(), &AtomicBool::new(false), Some(last)).unwrap_err();
    assert!(matches!(error, ConvertError::LastStep(_)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_tokenizers_texts_are_checked_at_every_start() {
    let folder = tempfile::tempdir().unwrap();
    let (run, file) = converted(&folder, &demo(), "m.nsv", &["-q"]);
    run.expect(0);
    let vectors = NsvFile::open(&file).unwrap().tokenizer_vectors().unwrap().unwrap();
    assert!(vectors.texts.len() > 60 && vectors.made_by.starts_with("tokenizers"));
    let has = |what: &dyn Fn(&str) -> bool| vectors.texts.iter().any(|t| what(&t.text));
    assert!(
        has(&|t| t.contains("日本")) && has(&|t| t.contains("1234")) && has(&|t| t.trim().is_empty() && t.len() > 1)
    );
    // A vocabulary that gives other tokens, with correct hashes.
    let bytes = fs::read(&file).unwrap();
    let section = NsvFile::open(&file).unwrap().section(SectionKind::TokenizerVectors).unwrap().unwrap().to_vec();
    let wrong = String::from_utf8(section.clone()).unwrap().replacen("\"ids\":[", "\"ids\":[7,", 1);
    let wrong = wrong.replacen("Once upon a time", "Once upon a tim", 1);
    let at = bytes.windows(section.len()).position(|w| w == section).unwrap();
    let mut changed = bytes.clone();
    let wrong = &wrong.as_bytes()[..section.len().min(wrong.len())];
    changed[at..at + wrong.len()].copy_from_slice(wrong);
    let bad = folder.path().join("bad.nsv");
    fs::write(&bad, changed).unwrap();
    let run = nanoserve("run", [text(&bad), "-p", "Once", "-n", "1"]).expect(2);
    assert!(run.stderr.contains("tokenizer_vectors"), "{}", run.stderr);
}

#[test]
fn a_file_is_held_against_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    let (run, file) = converted(&folder, &demo(), "m.nsv", &["--dtype", "f16", "--sha256", "-q"]);
    run.expect(0);
    let check = |source: &Path, file: &Path, more: &[&str]| {
        nanoserve("convert", [&["--check", text(source), text(file)], more].concat())
    };
    assert!(check(&demo(), &file, &[]).expect(0).stdout.contains("compared"));
    assert_eq!(check(&demo(), &file, &["-q"]).expect(0).stdout, "");

    let whole = fs::read(&file).unwrap();
    let range = NsvFile::open(&file).unwrap().layout().tensor("layers.2.mlp.up.weight").unwrap().range.clone();
    let mut bytes = whole.clone();
    bytes[range.start + 5] ^= 1;
    bytes[range.start + 70] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (start, end) = (range.start + 5, range.start + 71);
    let shown = check(&demo(), &file, &[]).expect(1).stdout;
    assert_eq!(shown, format!("DIFFERS: tensor layers.2.mlp.up.weight: 2 bytes of {start}..{end}\n"));
    let report: Value = serde_json::from_str(&check(&demo(), &file, &["--json"]).expect(1).stdout).unwrap();
    assert_eq!(report["differences"][0]["what"], "tensor layers.2.mlp.up.weight");

    // Another tokenizer, another model, no model.
    fs::write(&file, &whole).unwrap();
    let source = folder.path().join("source");
    nanoserve_tests::copy_folder(&demo(), &source);
    let path = source.join("generation_config.json");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "\n").unwrap();
    let shown = check(&source, &file, &[]).expect(1).stdout;
    assert!(shown.starts_with("DIFFERS: section provenance") && shown.lines().count() == 1, "{shown}");
    let shown = check(&fixture("biases").path, &file, &[]).expect(1).stdout;
    let words = "DIFFERS: description: the file is of another model than the sources: ";
    assert!(shown.starts_with(words) && shown.contains("hidden_size is ") && !shown.contains("ModelSpec"), "{shown}");
    assert!(shown.lines().count() == 1 && shown.chars().count() < 400, "{shown}");
    check(&demo(), Path::new("none.nsv"), &[]).expect(2);
    check(Path::new("none"), &file, &[]).expect(2);
    assert!(fs::read(&file).unwrap() == whole);
}
