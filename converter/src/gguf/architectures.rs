//! The architectures that are read, as one table: what each calls its tensors, and what its metadata leaves unsaid.
//! What an entry does not say is the same for all of them.

use crate::gguf::container::Value;
use crate::gguf::keys::Keys;
use nanoserve_format::schema::Part;
use nanoserve_format::{Activation, ModelSpec, QkNorm, Rope, RopeScaling, Window};

/// A tensor of a layer: the parts it holds, one after the other by rows, and its name.
pub(crate) type Tensor = (&'static [Part], &'static str);

/// An architecture of llama.cpp.
pub(crate) struct Architecture {
    /// Its name in `general.architecture`.
    pub name: &'static str,
    /// The tensors of a layer.
    pub tensors: &'static [&'static [Tensor]],
    /// The rows of q and k are stored as [`Pairs`](crate::input::RowOrder::Pairs).
    pub pairs: bool,
    /// RoPE may rotate a part of each head.
    pub partial_rope: bool,
    /// Sets the remaining switches.
    pub switches: fn(&Keys, &mut ModelSpec),
}

const ATTENTION: &[Tensor] =
    &[(&[Part::Q], "attn_q"), (&[Part::K], "attn_k"), (&[Part::V], "attn_v"), (&[Part::O], "attn_output")];
const FUSED_ATTENTION: &[Tensor] = &[(&[Part::Q, Part::K, Part::V], "attn_qkv"), (&[Part::O], "attn_output")];
const QK_NORMS: &[Tensor] = &[(&[Part::QNorm], "attn_q_norm"), (&[Part::KNorm], "attn_k_norm")];
const MLP: &[Tensor] = &[(&[Part::Gate], "ffn_gate"), (&[Part::Up], "ffn_up"), (&[Part::Down], "ffn_down")];
const FUSED_MLP: &[Tensor] = &[(&[Part::Gate, Part::Up], "ffn_up"), (&[Part::Down], "ffn_down")];
const NORMS_BEFORE: &[Tensor] = &[(&[Part::AttnNorm], "attn_norm"), (&[Part::MlpNorm], "ffn_norm")];
const NORMS_AFTER: &[Tensor] =
    &[(&[Part::AttnPostNorm], "post_attention_norm"), (&[Part::MlpPostNorm], "post_ffw_norm")];

/// What every architecture starts from.
const LLAMA: Architecture = Architecture {
    name: "llama",
    tensors: &[ATTENTION, MLP, NORMS_BEFORE],
    pairs: true,
    partial_rope: false,
    switches: |_, _| (),
};

/// The table.
pub(crate) const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture { name: "qwen2", pairs: false, ..LLAMA },
    Architecture {
        name: "qwen3",
        tensors: &[ATTENTION, QK_NORMS, MLP, NORMS_BEFORE],
        pairs: false,
        switches: |_, spec| spec.qk_norm = QkNorm::Head,
        ..LLAMA
    },
    Architecture {
        name: "phi3",
        tensors: &[FUSED_ATTENTION, FUSED_MLP, NORMS_BEFORE],
        pairs: false,
        partial_rope: true,
        switches: |keys, spec| {
            // A size of 0 means none.
            let size = keys.size(&keys.own("attention.sliding_window")).filter(|&size| size > 0);
            spec.window = size.map(|size| Window { size, layers: (0..spec.n_layers).collect(), rope: None });
        },
    },
    Architecture {
        name: "gemma2",
        tensors: &[ATTENTION, MLP, NORMS_BEFORE, NORMS_AFTER],
        pairs: false,
        switches: |keys, spec| {
            // The metadata has no query_pre_attn_scalar: it is 256 but in the 27B, whose heads have 128 values.
            let scalar = if spec.head_dim == 128 { spec.hidden_size / spec.n_heads.max(1) } else { 256 };
            gemma(spec, scalar);
            spec.attn_softcap = Some(keys.number(&keys.own("attn_logit_softcapping")).unwrap_or(50.0));
            spec.logit_softcap = Some(keys.number(&keys.own("final_logit_softcapping")).unwrap_or(30.0));
            window(keys, spec, 2, None);
        },
        ..LLAMA
    },
    Architecture {
        name: "gemma3",
        tensors: &[ATTENTION, QK_NORMS, MLP, NORMS_BEFORE, NORMS_AFTER],
        pairs: false,
        switches: |keys, spec| {
            // As above; the 27B is the one with 62 layers.
            let scalar = if spec.n_layers == 62 { spec.hidden_size / spec.n_heads.max(1) } else { 256 };
            gemma(spec, scalar);
            spec.qk_norm = QkNorm::Head;
            spec.logit_softcap = keys.number(&keys.own("final_logit_softcapping")).filter(|&cap| cap != 0.0);
            let theta = keys.number(&keys.own("rope.freq_base_swa")).unwrap_or(1e4);
            window(keys, spec, 6, Some(Rope { theta, rotary_dim: None, scaling: RopeScaling::Default {} }));
        },
        ..LLAMA
    },
    Architecture {
        name: "smollm3",
        // The metadata does not say which layers have no RoPE: each fourth.
        switches: |_, spec| spec.no_rope_layers = (0..spec.n_layers).filter(|i| (i + 1).is_multiple_of(4)).collect(),
        ..LLAMA
    },
    Architecture {
        name: "olmo2",
        tensors: &[ATTENTION, QK_NORMS, MLP, NORMS_AFTER],
        pairs: false,
        switches: |_, spec| spec.qk_norm = QkNorm::Projection,
        ..LLAMA
    },
    Architecture {
        name: "granite",
        switches: |keys, spec| {
            let number = |name| keys.number(&keys.own(name));
            spec.embed_scale = number("embedding_scale").unwrap_or(1.0);
            spec.residual_scale = number("residual_scale").unwrap_or(1.0);
            spec.logit_divisor = number("logit_scale").unwrap_or(1.0);
            spec.attn_scale = number("attention.scale").filter(|&scale| scale != 0.0);
        },
        ..LLAMA
    },
];

/// What Gemma 2 and 3 share.
fn gemma(spec: &mut ModelSpec, query_pre_attn_scalar: usize) {
    spec.activation = Activation::GeluTanh;
    spec.embed_scale = (spec.hidden_size as f64).sqrt();
    spec.attn_scale = Some(1.0 / (query_pre_attn_scalar as f64).sqrt());
}

/// Sets the layers that have a window: those that the metadata lists, or else all but each `every`th.
fn window(keys: &Keys, spec: &mut ModelSpec, every: usize, rope: Option<Rope>) {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let size = keys.own("attention.sliding_window");
    let Some(size) = keys.required(&size, "a size", keys.size(&size)) else { return };
    // One number, or a truth value for each layer.
    let listed = keys.own(PATTERN);
    let layers = match keys.get(&listed) {
        Some(Value::Array(..)) => {
            let Some(on) = keys.sizes(&listed) else { return };
            if on.len() != spec.n_layers {
                return keys.wrong(&listed, format!("{} values", on.len()), format!("{}, as layers", spec.n_layers));
            }
            (0..spec.n_layers).filter(|&i| on[i] != 0).collect()
        }
        Some(_) | None => {
            let every = keys.size(&listed).unwrap_or(every);
            (0..spec.n_layers).filter(|i| every != 0 && !(i + 1).is_multiple_of(every)).collect::<Vec<_>>()
        }
    };
    if !layers.is_empty() {
        spec.window = Some(Window { size, layers, rope });
    }
}
