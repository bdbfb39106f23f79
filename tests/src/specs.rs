//! Descriptions of small models that together have every switch.

use nanoserve_format::{Activation, ModelSpec, QkNorm, Rope, RopeScaling, Window};

/// A model of three small layers with a context of 4096.
pub fn base() -> ModelSpec {
    ModelSpec {
        hidden_size: 24,
        intermediate_size: 40,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 12,
        vocab_size: 50,
        context_length: 1 << 12,
        ..ModelSpec::default()
    }
}

/// A rotary embedding.
pub fn rope(theta: f64, rotary_dim: Option<usize>, scaling: RopeScaling) -> Rope {
    Rope { theta, rotary_dim, scaling }
}

/// Attention to the last `size` positions in some layers.
pub fn window(size: usize, layers: &[usize], rope: Option<Rope>) -> Option<Window> {
    Some(Window { size, layers: layers.to_vec(), rope })
}

/// Models that together have every switch, each alone or with the switches that usually accompany it.
pub fn specs() -> Vec<(&'static str, ModelSpec)> {
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 200,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: 1.138_629_436_111_989,
    };
    let long = RopeScaling::LongRope {
        short_factor: vec![1.0, 1.1, 1.2],
        long_factor: vec![1.0, 2.5, 7.0],
        original_context: 100,
        attention_factor: 1.19,
    };
    let dynamic = RopeScaling::Dynamic { factor: 2.0, original_context: 300 };
    vec![
        ("a window in every layer", ModelSpec { window: window(5, &[0, 1, 2], None), ..base() }),
        (
            "caps, norms on both sides, scales, gelu, a window in some layers",
            ModelSpec {
                window: window(16, &[0, 2], None),
                post_norm: true,
                attn_softcap: Some(2.0),
                logit_softcap: Some(3.0),
                attn_scale: Some(0.4),
                embed_scale: 4.898_979_485_566_356,
                activation: Activation::GeluTanh,
                tied_lm_head: true,
                ..base()
            },
        ),
        (
            "windows with their own rotation, norms of heads",
            ModelSpec {
                window: window(33, &[0, 1], Some(rope(10000.0, None, RopeScaling::Default {}))),
                rope: rope(1e6, None, RopeScaling::Linear { factor: 8.0 }),
                qk_norm: QkNorm::Head,
                post_norm: true,
                qkv_bias: true,
                ..base()
            },
        ),
        (
            "norms behind blocks alone, and of whole projections",
            ModelSpec { pre_norm: false, post_norm: true, qk_norm: QkNorm::Projection, ..base() },
        ),
        ("multipliers", ModelSpec { residual_scale: 0.22, embed_scale: 12.0, logit_divisor: 8.0, ..base() }),
        ("layers without rotation", ModelSpec { no_rope_layers: vec![1], rope: rope(1e4, None, yarn), ..base() }),
        (
            "a rotation of half a head, by the session's length",
            ModelSpec { rope: rope(1e4, Some(6), long), window: window(64, &[1], None), ..base() },
        ),
        ("a rotation stretched by the session's length", ModelSpec { rope: rope(1e4, None, dynamic), ..base() }),
    ]
}
