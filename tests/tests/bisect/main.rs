//! `nanoserve-verify --bisect` blames each injected fault on exactly what was changed, and finds nothing in a sound
//! model.

mod kernels;
mod switches;

use nanoserve_format::{Encoding, NsvFile};
use nanoserve_runtime::cpu::CpuBackend;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::diagnose::bisect::{self, At, Judged, Tolerance};
use nanoserve_runtime::diagnose::verify::Reference;
use nanoserve_tests::{ENCODINGS, FINE_ENCODINGS, Source, convert, copy_folder, fixture, fixtures, nanoserve};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A fixture's checkpoint that can be changed before it is converted.
struct Mutant {
    folder: TempDir,
    reference: Reference,
}

impl Mutant {
    fn of(name: &str) -> Mutant {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&fixture(name).path, &folder.path().join("source"));
        Mutant { folder, reference: fixture(name).reference() }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.folder.path().join("source").join(name)
    }

    fn config(self, change: impl FnOnce(&mut Value)) -> Mutant {
        let mut config = serde_json::from_slice(&fs::read(self.source("config.json")).unwrap()).unwrap();
        change(&mut config);
        fs::write(self.source("config.json"), config.to_string()).unwrap();
        self
    }

    /// Changes tensors, in f32, by their keys.
    fn tensors(self, change: impl FnOnce(&mut BTreeMap<String, Source>)) -> Mutant {
        let path = self.source("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let source = |t: TensorView| {
            assert_eq!(t.dtype(), Dtype::F32);
            Source { shape: t.shape().to_vec(), values: values(t.data()) }
        };
        let mut tensors = all.iter().map(|(key, t)| (key.to_string(), source(t))).collect();
        change(&mut tensors);
        let data = |s: &Source| s.values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<_> = tensors.iter().map(|(key, s)| (key, &s.shape, data(s))).collect();
        let views = data.iter().map(|(key, shape, data)| {
            let view = TensorView::new(Dtype::F32, Vec::clone(shape), data).unwrap();
            (*key, view)
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
        self
    }

    /// Reduces the reference to what any reference has: nothing between the steps of a block.
    fn coarse(mut self) -> Mutant {
        let fine = ["_plain", ".mix", ".mid", ".gate", ".up", ".gated"];
        self.reference.activations.retain(|name, _| !fine.iter().any(|end| name.ends_with(end)));
        self
    }

    fn path(&self, encoding: Encoding) -> PathBuf {
        let path = self.folder.path().join(format!("{encoding}.nsv"));
        convert(&self.folder.path().join("source"), encoding, &path);
        path
    }

    fn judged(&self, encoding: Encoding) -> Judged {
        let file = Arc::new(NsvFile::open(self.path(encoding)).unwrap());
        let backend = CpuBackend::new(isa::choose(None).unwrap(), pool());
        bisect::reference(&file, backend, &self.reference, Tolerance { atol: 1e-5, rtol: 1e-5 }).unwrap()
    }

    /// Every component that differs, with its blame.
    fn blamed(&self, encoding: Encoding) -> Vec<(String, String)> {
        let found = self.judged(encoding).findings;
        found.iter().for_each(|f| println!("{encoding}: {f:?}"));
        found.into_iter().map(|f| (f.component, f.blame)).collect()
    }

    /// Asserts that exactly these components differ, with these blames.
    #[track_caller]
    fn expect(&self, encoding: Encoding, expected: &[(&str, &str)]) {
        let got = self.blamed(encoding);
        let got: Vec<(&str, &str)> = got.iter().map(|(c, b)| (c.as_str(), b.as_str())).collect();
        assert_eq!(got, expected, "{encoding}");
    }
}

fn pool() -> Arc<Pool> {
    Arc::new(Pool::new(1).unwrap())
}

fn key(layer: usize, module: &str) -> String {
    format!("model.layers.{layer}.{module}")
}

#[test]
fn a_sound_model_is_blamed_for_nothing() {
    for f in fixtures() {
        for encoding in ENCODINGS {
            for coarse in [false, true] {
                let mutant = if coarse { Mutant::of(&f.name).coarse() } else { Mutant::of(&f.name) };
                let judged = mutant.judged(encoding);
                assert_eq!(judged.findings, [], "{} {encoding} {coarse}", f.name);
                assert_eq!(judged.skipped, [""; 0], "{} {encoding} {coarse}", f.name);
                assert_eq!(judged.compared, mutant.reference.activations.len(), "{} {encoding}", f.name);
            }
        }
    }
}

#[test]
fn what_the_reference_lacks_is_not_judged_by_rounded_inputs() {
    let mut mutant = Mutant::of("untied-mha");
    mutant.reference.activations.retain(|name, _| name == "logits");
    let judged = mutant.judged(Encoding::Q8);
    assert_eq!((judged.compared, judged.skipped, judged.findings), (0, vec!["logits".to_string()], vec![]));
    mutant.expect(Encoding::F32, &[]);
    let broken = mutant.tensors(|t| _ = flip(t.get_mut(&key(0, "mlp.up_proj.weight")).unwrap(), 3, BIT_30));
    broken.expect(Encoding::F32, &[("logits", "anything from embed to lm_head.weight")]);
}

/// Swaps two matrices of the same shape.
fn swap(t: &mut BTreeMap<String, Source>, a: &str, b: &str) {
    let (was_a, was_b) = (t[a].clone(), t[b].clone());
    assert_eq!(was_a.shape, was_b.shape, "shapes must not give the swap away");
    t.insert(a.into(), was_b);
    t.insert(b.into(), was_a);
}

#[test]
fn swapped_matrices() {
    let (q, k) = ("layers.1.attn.q.weight", "layers.1.attn.k.weight");
    let (qk, kq) = (format!("{q}, swapped with {k}"), format!("{k}, swapped with {q}"));
    let (gate, up) = ("layers.0.mlp.gate.weight", "layers.0.mlp.up.weight");
    let (gu, ug) = (format!("{gate}, swapped with {up}"), format!("{up}, swapped with {gate}"));
    let mutant = || {
        Mutant::of("untied-mha").tensors(|t| {
            swap(t, &key(1, "self_attn.q_proj.weight"), &key(1, "self_attn.k_proj.weight"));
            swap(t, &key(0, "mlp.gate_proj.weight"), &key(0, "mlp.up_proj.weight"));
        })
    };
    for encoding in FINE_ENCODINGS {
        mutant().expect(
            encoding,
            &[
                ("layers.0.mlp.gate", &gu),
                ("layers.0.mlp.up", &ug),
                ("layers.1.attn.q_plain", &qk),
                ("layers.1.attn.k_plain", &kq),
            ],
        );
    }
    // Without the finer components, gate and up show only after down.
    let coarse = mutant().coarse().blamed(Encoding::F32);
    assert_eq!(coarse[0].0, "layers.0.mlp.out");
    assert_eq!(coarse[0].1, "layers.0.mlp.gated or layers.0.mlp.down.weight");
    assert_eq!(coarse[1..], [("layers.1.attn.q".into(), qk), ("layers.1.attn.k".into(), kq)]);
    let mut gated = mutant();
    gated.reference.activations.retain(|name, _| !name.ends_with(".gate") && !name.ends_with(".up"));
    assert_eq!(gated.blamed(Encoding::F32)[0], ("layers.0.mlp.gated".into(), gu));
}

#[test]
fn dropped_rope_scaling_and_a_wrong_theta() {
    let every_layer = |blame| {
        let parts = ["layers.0.attn.q", "layers.0.attn.k", "layers.1.attn.q", "layers.1.attn.k"];
        parts.map(|part| (part, blame))
    };
    for encoding in FINE_ENCODINGS {
        for coarse in [false, true] {
            let mutant = |name| if coarse { Mutant::of(name).coarse() } else { Mutant::of(name) };
            let llama3 = || mutant("tied-llama3");
            let dropped = |c: &mut Value| c["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 8000.0});
            llama3().config(dropped).expect(encoding, &every_layer("rope.scaling"));
            let factor = |c: &mut Value| c["rope_parameters"]["factor"] = json!(4.0);
            llama3().config(factor).expect(encoding, &every_layer("rope.scaling"));
            let theta = |c: &mut Value| c["rope_parameters"]["rope_theta"] = json!(10000.0);
            llama3().config(theta).expect(encoding, &every_layer("rope.theta"));
            let dropped = |c: &mut Value| c["rope_scaling"] = Value::Null;
            mutant("linear-rope").config(dropped).expect(encoding, &every_layer("rope.scaling"));
            let added = |c: &mut Value| c["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
            mutant("untied-mha").config(added).expect(encoding, &every_layer("rope.scaling"));
        }
    }
    let theta = |c: &mut Value| c["rope_theta"] = json!(500000.0);
    let found = Mutant::of("untied-mha").config(theta).judged(Encoding::F32).findings;
    assert_eq!((found[0].at.unwrap().position, found[0].blame.as_str()), (1, "rope.theta"));
    assert_eq!(found[0].what, "it is 500000 here and about 10000 there");
}

#[test]
fn a_wrong_eps() {
    for encoding in FINE_ENCODINGS {
        for (name, wrong, right) in [
            ("untied-mha", 1e-5, "1e-5 here and about 1.0e-6 there"),
            ("tied-llama3", 1e-6, "1e-6 here and about 1.0e-5 there"),
            ("biases", 1e-3, "1e-3 here and about 9.7e-7 there"),
        ] {
            let found = Mutant::of(name).config(|c| c["rms_norm_eps"] = json!(wrong)).judged(encoding).findings;
            assert_eq!((found[0].component.as_str(), found[0].at.unwrap().position), ("layers.0.attn_norm", 0));
            assert!(found.iter().all(|f| f.blame == "norm_eps" && f.component.contains("norm")), "{found:?}");
            assert!(found[0].what.ends_with(right), "{}", found[0].what);
        }
    }
}

#[test]
fn a_missing_bias() {
    let linear = [
        ("self_attn.q_proj", "attn.q_plain", "attn.q"),
        ("self_attn.k_proj", "attn.k_plain", "attn.k"),
        ("self_attn.v_proj", "attn.v", "attn.v"),
        ("self_attn.o_proj", "attn.out", "attn.o"),
        ("mlp.gate_proj", "mlp.gate", "mlp.gate"),
        ("mlp.up_proj", "mlp.up", "mlp.up"),
        ("mlp.down_proj", "mlp.out", "mlp.down"),
    ];
    for encoding in FINE_ENCODINGS {
        for (module, component, tensor) in linear {
            let zero = |t: &mut BTreeMap<String, Source>| {
                t.get_mut(&key(1, &format!("{module}.bias"))).unwrap().values.fill(0.0)
            };
            let (component, bias) = (format!("layers.1.{component}"), format!("layers.1.{tensor}.bias"));
            Mutant::of("biases").tensors(zero).expect(encoding, &[(&component, &bias)]);
            if !matches!(module, "mlp.gate_proj" | "mlp.up_proj") {
                let coarse = component.trim_end_matches("_plain");
                Mutant::of("biases").coarse().tensors(zero).expect(encoding, &[(coarse, &bias)]);
            }
        }
        let none = Mutant::of("biases").config(|c| c["attention_bias"] = json!(false));
        let none = none.tensors(|t| t.retain(|key, _| !(key.contains("self_attn") && key.ends_with(".bias"))));
        let expected: Vec<(String, String)> = (0..2)
            .flat_map(|i| {
                linear[..4].iter().map(move |l| (format!("layers.{i}.{}", l.1), format!("layers.{i}.{}.bias", l.2)))
            })
            .collect();
        assert_eq!(none.blamed(encoding), expected);
    }
}

/// The highest bit of the exponent: a weight below 1 becomes huge.
const BIT_30: u32 = 1 << 30;
/// The third lowest bit of the exponent: a weight of about 0.02 becomes 16 times as large, which q8 can still hold.
const BIT_25: u32 = 1 << 25;

/// Flips a bit of a medium-sized weight in a row of a matrix and returns the column.
fn flip(source: &mut Source, row: usize, bit: u32) -> usize {
    let cols = *source.shape.last().unwrap();
    let row = &mut source.values[row * cols..(row + 1) * cols];
    let column = row.iter().position(|w| (0.016..0.06).contains(&w.abs())).expect("a weight of that size");
    row[column] = f32::from_bits(row[column].to_bits() ^ bit);
    column
}

#[test]
fn a_flipped_weight_bit() {
    let matrices = [
        ("self_attn.q_proj", "attn.q_plain", "attn.q", 17),
        ("self_attn.k_proj", "attn.k_plain", "attn.k", 5),
        ("self_attn.v_proj", "attn.v", "attn.v", 0),
        ("self_attn.o_proj", "attn.out", "attn.o", 63),
        ("mlp.gate_proj", "mlp.gate", "mlp.gate", 41),
        ("mlp.up_proj", "mlp.up", "mlp.up", 95),
        ("mlp.down_proj", "mlp.out", "mlp.down", 33),
    ];
    for encoding in FINE_ENCODINGS {
        let bit = if encoding == Encoding::F32 { BIT_30 } else { BIT_25 };
        let check = |mutant: Mutant, component: &str, blame: &str, row: usize, column: usize| {
            let found = mutant.judged(encoding).findings;
            println!("{encoding}: {found:?}");
            let [f] = found.as_slice() else { panic!("{component}: one finding is expected, not {found:?}") };
            assert_eq!((f.component.as_str(), f.blame.as_str(), f.at.unwrap().row), (component, blame, row));
            assert!(f.what.starts_with(&format!("rows {row} of ")), "{}", f.what);
            assert!(f.what.contains(&format!("column {column} ")), "{component}: {} {column}", f.what);
        };
        for (module, component, tensor, row) in matrices {
            for layer in [0, 1] {
                let mut column = 0;
                let change = |t: &mut BTreeMap<String, Source>| {
                    column = flip(t.get_mut(&key(layer, &format!("{module}.weight"))).unwrap(), row, bit);
                };
                let mutant = Mutant::of("untied-mha").tensors(change);
                let (component, weight) =
                    (format!("layers.{layer}.{component}"), format!("layers.{layer}.{tensor}.weight"));
                check(mutant, &component, &weight, row, column);
            }
        }
        let mut column = 0;
        let mutant =
            Mutant::of("untied-mha").tensors(|t| column = flip(t.get_mut("lm_head.weight").unwrap(), 399, bit));
        check(mutant, "logits", "lm_head.weight", 399, column);

        // The head of a tied model is the embedding. This token is not in the prompt.
        let tied = fixture("tied-llama3").reference().input_ids;
        let token = (0..).find(|id| !tied.contains(id)).unwrap() as usize;
        let change = |t: &mut BTreeMap<String, Source>| {
            column = flip(t.get_mut("model.embed_tokens.weight").unwrap(), token, bit)
        };
        let mutant = Mutant::of("tied-llama3").tensors(change);
        check(mutant, "logits", "embed.weight", token, column);

        // This token is.
        let (position, token) = (5, tied[5] as usize);
        let change = |t: &mut BTreeMap<String, Source>| {
            column = flip(t.get_mut("model.embed_tokens.weight").unwrap(), token, bit)
        };
        let mutant = Mutant::of("tied-llama3").tensors(change);
        let found = mutant.judged(encoding).findings;
        assert_eq!((found[0].component.as_str(), found[0].blame.as_str()), ("embed", "embed.weight"));
        assert_eq!((found[0].at, found.len()), (Some(At { position, row: column }), 2));
        assert_eq!(found[0].what, format!("rows of tokens {token} differ, in columns {column}"));
        assert_eq!((found[1].component.as_str(), found[1].blame.as_str()), ("logits", "embed.weight"));
    }
}

/// The flipped sign of a small weight hardly shows beside q8's rounding. If it does, it is not taken for a bias.
#[test]
fn a_fault_as_small_as_the_rounding() {
    let mut found = 0;
    for row in 0..12 {
        let change = |t: &mut BTreeMap<String, Source>| {
            flip(t.get_mut(&key(0, "self_attn.o_proj.weight")).unwrap(), row, 1 << 31);
        };
        let blamed = Mutant::of("untied-mha").tensors(change).blamed(Encoding::Q8);
        assert!(
            blamed.iter().all(|(c, b)| (c.as_str(), b.as_str()) == ("layers.0.attn.out", "layers.0.attn.o.weight"))
        );
        found += blamed.len();
    }
    assert!(found > 2, "{found} of 12");
}

#[test]
fn a_flipped_bit_of_a_norm() {
    for (name, component, blame) in [
        ("model.layers.0.input_layernorm.weight", "layers.0.attn_norm", "layers.0.attn_norm.weight"),
        ("model.layers.1.post_attention_layernorm.weight", "layers.1.mlp_norm", "layers.1.mlp_norm.weight"),
        ("model.norm.weight", "final_norm", "final_norm.weight"),
    ] {
        for bit in [18, 25, 29, 31] {
            let change = |t: &mut BTreeMap<String, Source>| {
                let w = &mut t.get_mut(name).unwrap().values[11];
                *w = f32::from_bits(w.to_bits() ^ 1 << bit);
            };
            for encoding in FINE_ENCODINGS {
                let found = Mutant::of("untied-mha").tensors(change).judged(encoding).findings;
                let [f] = found.as_slice() else { panic!("{name}: {found:?}") };
                assert_eq!((f.component.as_str(), f.blame.as_str()), (component, blame), "bit {bit}");
                assert_eq!(f.what, "elements 11 differ");
            }
        }
    }
}

/// Even if the reference has no finer components, a single wrong row tells which matrix it is.
#[test]
fn a_flipped_weight_bit_seen_from_afar() {
    for (module, component, tensor) in [
        ("self_attn.q_proj", "layers.0.attn.q", "layers.0.attn.q.weight"),
        ("self_attn.k_proj", "layers.0.attn.k", "layers.0.attn.k.weight"),
        ("self_attn.o_proj", "layers.0.attn.out", "layers.0.attn.o.weight"),
        ("mlp.down_proj", "layers.0.mlp.out", "layers.0.mlp.down.weight"),
    ] {
        let change = |t: &mut BTreeMap<String, Source>| {
            _ = flip(t.get_mut(&key(0, &format!("{module}.weight"))).unwrap(), 9, BIT_25)
        };
        for encoding in FINE_ENCODINGS {
            Mutant::of("untied-mha").coarse().tensors(change).expect(encoding, &[(component, tensor)]);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The program: the order of the stages, the exit codes, and both output formats.
#[test]
fn the_program_names_what_it_found() {
    let mutant = Mutant::of("untied-mha")
        .tensors(|t| swap(t, &key(0, "self_attn.q_proj.weight"), &key(0, "self_attn.k_proj.weight")));
    let bad = mutant.path(Encoding::Q8);
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.nsv");
    convert(&fixture("untied-mha").path, Encoding::Q8, &sound);
    let reference = fixture("untied-mha").reference_path();

    let run = nanoserve("verify", [text(&sound), "--bisect"]).expect(0);
    assert!(run.stdout.ends_with("PASS: nothing differs\n") && !run.stdout.contains("reference"), "{}", run.stdout);
    let run = nanoserve("verify", [text(&sound), text(&reference), "--bisect"]).expect(0);
    assert!(run.stdout.contains("reference  PASS  33 components\n"), "{}", run.stdout);
    let report = nanoserve("verify", [text(&sound), text(&reference), "--bisect", "--json"]).expect(0).json();
    assert_eq!(
        (&report["pass"], &report["blame"], report["stages"].as_array().unwrap().len()),
        (&json!(true), &json!(null), 3)
    );

    // A wrong model's answers are out of bounds, in every encoding.
    let wrong = Mutant::of("untied-mha").tensors(|t| {
        swap(t, &key(0, "mlp.down_proj.weight"), &key(1, "mlp.down_proj.weight"));
        swap(t, &key(0, "self_attn.o_proj.weight"), &key(1, "self_attn.o_proj.weight"));
    });
    for (encoding, last) in [
        (Encoding::F32, "FAIL: look at layers.0.attn.out first"),
        (Encoding::F16, "FAIL: for f16, cache f16, the mean KL is "),
        (Encoding::Q8, "FAIL: for q8, cache f16, the mean KL is "),
    ] {
        let run = nanoserve("verify", [text(&wrong.path(encoding)), text(&reference), "-q"]).expect(1);
        assert!(run.stdout.starts_with(last), "{}", run.stdout);
    }

    // The matrices were swapped before conversion: the file and the kernels are sound.
    nanoserve("verify", [text(&bad), "--bisect"]).expect(0);
    let run = nanoserve("verify", [text(&bad), text(&reference), "--bisect", "-q"]).expect(1);
    let blame = "layers.0.attn.q.weight, swapped with layers.0.attn.k.weight";
    assert_eq!(run.stdout, format!("FAIL: {blame}, first seen in layers.0.attn.q_plain\n"));
    let report =
        nanoserve("verify", [text(&bad), text(&reference), "--bisect", "--json", "--isa", "scalar"]).expect(1).json();
    assert_eq!((&report["pass"], &report["blame"]), (&json!(false), &json!(blame)));
    let first = &report["stages"][2]["findings"][0];
    assert_eq!((&first["component"], &first["position"]), (&json!("layers.0.attn.q_plain"), &json!(0)));

    // A flipped bit of the file itself is found before anything runs.
    let mut bytes = fs::read(&bad).unwrap();
    let range = NsvFile::open(&bad).unwrap().layout().tensor("layers.1.mlp.down.weight").unwrap().range.clone();
    bytes[range.start + 700] ^= 0x10;
    let damaged = folder.path().join("damaged.nsv");
    fs::write(&damaged, bytes).unwrap();
    let report = nanoserve("verify", [text(&damaged), text(&reference), "--bisect", "--json"]).expect(1).json();
    assert_eq!(
        (&report["blame"], report["stages"].as_array().unwrap().len()),
        (&json!("tensor layers.1.mlp.down.weight"), 1)
    );
    let what = report["stages"][0]["findings"][0]["what"].as_str().unwrap();
    assert_eq!(what, format!("bytes {}..{} are not the ones that were written", range.start, range.end));

    // Without --bisect and without a reference there is nothing to do. Another model's reference is refused.
    nanoserve("verify", [text(&sound)]).expect(2);
    nanoserve("verify", [text(&sound), text(&reference), "--bisect", "--dump", "x"]).expect(2);
    let other = fixture("biases").reference_path();
    nanoserve("verify", [text(&sound), text(&other), "--bisect"]).expect(2);
}
