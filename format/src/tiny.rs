//! A tiny model for this crate's tests.

use crate::{Encoding, FormatError, ModelSpec, Plan, Writer};
use std::path::Path;

/// Its description.
pub fn spec() -> ModelSpec {
    ModelSpec {
        hidden_size: 8,
        intermediate_size: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 4,
        vocab_size: 32,
        tied_lm_head: true,
        ..ModelSpec::default()
    }
}

/// A plan of it, in f32.
pub fn plan() -> Plan {
    Plan::new(spec(), Encoding::F32).unwrap()
}

/// Writes a file; every byte of a stored tensor is what `byte` says for its index.
pub fn write(path: &Path, plan: Plan, byte: fn(usize) -> u8) {
    let mut writer = Writer::create(path, plan).unwrap();
    for index in writer.stored() {
        let filled = |_, out: &mut [u8]| {
            out.fill(byte(index));
            Ok::<(), FormatError>(())
        };
        writer.write(index, filled).unwrap();
    }
    writer.finish().unwrap();
}
