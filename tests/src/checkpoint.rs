//! Small checkpoints with random weights in the Hub's layout: `config.json` and `model.safetensors`.

use crate::random::SplitMix64;
use half::{bf16, f16};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The type of a checkpoint's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// Four bytes.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl SourceType {
    /// Its name in config.json.
    fn torch(self) -> &'static str {
        match self {
            SourceType::F32 => "float32",
            SourceType::F16 => "float16",
            SourceType::Bf16 => "bfloat16",
        }
    }

    /// Its name in a safetensors header.
    fn safetensors(self) -> &'static str {
        match self {
            SourceType::F32 => "F32",
            SourceType::F16 => "F16",
            SourceType::Bf16 => "BF16",
        }
    }

    fn extend(self, out: &mut Vec<u8>, values: &[f32]) {
        match self {
            SourceType::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            SourceType::F16 => out.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            SourceType::Bf16 => out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
        }
    }
}

/// How rotary frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TinyRope {
    /// Not at all.
    Default,
    /// All frequencies by this factor.
    Linear(f64),
    /// As in Llama 3.1: factor and original context.
    Llama3(f64, usize),
}

/// A Llama checkpoint: sizes and switches.
#[derive(Clone, Debug)]
pub struct Tiny {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocab: usize,
    /// Number of positions.
    pub context: usize,
    /// The head is the embedding.
    pub tied: bool,
    /// q, k, v and o have biases.
    pub attention_bias: bool,
    /// gate, up and down have biases.
    pub mlp_bias: bool,
    /// How rotary frequencies are stretched.
    pub rope: TinyRope,
    /// The weights' type.
    pub dtype: SourceType,
    /// The seed of the random weights.
    pub seed: u64,
}

impl Default for Tiny {
    fn default() -> Self {
        Tiny {
            hidden: 64,
            intermediate: 96,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 256,
            context: 64,
            tied: false,
            attention_bias: false,
            mlp_bias: false,
            rope: TinyRope::Default,
            dtype: SourceType::F32,
            seed: 1,
        }
    }
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its values, row after row.
    pub values: Vec<f32>,
}

impl Tiny {
    /// Key and shape of every tensor.
    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, ff) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            for (module, shape, bias) in [
                ("input_layernorm", vec![hidden], false),
                ("self_attn.q_proj", vec![q, hidden], self.attention_bias),
                ("self_attn.k_proj", vec![kv, hidden], self.attention_bias),
                ("self_attn.v_proj", vec![kv, hidden], self.attention_bias),
                ("self_attn.o_proj", vec![hidden, q], self.attention_bias),
                ("post_attention_layernorm", vec![hidden], false),
                ("mlp.gate_proj", vec![ff, hidden], self.mlp_bias),
                ("mlp.up_proj", vec![ff, hidden], self.mlp_bias),
                ("mlp.down_proj", vec![hidden, ff], self.mlp_bias),
            ] {
                let key = format!("model.layers.{layer}.{module}");
                if bias {
                    all.push((format!("{key}.bias"), vec![shape[0]]));
                }
                all.push((format!("{key}.weight"), shape));
            }
        }
        all.push(("model.norm.weight".to_string(), vec![hidden]));
        if !self.tied {
            all.push(("lm_head.weight".to_string(), vec![self.vocab, hidden]));
        }
        all
    }

    /// Random values for every tensor: matrices scaled to keep activations near 1, norms around 1, small biases.
    pub fn tensors(&self) -> BTreeMap<String, Source> {
        let mut random = SplitMix64::new(self.seed);
        let make = |(key, shape): (String, Vec<usize>)| {
            let (mean, spread) = match (shape.as_slice(), key.ends_with(".bias")) {
                ([_, cols], _) => (0.0, 1.0 / (*cols as f32).sqrt()),
                (_, true) => (0.0, 0.1),
                _ => (1.0, 0.2),
            };
            let count = shape.iter().product();
            let values = (0..count).map(|_| mean + spread * random.bell()).collect();
            (key, Source { shape, values })
        };
        self.shapes().into_iter().map(make).collect()
    }

    /// The `config.json`, in the style before transformers 5.
    pub fn config(&self) -> Value {
        let scaling = match self.rope {
            TinyRope::Default => Value::Null,
            TinyRope::Linear(factor) => json!({"type": "linear", "factor": factor}),
            TinyRope::Llama3(factor, context) => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": context,
            }),
        };
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": scaling,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "tie_word_embeddings": self.tied,
            "torch_dtype": self.dtype.torch(),
            "bos_token_id": 1,
            "eos_token_id": 2,
        })
    }

    /// Writes the checkpoint into `folder`, which is created.
    pub fn write(&self, folder: &Path) {
        self.write_tensors(folder, &self.tensors());
    }

    /// Writes the checkpoint with these tensors, which need not match it.
    pub fn write_tensors(&self, folder: &Path, tensors: &BTreeMap<String, Source>) {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (key, Source { shape, values }) in tensors {
            let start = data.len();
            self.dtype.extend(&mut data, values);
            let entry = json!({"dtype": self.dtype.safetensors(), "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(key.clone(), entry);
        }
        let mut head = Value::Object(header).to_string().into_bytes();
        head.resize(head.len().next_multiple_of(8), b' ');
        let mut file = (head.len() as u64).to_le_bytes().to_vec();
        file.extend(head);
        file.extend(data);
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), self.config().to_string()).unwrap();
        fs::write(folder.join("model.safetensors"), file).unwrap();
    }
}
