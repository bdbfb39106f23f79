//! The right bytes under the right name: a file's tensor with a canonical name equals the checkpoint's tensor with the
//! key in the table below, which is read here without the converter.

use half::{bf16, f16};
use nanoserve_format::{Encoding, ModelSpec, NsvFile, Shape, q8};
use nanoserve_runtime::KvType;
use nanoserve_runtime::cpu::isa;
use nanoserve_runtime::diagnose::rule::Tolerance;
use nanoserve_runtime::diagnose::verify::{Reference, compare, dump, trace};
use nanoserve_tests::{ENCODINGS, Source, Tiny, convert, engine, fixtures, read_values};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every tensor of a model: our name and the Hub's; `{i}` is the layer.
const TABLE: [(&str, &str); 19] = [
    ("embed.weight", "embed_tokens.weight"),
    ("layers.{i}.attn_norm.weight", "layers.{i}.input_layernorm.weight"),
    ("layers.{i}.attn.q.weight", "layers.{i}.self_attn.q_proj.weight"),
    ("layers.{i}.attn.q.bias", "layers.{i}.self_attn.q_proj.bias"),
    ("layers.{i}.attn.k.weight", "layers.{i}.self_attn.k_proj.weight"),
    ("layers.{i}.attn.k.bias", "layers.{i}.self_attn.k_proj.bias"),
    ("layers.{i}.attn.v.weight", "layers.{i}.self_attn.v_proj.weight"),
    ("layers.{i}.attn.v.bias", "layers.{i}.self_attn.v_proj.bias"),
    ("layers.{i}.attn.o.weight", "layers.{i}.self_attn.o_proj.weight"),
    ("layers.{i}.attn.o.bias", "layers.{i}.self_attn.o_proj.bias"),
    ("layers.{i}.mlp_norm.weight", "layers.{i}.post_attention_layernorm.weight"),
    ("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.gate_proj.weight"),
    ("layers.{i}.mlp.gate.bias", "layers.{i}.mlp.gate_proj.bias"),
    ("layers.{i}.mlp.up.weight", "layers.{i}.mlp.up_proj.weight"),
    ("layers.{i}.mlp.up.bias", "layers.{i}.mlp.up_proj.bias"),
    ("layers.{i}.mlp.down.weight", "layers.{i}.mlp.down_proj.weight"),
    ("layers.{i}.mlp.down.bias", "layers.{i}.mlp.down_proj.bias"),
    ("final_norm.weight", "norm.weight"),
    ("lm_head.weight", "lm_head.weight"),
];

/// Norms that some models have, with the Hub's names after [`untangled`].
const NORMS: [(&str, &str); 4] = [
    ("layers.{i}.attn.q_norm.weight", "layers.{i}.self_attn.q_norm.weight"),
    ("layers.{i}.attn.k_norm.weight", "layers.{i}.self_attn.k_norm.weight"),
    ("layers.{i}.attn_post_norm.weight", "layers.{i}.behind_attention.weight"),
    ("layers.{i}.mlp_post_norm.weight", "layers.{i}.behind_mlp.weight"),
];

/// A checkpoint's tensors as Llama would name, split and store them: consistent names of norms, fused matrices split,
/// norm weights as the factors they stand for, no vision tower.
fn untangled(folder: &Path, source: BTreeMap<String, Source>, spec: &ModelSpec) -> BTreeMap<String, Source> {
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let family = config["model_type"].as_str().unwrap();
    let (gemma, vision) = (family.starts_with("gemma"), family == "gemma3");
    let mut all = BTreeMap::new();
    let (q, kv, ff) = (spec.q_size(), spec.kv_size(), spec.intermediate_size);
    for (mut key, mut tensor) in source {
        if vision {
            let Some(text) = key.strip_prefix("language_model.model.") else { continue };
            key = text.to_string();
        }
        if gemma || family == "olmo2" {
            key = key.replace("post_attention_layernorm", "behind_attention");
            key = key.replace("post_feedforward_layernorm", "behind_mlp");
            key = key.replace("pre_feedforward_layernorm", "post_attention_layernorm");
        }
        if gemma && tensor.shape.len() == 1 {
            tensor.values.iter_mut().for_each(|x| *x += 1.0);
        }
        let parts: &[(&str, usize)] = match key.split('.').nth_back(1) {
            Some("qkv_proj") => &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
            Some("gate_up_proj") => &[("gate_proj", ff), ("up_proj", ff)],
            _ => {
                all.insert(key, tensor);
                continue;
            }
        };
        let (fused, mut rest) = (key.split('.').nth_back(1).unwrap().to_string(), &tensor.values[..]);
        for (part, rows) in parts {
            let (values, behind) = rest.split_at(rows * tensor.shape[1]);
            let source = Source { shape: vec![*rows, tensor.shape[1]], values: values.to_vec() };
            all.insert(key.replace(&fused, part), source);
            rest = behind;
        }
        assert!(rest.is_empty(), "{key} has more rows than its parts");
    }
    all
}

/// Every tensor of every safetensors file of a checkpoint, without the prefix that most keys have.
fn read_checkpoint(folder: &Path) -> BTreeMap<String, Source> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("model") || !name.ends_with(".safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..header_end]).unwrap();
        for (key, entry) in header.iter().filter(|(key, _)| *key != "__metadata__") {
            let number = |v: &Value| v.as_u64().unwrap() as usize;
            let range = header_end + number(&entry["data_offsets"][0])..header_end + number(&entry["data_offsets"][1]);
            let data = &bytes[range];
            let two = || data.as_chunks::<2>().0.iter();
            let values: Vec<f32> = match entry["dtype"].as_str().unwrap() {
                "F32" => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                "F16" => two().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
                "BF16" => two().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
                other => panic!("{other}"),
            };
            let shape: Vec<usize> = entry["shape"].as_array().unwrap().iter().map(number).collect();
            assert_eq!(values.len(), shape.iter().product::<usize>());
            let key = key.strip_prefix("model.").unwrap_or(key).to_string();
            assert!(all.insert(key.clone(), Source { shape, values }).is_none(), "{key} is there twice");
        }
    }
    all
}

/// How far the values of a row may differ: in q8 half of a block's scale and the last bit of a division, in codes half of
/// a step.
fn limits(encoding: Encoding, row: &[f32]) -> impl Iterator<Item = f64> {
    row.chunks(q8::Q8_BLOCK).zip(encoding.steps(row)).flat_map(move |(block, step)| {
        let largest = block.iter().fold(0.0, |m, x| x.abs().max(m));
        let limit = match encoding {
            Encoding::Q8 => 0.500_001 * q8::scale(largest).unwrap().to_f64(),
            _ => 0.5 * step,
        };
        std::iter::repeat_n(limit, block.len())
    })
}

fn check_tensor(what: &str, file: &NsvFile, name: &str, source: &Source) {
    let view = file.tensor(name).unwrap_or_else(|| panic!("{what}: no {name}"));
    assert_eq!(view.shape.dims(), source.shape, "{what} {name}");
    let got = read_values(view);
    assert_eq!(got.len(), source.values.len());
    let exact = |expected: &dyn Fn(f32) -> f32| {
        for (i, (got, &x)) in got.iter().zip(&source.values).enumerate() {
            assert_eq!(got.to_bits(), expected(x).to_bits(), "{what} {name} value {i}: {got} of {x}");
        }
    };
    match (view.shape, view.encoding) {
        (Shape::Vector(_), encoding) => {
            assert_eq!(encoding, Encoding::F32, "{what} {name}");
            exact(&|x| x);
        }
        (_, Encoding::F32) => exact(&|x| x),
        (_, Encoding::F16) => exact(&|x| f16::from_f32(x).to_f32()),
        (Shape::Matrix(_, cols), encoding @ (Encoding::Q8 | Encoding::Codes(_))) => {
            for (r, (got, row)) in got.chunks(cols).zip(source.values.chunks(cols)).enumerate() {
                for (c, ((got, x), limit)) in got.iter().zip(row).zip(limits(encoding, row)).enumerate() {
                    let off = (f64::from(*got) - f64::from(*x)).abs();
                    assert!(off <= limit, "{what} {name} [{r}, {c}]: {got} of {x}, allowed {limit:e}");
                }
            }
        }
    }
}

#[test]
fn every_tensor_holds_the_values_of_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut biases = 0;
    for fixture in fixtures() {
        for encoding in ENCODINGS {
            let what = format!("{} {encoding}", fixture.name);
            let file = NsvFile::open(fixture.convert(encoding, folder.path())).unwrap();
            let source = untangled(&fixture.path, read_checkpoint(&fixture.path), file.spec());
            let (mut seen, mut read) = (0, Vec::new());
            for (ours, theirs) in TABLE.into_iter().chain(NORMS) {
                let layers = if ours.contains("{i}") { file.spec().n_layers } else { 1 };
                for layer in 0..layers {
                    let put = |name: &str| name.replace("{i}", &layer.to_string());
                    let (ours, mut theirs) = (put(ours), put(theirs));
                    if file.tensor(&ours).is_none() {
                        let some = ours.ends_with(".bias") || ours.ends_with("norm.weight");
                        assert!(some && !source.contains_key(&theirs), "{what}: no {ours}");
                        continue;
                    }
                    if theirs == "lm_head.weight" && file.spec().tied_lm_head {
                        theirs = "embed_tokens.weight".to_string();
                        let entry = file.layout().tensor(&ours).unwrap();
                        assert_eq!(entry.alias_of.as_deref(), Some("embed.weight"), "{what}");
                        assert_eq!(entry.range, file.layout().tensor("embed.weight").unwrap().range, "{what}");
                    }
                    check_tensor(&what, &file, &ours, &source[&theirs]);
                    seen += 1;
                    biases += usize::from(ours.ends_with(".bias"));
                    read.push(theirs);
                }
            }
            assert_eq!(seen, file.layout().tensors.len(), "{what}: a tensor that no row of the table names");
            let leftover = |key: &&String| !read.contains(key) && !key.ends_with("rotary_emb.inv_freq");
            let left: Vec<&String> = source.keys().filter(leftover).filter(|k| *k != "lm_head.weight").collect();
            assert!(left.is_empty(), "{what}: {left:?} went nowhere");
        }
    }
    assert_eq!(biases, 4 * (2 * 7 + 2 * 3 + 3 * 3 + 2 * 4), "in four encodings, of four models with biases");
}

#[test]
fn every_source_type_is_read_exactly() {
    use nanoserve_tests::SourceType;
    let folder = tempfile::tempdir().unwrap();
    for dtype in [SourceType::F32, SourceType::F16, SourceType::Bf16] {
        let tiny =
            Tiny { dtype, attention_bias: true, mlp_bias: true, hidden: 40, intermediate: 51, ..Tiny::default() };
        let source = folder.path().join(format!("{dtype:?}"));
        tiny.write(&source);
        let out = folder.path().join("out.nsv");
        convert(&source, Encoding::F32, &out);
        let (file, read) = (NsvFile::open(&out).unwrap(), read_checkpoint(&source));
        let name =
            |row: &(&str, &str), i: usize| (row.0.replace("{i}", &i.to_string()), row.1.replace("{i}", &i.to_string()));
        for row in &TABLE {
            for layer in 0..tiny.layers {
                let (ours, theirs) = name(row, layer);
                check_tensor(&format!("{dtype:?}"), &file, &ours, &read[&theirs]);
            }
        }
    }
}

#[test]
fn a_swapped_query_and_key_is_found_by_verify() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { kv_heads: 4, ..Tiny::default() };
    let mut tensors = tiny.tensors();
    let (good, swapped) = (folder.path().join("good"), folder.path().join("swapped"));
    tiny.write_tensors(&good, &tensors);
    let q = "model.layers.0.self_attn.q_proj.weight";
    let k = "model.layers.0.self_attn.k_proj.weight";
    let (was_q, was_k) = (tensors[q].clone(), tensors[k].clone());
    assert_eq!(was_q.shape, was_k.shape, "shapes must not give the swap away");
    tensors.insert(q.to_string(), was_k);
    tensors.insert(k.to_string(), was_q);
    tiny.write_tensors(&swapped, &tensors);

    let ids: Vec<u32> = (0..24).map(|i| i * 7 % 256).collect();
    let out = folder.path().join("out.nsv");
    convert(&good, Encoding::F32, &out);
    let ours = trace(&mut engine(&out, isa::available()[0], 1), &ids, KvType::F32).unwrap();
    let path = folder.path().join("reference.safetensors");
    dump(&path, &ids, None, &ours).unwrap();
    let reference = Reference::read(&path).unwrap();

    let first_fail = |path: &Path| {
        let mut engine = engine(path, isa::available()[0], 1);
        let (report, _) = compare(&mut engine, &reference, KvType::F32, Tolerance { atol: 1e-5, rtol: 1e-5 }).unwrap();
        report.rows.into_iter().find(|r| !r.pass).map(|r| r.name)
    };
    assert_eq!(first_fail(&out), None);
    convert(&swapped, Encoding::F32, &out);
    assert_eq!(first_fail(&out).as_deref(), Some("layers.0.attn.q_plain"));
}
