//! The parsers of untrusted bytes, for tests that have bytes and no folder. Not part of the public API.

use crate::encode::Encoder;
use crate::error::{Problems, Result};
use crate::hf::checkpoint::{Checkpoint, SINGLE};
use crate::hf::config::{Config, Model};
use crate::hf::families::FAMILIES;
use crate::hf::hints::hint;
use crate::hf::names;
use crate::hf::shard::Shard;
use crate::report::Watch;
use nanoserve_format::{Encoding, ModelSpec, schema};
use std::sync::atomic::AtomicBool;

/// The model that a config.json describes.
///
/// # Errors
/// All its problems at once.
pub fn config(bytes: &[u8]) -> Result<ModelSpec> {
    let problems = Problems::new(hint);
    let model = Config::parse(bytes, &problems).and_then(|config| config.resolve(&problems));
    problems.none()?;
    Ok(model.expect("where there is no problem, there is a model").spec)
}

/// Reads a safetensors file, binds it to a model with the tensor layout of the first family that has the `class`, and
/// encodes every tensor; returns how many there are.
///
/// # Errors
/// All its problems at once.
///
/// # Panics
/// When the system has no memory for a copy of it.
pub fn safetensors(class: &str, spec: &ModelSpec, bytes: &[u8]) -> Result<usize> {
    let (problems, cancel, mut warnings) = (Problems::new(hint), AtomicBool::new(false), Vec::new());
    let mut map = memmap2::MmapMut::map_anon(bytes.len().max(1)).expect("memory for a small file");
    map[..bytes.len()].copy_from_slice(bytes);
    let map = map.make_read_only().expect("memory may be made read-only");
    let Some(shard) = Shard::of_map(SINGLE, map, &problems) else { return Err(problems.into_error()) };
    for (_, tensor) in &shard.tensors {
        // Inside the file, whatever the header says.
        assert!(shard.map.get(tensor.range.clone()).is_some());
    }
    let checkpoint = Checkpoint::of_shards(vec![shard], SINGLE, true, &problems);
    let family = FAMILIES.iter().find(|family| family.classes.contains(&class)).expect("a class of the table");
    let mut model = Model { spec: spec.clone(), family };
    let weights = names::bind(&checkpoint, &mut model, &problems, &mut warnings);
    problems.none()?;
    let shapes =
        schema::tensors(&model.spec).into_iter().filter_map(|(name, shape)| Some((weights.get(&name)?, shape)));
    for (weight, shape) in shapes {
        for encoding in Encoding::CHOICES {
            let encoder = Encoder::new(weight, &checkpoint.files, shape, encoding);
            encoder.check(&Watch { progress: &(), cancel: &cancel })?;
            let _ = (encoder.faults(), encoder.snr_db());
        }
    }
    Ok(weights.len())
}
