//! Reads a Hugging Face checkpoint folder into an [`Input`].
//!
//! config.json says which model it is (config.rs, with one entry for each family in families.rs), safetensors files
//! hold the weights (shard.rs, checkpoint.rs) under names that the family gives them (names.rs), and further files
//! accompany them (sidecars.rs, tokens.rs, templates.rs, origin.rs). All of them are opened in one place (root.rs,
//! folder.rs). Everything specific to such a folder is in here; the rest of the crate knows only an [`Input`].

mod adapter;
mod checkpoint;
mod config;
mod families;
mod folder;
#[cfg(feature = "from-bytes")]
#[doc(hidden)]
pub mod from_bytes;
mod hints;
mod json;
mod layers;
mod names;
mod origin;
mod python_json;
mod refused;
#[cfg_attr(not(unix), path = "root_elsewhere.rs")]
mod root;
// The tests of the other hold it to the same.
#[cfg(all(unix, test))]
mod root_elsewhere;
mod rope;
mod shard;
mod sidecars;
mod strays;
mod templates;
#[cfg(test)]
mod tests;
mod tokens;
mod wanted;

pub use families::{Supported, SupportedFamily, supported};

use crate::Options;
use crate::error::{Problems, Result, What};
use crate::hashes::Hashes;
use crate::input::Input;
use crate::output;
use crate::report::Watch;
use checkpoint::{Checkpoint, Folder};
use config::{CONFIG, Config};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a conversion reads a file of this name, if a checkpoint has it. `name` is a path from the checkpoint's folder.
/// Weights and their index are other files: which of them are read depends on what there is.
pub fn reads(name: &str) -> bool {
    const ALWAYS: [&str; 9] = [
        CONFIG,
        sidecars::TOKENIZER,
        sidecars::TOKENIZER_CONFIG,
        sidecars::GENERATION,
        tokens::ADDED_TOKENS,
        tokens::SPECIAL_TOKENS,
        templates::FILE,
        adapter::CONFIG,
        origin::CARD,
    ];
    ALWAYS.contains(&name) || templates::is_further(name) || folder::is_plain(name) && origin::is_licence(name)
}

/// Reads the folder of these options, and checks the place of the output where the conversion `writes` one. Idle threads
/// begin to hash the sources.
///
/// # Errors
/// Every problem at once, or a cancellation.
pub(crate) fn open(options: &Options, writes: bool, hashes: &mut Hashes, watch: &Watch) -> Result<Input> {
    let (problems, mut warnings) = (Problems::new(hints::hint), Vec::new());

    // 1. What is in the folder?
    let Some(folder) = Folder::open(&options.source, &problems) else { return Err(problems.into_error()) };
    if adapter::refuse(&folder, &problems) && !checkpoint::is_in(&folder) {
        // Without a model beside it there is nothing else to say.
        return Err(problems.into_error());
    }
    let mut checkpoint = Checkpoint::open(&folder, &problems, &mut warnings);
    if let Some(checkpoint) = &mut checkpoint {
        checkpoint.leave_out(&options.leave_out, &problems, &mut warnings);
    }

    // 2. Which model is it?
    let config = read_config(&folder, &problems);
    let mut model = config.as_ref().and_then(|c| c.resolve(&problems));

    // 3. Is every tensor there, and nothing else?
    let weights = match (&checkpoint, &mut model) {
        (Some(checkpoint), Some(model)) => names::bind(checkpoint, model, &problems, &mut warnings),
        _ => BTreeMap::new(),
    };

    // 4. What accompanies the weights?
    let spec = model.map(|model| model.spec);
    let (shards, sound, read) = (checkpoint.as_ref(), problems.len() == 0, AtomicBool::new(false));
    let ((sidecars, problems), hashed) = rayon::join(
        || {
            let problems = problems;
            let sidecars = sidecars::read(&folder, config.as_ref(), spec.as_ref(), &problems, &mut warnings);
            read.store(true, Ordering::Relaxed);
            (sidecars, problems)
        },
        || {
            // A checkpoint with problems needs no hashes.
            let Some(checkpoint) = shards.filter(|_| sound) else { return Ok(()) };
            hashes.files(&checkpoint.files, |_| {
                watch.go_on()?;
                Ok(!read.load(Ordering::Relaxed))
            })
        },
    );
    hashed?;
    let shards = checkpoint.iter().flat_map(|c| &c.files).map(|file| file.name.clone());
    let sources: Vec<String> = folder.names().into_iter().chain(shards).collect();
    let names = sources.iter().map(String::as_str);
    let origin = origin::read(&folder, config.as_ref(), names, &problems, &mut warnings);
    if writes {
        let paths = sources.iter().map(|name| (name.clone(), folder.path.join(name)));
        output::check(&options.output, options.force, &nanoserve_format::MAGIC, paths, &problems);
    }
    let (Some(checkpoint), Some(spec)) = (checkpoint, spec) else { return Err(problems.into_error()) };
    problems.none()?;
    let mut files = checkpoint.files;
    files.extend(folder.into_files());
    Ok(Input { spec, weights, sidecars, files, origin, warnings })
}

fn read_config(folder: &Folder, problems: &Problems) -> Option<Config> {
    let before = problems.len();
    let Some(bytes) = folder.read(CONFIG, problems) else {
        if problems.len() == before {
            problems.file(CONFIG, What::FileMissing { found: String::new() });
        }
        return None;
    };
    Config::parse(&bytes, problems)
}
