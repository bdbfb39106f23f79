//! Reads a GGUF file, or the shards of one, into an [`Input`].
//!
//! container.rs reads bytes that nobody vouches for; keys.rs gives its metadata by name. architectures.rs has one entry for
//! each architecture; model.rs and rope.rs make the description, tensors.rs finds the weights, origin.rs says where they
//! come from. Everything specific to GGUF is in here, and in blocks/ what its types of tensors are; the rest of the crate
//! knows only an [`Input`].

mod architectures;
mod container;
mod export;
#[cfg(feature = "from-bytes")]
#[doc(hidden)]
pub mod from_bytes;
mod hints;
mod keys;
mod kinds;
mod model;
mod open;
mod origin;
mod rope;
mod sidecars;
mod tensors;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use export::{Exported, export};
pub use open::{gguf_shards, is_gguf};

use crate::Options;
use crate::error::{Problems, Result};
use crate::input::{Input, SourceFile};
use crate::output;
use crate::report::Warning;
use keys::Keys;
use nanoserve_format::MAGIC;
use open::Opened;
use tensors::Tensors;

/// Beginnings of keys that do not change the model.
const OTHERS: [&str; 5] = ["general.", "tokenizer.", "quantize.", "split.", "imatrix."];

/// Reads the file of these options, and checks the place of the output where the conversion `writes` one.
///
/// # Errors
/// Every problem at once.
pub(crate) fn open(options: &Options, writes: bool) -> Result<Input> {
    let problems = Problems::new(hints::hint);
    let Some(opened) = open::open(&options.source, &problems) else { return Err(problems.into_error()) };
    let given = options.tokenizer.as_deref().and_then(|path| open::tokenizer(path, &problems));
    if writes {
        output::check(&options.output, options.force, &MAGIC, opened.paths.iter().cloned(), &problems);
    }
    input(opened, given, &options.leave_out, problems)
}

/// The input that opened files are. `given` is a tokenizer.json in place of their own.
fn input(opened: Opened, given: Option<SourceFile>, leave_out: &[String], problems: Problems) -> Result<Input> {
    let (Opened { files, mut headers, .. }, mut warnings) = (opened, Vec::new());
    let each = headers.iter_mut().enumerate();
    let each: Vec<_> =
        each.flat_map(|(file, h)| std::mem::take(&mut h.tensors).into_iter().map(move |t| (file, t))).collect();
    let mut tensors = Tensors::new(&files, each.into_iter(), &problems);
    tensors.leave_out(leave_out, &problems, &mut warnings);

    // Which model is it, and is every tensor there, and nothing else?
    let keys = Keys::new(&files[0].name, &headers[0], &files[0].bytes, &problems);
    let model = model::read(&keys, &tensors, &problems);
    let weights = model.as_ref().map(|model| tensors.bind(model, &problems));

    // What accompanies the weights?
    let json = given.as_ref().map(|file| &*file.bytes);
    let sidecars = sidecars::read(&keys, json, model.as_ref().map(|m| &m.spec), &problems, &mut warnings);
    let origin = origin::read(&keys, &mut warnings);
    not_read(&keys, &mut warnings);
    let (Some(model), Some(weights)) = (model, weights) else { return Err(problems.into_error()) };
    problems.none()?;
    drop((keys, tensors));
    let files = files.into_iter().chain(given).collect();
    Ok(Input { spec: model.spec, weights, sidecars, files, origin, warnings })
}

/// Warns of metadata that nobody has read. The model's own is refused before.
fn not_read(keys: &Keys, warnings: &mut Vec<Warning>) {
    let unread = keys.unread().map(|(key, _)| key);
    let odd: Vec<&str> = unread.filter(|key| !OTHERS.iter().any(|start| key.starts_with(start))).collect();
    let own = keys.own("");
    let odd: Vec<&str> = odd.into_iter().filter(|key| !key.starts_with(&own)).collect();
    if let Some(first) = odd.first() {
        warnings.push(Warning::KeysNotRead { count: odd.len(), first: first.to_string() });
    }
}
