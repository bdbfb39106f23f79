//! A GGUF file from bytes, for tests that have no file. Not part of the public API.

use crate::encode::Encoder;
use crate::error::{Problems, Result};
use crate::gguf::{hints, input, open};
use crate::report::Watch;
use nanoserve_format::{Encoding, Shape, schema};
use std::sync::atomic::AtomicBool;

/// Reads a GGUF file, and encodes every tensor: as it is where that can be, and in q8. Returns how many there are.
///
/// # Errors
/// All its problems at once.
pub fn gguf(bytes: &[u8]) -> Result<usize> {
    let problems = Problems::new(hints::hint);
    let Some(opened) = open::of_bytes(bytes, &problems) else { return Err(problems.into_error()) };
    let input = input(opened, None, &[], problems)?;
    let cancel = AtomicBool::new(false);
    let watch = Watch { progress: &(), cancel: &cancel };
    for (name, shape) in schema::tensors(&input.spec) {
        let Some(weight) = input.weights.get(&name) else { continue };
        let matrix = matches!(shape, Shape::Matrix(..));
        let exact = if matrix { weight.exact_encoding(&input.files) } else { None };
        for encoding in exact.into_iter().chain([Encoding::Q8]) {
            let encoder = Encoder::new(weight, &input.files, shape, encoding);
            encoder.check(&watch)?;
            let _ = (encoder.faults(), encoder.snr_db());
        }
    }
    Ok(input.weights.len())
}
