//! GGUF files against the checkpoint folders that llama.cpp's converter made them of (tests/reference/make_gguf.py).

use nanoserve_converter::{Dtype, Options, compare, convert, is_gguf};
use nanoserve_format::{Encoding, NsvFile};
use nanoserve_runtime::KvType;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::diagnose::verify;
use nanoserve_tests::{copy_folder, engine};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The files, and the folders that they were made of.
fn pairs() -> Vec<(PathBuf, PathBuf)> {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference");
    let files = fs::read_dir(reference.join("gguf")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files.map(|file| (file.clone(), reference.join(file.file_stem().unwrap()))).collect();
    all.sort();
    all
}

/// The folder with what a GGUF file does not hold as the published models have it.
fn as_published(source: &Path, into: &Path) {
    copy_folder(source, into);
    let config = into.join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    if let Some(scalar) = json.get_mut("query_pre_attn_scalar") {
        *scalar = 256.into();
    }
    if json["model_type"] == "gemma3_text" {
        let fields = json.as_object_mut().unwrap();
        fields.remove("layer_types");
        fields.insert("sliding_window_pattern".into(), 6.into());
    }
    if json["model_type"] == "smollm3" {
        let fields = json.as_object_mut().unwrap();
        fields.remove("no_rope_layers");
        fields.remove("no_rope_layer_interval");
    }
    for rope in ["rope_scaling", "rope_parameters"] {
        if let Some(fields) = json.get_mut(rope).and_then(|rope| rope.as_object_mut()) {
            fields.remove("truncate");
        }
    }
    fs::write(config, json.to_string()).unwrap();
}

/// The bits of the logits of some tokens.
fn logits(file: &Path) -> Vec<u32> {
    let mut engine = engine(file, isa::available()[0], 2);
    let vocab = engine.file().spec().vocab_size as u32;
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % vocab).collect();
    let (_, rows) = verify::trace(&mut engine, &ids, KvType::F32).unwrap().pop().unwrap();
    rows.iter().map(|x| x.to_bits()).collect()
}

fn converted(source: &Path, dtype: impl Into<Dtype>, out: &Path) -> NsvFile {
    convert(&Options::new(source, out, dtype), &(), &AtomicBool::new(false)).unwrap();
    NsvFile::open(out).unwrap()
}

/// Both ways lead to the same description and the same logits, in f32 and in f16.
#[test]
fn a_model_is_the_same_from_its_folder_and_from_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.nsv"), folder.path().join("b.nsv"));
    let pairs = pairs();
    assert!(pairs.len() >= 16, "the files were not found");
    for (file, source) in pairs {
        assert!(is_gguf(&file) && !is_gguf(&source));
        let name = file.file_stem().unwrap().to_string_lossy();
        let published = folder.path().join(&*name);
        as_published(&source, &published);
        for encoding in [Encoding::F32, Encoding::F16] {
            let (from_folder, from_gguf) = (converted(&published, encoding, &a), converted(&file, encoding, &b));
            assert_eq!(from_gguf.spec(), from_folder.spec(), "{name}");
            for tensor in &from_folder.layout().tensors {
                let (x, y) = (from_folder.tensor(&tensor.name).unwrap(), from_gguf.tensor(&tensor.name).unwrap());
                assert!(x.bytes == y.bytes, "{name}: {} differs in {encoding}", tensor.name);
            }
        }
        assert_eq!(logits(&a), logits(&b), "{name}");
    }
}

/// As the source has them: no tensor is larger than it must be, and comparing with the source finds nothing.
#[test]
fn source_keeps_every_value() {
    let folder = tempfile::tempdir().unwrap();
    let (exact, kept) = (folder.path().join("f32.nsv"), folder.path().join("kept.nsv"));
    for (file, source) in pairs() {
        for source in [file, source] {
            converted(&source, Encoding::F32, &exact);
            converted(&source, Dtype::Source, &kept);
            assert_eq!(logits(&kept), logits(&exact), "{}", source.display());
            // An option that was given then does not matter now.
            let options = Options::new(&source, &kept, Encoding::Q8);
            assert_eq!(compare(&options, &(), &AtomicBool::new(false)).unwrap().differences, []);
        }
    }
}
