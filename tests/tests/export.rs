//! `nanoserve export`: a model becomes a GGUF file, and that file the same model again.

use nanoserve_converter::{Dtype, Options, convert, export};
use nanoserve_format::{Codes, Encoding, NsvFile, SectionKind};
use nanoserve_tests::{Run, command, fixture, read_values};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn converted(source: &Path, dtype: impl Into<Dtype>, out: &Path) -> NsvFile {
    convert(&Options::new(source, out, dtype), &(), &AtomicBool::new(false)).unwrap();
    NsvFile::open(out).unwrap()
}

/// One file of each architecture that is read.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/gguf");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 16, "the files were not found");
    files
}

/// In every encoding that a GGUF file can hold: the same description, the same values, the same vocabulary.
#[test]
fn what_is_exported_is_the_same_model_when_it_is_read() {
    let flat = [Codes::Q4_0, Codes::Q4_1, Codes::Q5_0, Codes::Q5_1, Codes::Iq4Nl].map(Encoding::Codes);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for file in files() {
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Q8].into_iter().chain(flat) {
            let label = format!("{} in {encoding}", file.file_stem().unwrap().to_string_lossy());
            let own = converted(&file, encoding, &at("own.nsv"));
            let exported = export(&own, &at("out.gguf"), false, &(), &AtomicBool::new(false)).unwrap();
            assert_eq!(exported.bytes, fs::metadata(at("out.gguf")).unwrap().len());
            assert_eq!(exported.warnings, [], "{label}");
            let again = converted(&at("out.gguf"), Dtype::Source, &at("again.nsv"));
            assert_eq!(own.spec(), again.spec(), "{label}");
            for entry in &own.layout().tensors {
                let (x, y) = (own.tensor(&entry.name).unwrap(), again.tensor(&entry.name).unwrap());
                let cols = *x.shape.dims().last().unwrap();
                if cols % 32 == 0 && x.shape.dims().len() == 2 {
                    assert_eq!(x.encoding, y.encoding, "{label}: {}", entry.name);
                }
                let bits = |values: Vec<f32>| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(bits(read_values(x)) == bits(read_values(y)), "{label}: {}", entry.name);
            }
            for kind in [SectionKind::Vocabulary, SectionKind::ChatTemplate, SectionKind::NamedTemplates] {
                assert!(own.section(kind).unwrap() == again.section(kind).unwrap(), "{label}: {kind:?}");
            }
        }
    }
}

/// What has no place in a GGUF file is refused by name, and nothing is written.
#[test]
fn what_gguf_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
    converted(&fixture("qwen2").path, Encoding::Codes(Codes::Q4), Path::new(&at("q4.nsv")));
    converted(&fixture("dynamic").path, Encoding::F16, Path::new(&at("dynamic.nsv")));
    for (model, said) in [("q4.nsv", "is stored in q4"), ("dynamic.nsv", "has its rope")] {
        let done = Run::of(&mut command("nanoserve", ["export", &at(model), &at("out.gguf")]));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(said) && done.stdout.is_empty(), "{}", done.stderr);
        assert!(!Path::new(&at("out.gguf")).exists());
    }
}

/// A file of another kind stays, unless --force is given; a GGUF file is replaced; the model itself never is.
#[test]
fn the_place_of_the_output_is_looked_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
    let model = at("model.nsv");
    converted(&fixture("biases").path, Encoding::Q8, Path::new(&model));
    let before = fs::read(&model).unwrap();
    fs::write(at("notes.txt"), "mine").unwrap();
    let run = |words: &[&str]| Run::of(command("nanoserve", ["export"]).args(words));
    let done = run(&[&model, &at("notes.txt")]);
    assert_eq!((done.code, fs::read(at("notes.txt")).unwrap()), (Some(2), b"mine".to_vec()), "{}", done.stderr);
    assert_eq!(run(&[&model, &model, "--force"]).code, Some(2));
    assert_eq!(fs::read(&model).unwrap(), before);
    assert_eq!(run(&[&model, &at("no/such/folder.gguf")]).code, Some(2));
    let done = run(&[&model, &at("notes.txt"), "--force"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("Q8_0") && done.stdout.contains("architecture llama"), "{}", done.stdout);
    // It is a GGUF file now.
    let done = run(&[&model, &at("notes.txt"), "--json"]);
    assert!(done.code == Some(0) && done.stdout.starts_with('{'), "{}", done.stderr);
    // A damaged model is not passed on.
    let mut damaged = before;
    let at_end = damaged.len() - 1;
    damaged[at_end] ^= 1;
    fs::write(&model, damaged).unwrap();
    let done = run(&[&model, &at("other.gguf")]);
    assert!(done.code == Some(1) && !Path::new(&at("other.gguf")).exists(), "{}", done.stderr);
}
