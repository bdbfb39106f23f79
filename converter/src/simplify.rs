//! Brings a description to its plainest form: equal models have equal descriptions, however their sources write them.

use nanoserve_format::ModelSpec;

/// Drops what changes nothing: a window that no session can outgrow, unless its own rotary embedding still tells its
/// layers apart, and the usual attention scale.
pub(crate) fn simplify(spec: &mut ModelSpec) {
    if let Some(window) = &mut spec.window {
        if window.rope.as_ref() == Some(&spec.rope) {
            window.rope = None;
        }
        if window.size >= spec.context_length && window.rope.is_none() {
            spec.window = None;
        }
    }
    spec.attn_scale = spec.attn_scale.filter(|&scale| scale != 1.0 / (spec.head_dim as f64).sqrt());
}
