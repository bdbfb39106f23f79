//! Converts an input made by hand, which comes from no folder; and checks that the shared part of this crate stays
//! shared.

use crate::error::{ConvertError, Result};
use crate::hashes::Hashes;
use crate::input::{Bytes, Input, RowOrder, SourceFile, Stored, Transform, Weight};
use crate::report::Watch;
use crate::sidecars::{LoadedTokenizer, Sidecars, Templates};
use crate::{Options, Report, check, run, vocab};
use half::{bf16, f16};
use nanoserve_format::{
    Encoding, GenerationDefaults, ModelSpec, NsvFile, Provenance, SectionKind, Shape, panel, schema,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Files of the source.
const FILES: [&str; 2] = ["first.bin", "second.bin"];
const TOKENIZER: &str = r#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0,"b":19},"unk_token":"a"}}"#;

/// Sizes that are no multiple of a panel's rows: 2 layers, hidden 24, 3 heads of 6 over 1, vocabulary 20.
fn spec() -> ModelSpec {
    ModelSpec {
        hidden_size: 24,
        intermediate_size: 18,
        n_layers: 2,
        n_heads: 3,
        n_kv_heads: 1,
        head_dim: 6,
        vocab_size: 20,
        qkv_bias: true,
        ..ModelSpec::default()
    }
}

/// Value `index` of tensor `tensor`, exact in every stored type.
fn value(tensor: usize, index: usize) -> f32 {
    ((37 * tensor + 11 * index) % 201) as f32 / 128.0 - 0.75
}

fn store(stored: Stored, value: f32, out: &mut Vec<u8>) {
    match stored {
        Stored::F64 => out.extend(f64::from(value).to_le_bytes()),
        Stored::F32 => out.extend(value.to_le_bytes()),
        Stored::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
        Stored::BF16 => out.extend(bf16::from_f32(value).to_le_bytes()),
        Stored::Blocks(_) => unreachable!("blocks have tests of their own"),
    }
}

/// A model whose tensors lie one after the other in two files, in every stored type in turn; its norms are stored as
/// their distance from 1. Beside it the values that the model computes with, by canonical name.
fn by_hand() -> (Input, BTreeMap<String, Vec<f32>>) {
    let spec = spec();
    // One byte in front: no value is aligned.
    let mut files = FILES.map(|_| vec![0xee]);
    let (mut weights, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for (tensor, (name, shape)) in schema::tensors(&spec).into_iter().enumerate() {
        let stored = [Stored::F64, Stored::F32, Stored::F16, Stored::BF16][tensor % 4];
        let norm = name.ends_with("norm.weight");
        let (file, count) = (tensor % FILES.len(), shape.elements().unwrap());
        let start = files[file].len();
        for index in 0..count {
            store(stored, value(tensor, index), &mut files[file]);
        }
        let range = start..files[file].len();
        assert_eq!(range.len(), stored.bytes(count));
        let transforms = if norm { vec![Transform::PlusOne] } else { Vec::new() };
        expected.insert(name.clone(), (0..count).map(|i| value(tensor, i) + f32::from(u8::from(norm))).collect());
        let (own, first_row) = (format!("tensor {tensor}"), 100 * tensor);
        weights.insert(name, Weight { name: own, file, range, first_row, stored, order: RowOrder::Same, transforms });
    }
    let files = FILES.iter().zip(files);
    let files = files.map(|(name, bytes)| SourceFile { name: name.to_string(), bytes: Bytes::Held(bytes) }).collect();
    let json = TOKENIZER.as_bytes().to_vec();
    let loaded = vocab::load(&json).unwrap();
    let sidecars = Sidecars {
        tokenizer: Some(LoadedTokenizer { json, loaded, made: false }),
        templates: Templates { default: Some("{{ x }}".into()), named: BTreeMap::new() },
        generation: GenerationDefaults { eos_ids: vec![3], ..GenerationDefaults::default() },
    };
    let origin = Provenance { license: Some("mit".into()), ..Provenance::default() };
    (Input { spec, weights, sidecars, files, origin, warnings: Vec::new() }, expected)
}

fn options(output: PathBuf, encoding: Encoding) -> Options {
    Options::new("", output, encoding)
}

fn convert(input: Input, options: &Options) -> Result<Report> {
    let cancel = AtomicBool::new(false);
    run(options, &Watch { progress: &(), cancel: &cancel }, None, |_| Ok(input))
}

/// The values of a tensor as a file holds them.
fn values(file: &NsvFile, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    match view.shape {
        Shape::Vector(_) => bytemuck::pod_collect_to_vec(view.bytes),
        Shape::Matrix(rows, cols) => {
            let mut values = vec![f32::NAN; rows * cols];
            panel::unpack_rows(view.encoding, cols, view.bytes, 0, &mut values);
            values
        }
    }
}

#[test]
fn an_input_made_by_hand_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for encoding in [Encoding::F32, Encoding::F16] {
        let (input, expected) = by_hand();
        let sources: Vec<_> =
            input.files.iter().map(|f| (f.name.clone(), blake3::hash(&f.bytes).to_string())).collect();
        let options = options(folder.path().join("out.nsv"), encoding);
        convert(input, &options).unwrap();

        let file = NsvFile::open(&options.output).unwrap();
        assert!(file.check().is_empty());
        assert_eq!(file.spec(), &spec());
        assert_eq!(file.layout().tensors.len(), expected.len());
        for (name, expected) in &expected {
            assert_eq!(&values(&file, name), expected, "{name} in {encoding}");
        }
        assert_eq!(file.section(SectionKind::Tokenizer).unwrap(), Some(TOKENIZER.as_bytes()));
        assert_eq!(file.section(SectionKind::ChatTemplate).unwrap(), Some("{{ x }}".as_bytes()));
        assert_eq!(file.generation().unwrap().eos_ids, [3]);
        let provenance = file.provenance().unwrap();
        let hashed: Vec<_> = provenance.sources.into_iter().map(|s| (s.name, s.blake3)).collect();
        assert_eq!((hashed, provenance.license.as_deref()), (sources, Some("mit")));
    }
}

#[test]
fn a_file_is_compared_with_an_input() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path().join("out.nsv"), Encoding::Q8);
    convert(by_hand().0, &options).unwrap();
    let cancel = AtomicBool::new(false);
    let compare = |input: Input| {
        let open = |_: &mut Hashes| Ok(input);
        let comparison = check::run(&options, &Watch { progress: &(), cancel: &cancel }, open).unwrap();
        comparison.differences.into_iter().map(|d| d.what).collect::<Vec<_>>()
    };
    assert!(compare(by_hand().0).is_empty());

    let mut other = by_hand().0;
    other.weights.get_mut("final_norm.weight").unwrap().transforms.clear();
    assert_eq!(compare(other), ["tensor final_norm.weight"]);
}

#[test]
fn a_bad_value_is_reported_by_the_names_of_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let mut input = by_hand().0;
    let weight = input.weights["layers.1.attn.k.weight"].clone();
    let Bytes::Held(bytes) = &mut input.files[weight.file].bytes else { panic!("it was made so") };
    let at = weight.range.start + weight.stored.bytes(2 * 24 + 5);
    bytes[at..at + weight.stored.bytes(1)].fill(0xff);
    let output = folder.path().join("out.nsv");
    let Err(ConvertError::Problems(all)) = convert(input, &options(output, Encoding::Q8)) else { panic!() };
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((&*all[0].file, all[0].tensor.as_ref()), (FILES[weight.file], Some(&weight.name)));
    let text = all[0].to_string();
    assert!(text.contains(&format!("[{}, 5]", weight.first_row + 2)), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
}

/// Every line of the sources below a folder, with its place. What knows a form of checkpoint is not asked.
fn shared_lines(folder: &Path, lines: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("hf") && !path.ends_with("gguf") {
                shared_lines(&path, lines);
            }
        } else if path.extension() == Some("rs".as_ref()) && !path.ends_with(Path::new(file!()).file_name().unwrap()) {
            let text = fs::read_to_string(&path).unwrap();
            let place = |i: usize| format!("{}:{}", path.display(), i + 1);
            lines.extend(text.lines().enumerate().map(|(i, line)| (place(i), line.to_string())));
        }
    }
}

#[test]
fn the_shared_part_knows_no_form_of_checkpoint() {
    let mut lines = Vec::new();
    shared_lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut lines);
    assert!(lines.len() > 1000, "the sources were not found");
    for (place, line) in &lines {
        for word in ["safetensors", "config.json", "model.layers", "Hugging"] {
            assert!(!line.contains(word), "{place} says {word}: what only a Hugging Face folder has belongs to src/hf");
        }
        // These files choose a form: a conversion and a comparison begin there.
        let chooses = ["lib.rs:", "check.rs:"].iter().any(|file| place.contains(file));
        let uses = ["hf::", "gguf::"].iter().any(|form| line.contains(form));
        assert!(chooses || !uses, "{place} uses a form of checkpoint: only an Input may come out of there");
    }
    let mut lines = Vec::new();
    shared_lines(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gguf"), &mut lines);
    assert!(lines.len() > 1000, "the sources were not found");
    for (place, line) in &lines {
        assert!(!line.contains("hf::"), "{place} uses src/hf: one form of checkpoint knows no other");
    }
}
