//! Tests conversions of a small checkpoint, made by hand so that any part of it can be wrong.

mod cancel;
mod config;
mod families;
mod origin;
mod problems;
mod real;
mod sources;
mod templates;
mod values;

use crate::{ConvertError, Options, Report, Result, What, convert};
use half::{bf16, f16};
use nanoserve_format::Encoding;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

/// A tensor of a checkpoint: key, type, shape, bytes.
#[derive(Clone)]
struct Raw {
    key: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A checkpoint in memory; fields are changed, then it is written.
struct Fixture {
    dir: TempDir,
    config: Value,
    tensors: Vec<Raw>,
}

/// Values that tell tensors apart, exact in all three source types.
fn values(key: &str, n: usize) -> Vec<f32> {
    let mut state = key.bytes().fold(17u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 24) as f32 - 127.5) / 128.0
    };
    (0..n).map(|_| bf16::from_f32(next()).to_f32()).collect()
}

fn encode(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "F64" => values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
        "F32" => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        other => panic!("{other}"),
    }
}

fn raw(key: &str, dtype: &'static str, shape: &[usize]) -> Raw {
    let bytes = encode(dtype, &values(key, shape.iter().product()));
    Raw { key: key.to_string(), dtype, shape: shape.to_vec(), bytes }
}

/// The bytes of a safetensors file with these header entries and data.
fn container(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn safetensors(tensors: &[Raw]) -> Vec<u8> {
    let (mut entries, mut data) = (vec![r#""__metadata__":{"format":"pt"}"#.to_string()], Vec::new());
    for Raw { key, dtype, shape, bytes } in tensors {
        let (from, to) = (data.len(), data.len() + bytes.len());
        entries.push(format!(r#""{key}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#));
        data.extend(bytes);
    }
    container(&format!("{{{}}}", entries.join(",")), &data)
}

impl Fixture {
    /// Sizes that are no multiple of blocks or panels: 2 layers, hidden 72, 3 heads of 10 over 1, vocabulary 37. Not
    /// tied.
    fn new(dtype: &'static str, biases: bool) -> Fixture {
        let (hidden, ff, vocab, q, kv) = (72, 44, 37, 30, 10);
        let mut tensors = vec![raw("model.embed_tokens.weight", dtype, &[vocab, hidden])];
        for layer in 0..2 {
            let mut add = |module: &str, shape: &[usize]| {
                let key = format!("model.layers.{layer}.{module}");
                tensors.push(raw(&format!("{key}.weight"), dtype, shape));
                if biases && shape.len() == 2 {
                    tensors.push(raw(&format!("{key}.bias"), dtype, &shape[..1]));
                }
            };
            add("self_attn.q_proj", &[q, hidden]);
            add("self_attn.k_proj", &[kv, hidden]);
            add("self_attn.v_proj", &[kv, hidden]);
            add("self_attn.o_proj", &[hidden, q]);
            add("mlp.gate_proj", &[ff, hidden]);
            add("mlp.up_proj", &[ff, hidden]);
            add("mlp.down_proj", &[hidden, ff]);
            add("input_layernorm", &[hidden]);
            add("post_attention_layernorm", &[hidden]);
        }
        tensors.push(raw("model.norm.weight", dtype, &[hidden]));
        tensors.push(raw("lm_head.weight", dtype, &[vocab, hidden]));
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": hidden, "intermediate_size": ff, "num_hidden_layers": 2, "num_attention_heads": 3,
            "num_key_value_heads": 1, "head_dim": 10, "vocab_size": vocab, "eos_token_id": 2, "bos_token_id": 1,
            "attention_bias": biases, "mlp_bias": biases,
        });
        Fixture { dir: tempfile::tempdir().unwrap(), config, tensors }
    }

    fn plain() -> Fixture {
        Fixture::new("BF16", false)
    }

    fn tensor(&mut self, key: &str) -> &mut Raw {
        self.tensors.iter_mut().find(|t| t.key == key).unwrap()
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.dir.path().join(name), bytes).unwrap();
        self
    }

    /// Writes config.json, and the weights in one file.
    fn write(&self) -> &Self {
        self.put("config.json", self.config.to_string()).put("model.safetensors", safetensors(&self.tensors))
    }

    /// Writes config.json, the weights in two shards, and an index, which `change` may change before.
    fn write_shards(&self, change: impl FnOnce(&mut Value, &mut [Vec<Raw>; 2])) -> &Self {
        let (a, b) = self.tensors.split_at(self.tensors.len() / 2);
        let mut shards = [a.to_vec(), b.to_vec()];
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let mut index = json!({"metadata": {"total_size": 1}, "weight_map": {}});
        for (name, shard) in names.iter().zip(&shards) {
            for tensor in shard {
                index["weight_map"][&tensor.key] = json!(name);
            }
        }
        change(&mut index, &mut shards);
        for (name, shard) in names.iter().zip(&shards) {
            self.put(name, safetensors(shard));
        }
        self.put("config.json", self.config.to_string()).put("model.safetensors.index.json", index.to_string())
    }

    fn options(&self, encoding: Encoding) -> Options {
        Options { threads: Some(2), ..Options::new(self.dir.path(), self.output(), encoding) }
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("out.nsv")
    }

    fn convert(&self, encoding: Encoding) -> Result<Report> {
        convert(&self.options(encoding), &(), &AtomicBool::new(false))
    }

    /// Every problem, as `file/tensor` and what; asserts that nothing is left behind, not even by a dry run.
    fn problems(&self, encoding: Encoding) -> Vec<(String, What)> {
        let before = fs::read_dir(self.dir.path()).unwrap().count();
        let dry = convert(&Options { dry_run: true, ..self.options(encoding) }, &(), &AtomicBool::new(false));
        let wet = self.convert(encoding);
        assert_eq!(before, fs::read_dir(self.dir.path()).unwrap().count(), "something was left behind");
        let (Err(ConvertError::Problems(dry)), Err(ConvertError::Problems(wet))) = (dry, wet) else {
            panic!("expected problems")
        };
        let text = |all: &[crate::Problem]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&dry), text(&wet), "a dry run finds what a real one finds");
        let place = |p: &crate::Problem| match &p.tensor {
            Some(tensor) => format!("{}/{tensor}", p.file),
            None => p.file.clone(),
        };
        wet.into_iter().map(|p| (place(&p), p.what)).collect()
    }

    /// The only problem.
    fn problem(&self) -> (String, What) {
        let mut all = self.problems(Encoding::F32);
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }
}
