//! The most memory that a sequence, a step or a copy of a file takes, checked against what is free before any work
//! starts.

use crate::backend::room::{Room, admit};
use crate::backend::{KvShape, KvType};
use crate::error::{MemoryUse, Result};
use nanoserve_format::{FileAction, FormatError, ModelSpec};
use std::fs;
use std::path::Path;

/// The most bytes that a sequence takes: its KV cache, its RoPE tables, and a step of `chunk` tokens.
pub fn sequence_bytes(spec: &ModelSpec, capacity: usize, kv_type: KvType, chunk: usize) -> u128 {
    let cache = KvShape::new(spec, capacity, kv_type).bytes();
    // Cosines and sines in f32. Their vectors double when they grow: for a moment the old one and one of twice its
    // length both exist.
    let local = spec.window.as_ref().and_then(|window| window.rope.as_ref());
    let ropes = std::iter::once(&spec.rope).chain(local);
    let widths: u128 = ropes.map(|rope| rope.rotary_dim(spec.head_dim) as u128).sum();
    let angles = 3 * 4 * capacity as u128 * widths;
    cache + angles + step_bytes(spec, capacity.min(chunk), 1)
}

/// The most bytes that a step of `tokens` tokens and `logits` rows of logits takes: the buffers of the forward pass,
/// the input of a matrix product, and the logits.
pub fn step_bytes(spec: &ModelSpec, tokens: usize, logits: usize) -> u128 {
    let [hidden, q, kv, intermediate] =
        [spec.hidden_size, spec.q_size(), spec.kv_size(), spec.widest_feed_forward()].map(|n| n as u128);
    let buffers = 3 * hidden + 2 * q + 2 * kv + intermediate;
    let input = hidden.max(q).max(intermediate);
    // Logits count twice: the caller gets a copy.
    4 * (tokens as u128 * (buffers + input) + 2 * logits as u128 * spec.vocab_size as u128)
}

/// Ok if there is memory for a sequence of `capacity` positions. `room` None: unknown, so everything is admitted.
pub(crate) fn admit_sequence(
    spec: &ModelSpec,
    capacity: usize,
    kv_type: KvType,
    chunk: usize,
    room: Option<Room>,
) -> Result<()> {
    // `Sequence::new` reports this with its own error.
    if capacity > spec.context_length {
        return Ok(());
    }
    let what = || MemoryUse::Context { positions: capacity, element: kv_type.bytes() };
    admit(sequence_bytes(spec, capacity, kv_type, chunk), room, what)
}

/// Ok if there is memory for a step of `tokens` tokens and `logits` rows of logits.
pub(crate) fn admit_step(spec: &ModelSpec, tokens: usize, logits: usize, room: Option<Room>) -> Result<()> {
    let what = || MemoryUse::Step { tokens, all_logits: logits > 1 };
    admit(step_bytes(spec, tokens, logits), room, what)
}

/// Ok if there is memory for a copy of the file.
pub(crate) fn admit_copy(path: &Path) -> Result<()> {
    let failed = |source| FormatError::Io { path: path.to_path_buf(), action: FileAction::Open, source };
    let need = fs::metadata(path).map_err(failed)?.len();
    admit(need.into(), Room::now(0), || MemoryUse::Copy { path: path.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::DEFAULT_CHUNK;
    use crate::error::{Limit, RuntimeError};

    #[test]
    fn a_refusal_has_both_figures() {
        let spec = ModelSpec {
            hidden_size: 2048,
            intermediate_size: 8192,
            n_layers: 16,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            vocab_size: 128_256,
            context_length: 1 << 28,
            ..ModelSpec::default()
        };
        let room = Room { bytes: 2_500_000_000, limit: Limit::Machine };
        admit_sequence(&spec, 16, KvType::F16, DEFAULT_CHUNK, Some(room)).unwrap();
        admit_sequence(&spec, 1 << 28, KvType::F16, DEFAULT_CHUNK, None).unwrap();
        let error = admit_sequence(&spec, 1 << 20, KvType::F32, DEFAULT_CHUNK, Some(room)).unwrap_err();
        // 68.7 GB of keys and values, 0.8 GB of RoPE tables, and a step.
        assert_eq!(
            error.to_string(),
            "a context of 1048576 positions, keys and values in f32, needs 69.55 GB, this process can get 2.50 GB (what \
             the machine has free)"
        );
        let error = admit_step(&spec, 1 << 24, 1, Some(room)).unwrap_err();
        let step = MemoryUse::Step { tokens: 1 << 24, all_logits: false };
        assert!(matches!(error, RuntimeError::Memory { what, .. } if what == step));
    }

    #[test]
    fn no_numbers_of_a_model_overflow() {
        let (most, wide) = (1 << 28, 1 << 16);
        let spec = ModelSpec {
            hidden_size: most,
            intermediate_size: most,
            n_layers: wide,
            n_heads: wide,
            n_kv_heads: wide,
            head_dim: 1 << 12,
            vocab_size: most,
            context_length: most,
            ..ModelSpec::default()
        };
        spec.check().unwrap();
        let error = admit_sequence(
            &spec,
            most,
            KvType::F32,
            DEFAULT_CHUNK,
            Some(Room { bytes: u64::MAX, limit: Limit::Machine }),
        );
        let error = error.unwrap_err();
        assert!(matches!(error, RuntimeError::Memory { need: u64::MAX, .. }), "{error}");
        assert!(error.to_string().contains("more than 18 EB"), "{error}");
    }
}
