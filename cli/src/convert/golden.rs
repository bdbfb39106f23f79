//! The last step of a conversion: the new file runs, and its answers are kept in it. This is done here because the
//! converter does not know the runtime.

use super::Arguments;
use nanoserve_format::{Golden, SectionKind};
use nanoserve_runtime::diagnose::verify::Reference;
use nanoserve_runtime::engine::load::{self, Load};
use nanoserve_runtime::{RuntimeError, diagnose::selftest};
use std::error::Error;
use std::path::Path;

/// The sections with the new file's own answers and, if there is a reference, with the reference's.
pub fn last_step(
    path: &Path,
    args: &Arguments,
    reference: Option<&Reference>,
) -> Result<Vec<(SectionKind, Golden)>, Box<dyn Error + Send + Sync>> {
    let file = load::open(path, Load::Map, false)?;
    let mut sections = vec![(SectionKind::Golden, selftest::golden(&file, args.threads.map(usize::from))?)];
    if let (Some(reference), Some(path)) = (reference, &args.golden) {
        let (ids, logits) = (&reference.input_ids, &reference.activations["logits"]);
        let vocab_size = file.spec().vocab_size;
        let refused = |cause: String| RuntimeError::Reference { path: path.display().to_string(), cause };
        if ids.is_empty() || logits.len() != ids.len() * vocab_size {
            let cause = format!("its logits are not [{}, {vocab_size}], as this model's would be", ids.len());
            return Err(refused(cause).into());
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).display();
        let made_by = format!("{name}, BLAKE3 {}", blake3::hash(&std::fs::read(path)?).to_hex());
        let kept = selftest::reference(made_by, ids, logits);
        kept.check_reference().map_err(refused)?;
        sections.push((SectionKind::Reference, kept));
    }
    Ok(sections)
}
