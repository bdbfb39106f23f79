//! What is to be converted: everything about a folder that can be known, and be wrong, before the weights are read.

use crate::checkpoint::{Checkpoint, Folder};
use crate::config::{CONFIG, Config};
use crate::error::{Problems, Result, What};
use crate::names::{self, Bound};
use crate::origin;
use crate::report::{Warning, Watch};
use crate::sidecars::{Hashes, Sidecars};
use nanoserve_format::{ModelSpec, Provenance};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A checkpoint with nothing wrong in it but, perhaps, values of weights.
pub(crate) struct Source {
    /// Where it is, and the small files that were read.
    pub folder: Folder,
    /// The weights.
    pub checkpoint: Checkpoint,
    /// The model.
    pub spec: ModelSpec,
    /// Every tensor of the model by its canonical name.
    pub bound: BTreeMap<String, Bound>,
    /// What stands beside the weights.
    pub sidecars: Sidecars,
    /// Where it says it comes from.
    pub origin: Provenance,
    /// What somebody may want to know.
    pub warnings: Vec<Warning>,
}

impl Source {
    /// Looks at a folder, and at the place of the output where there is to be one. Threads that have nothing else to do
    /// begin with the sources' hashes.
    ///
    /// # Errors
    /// Every problem there is, at once; or a cancellation.
    pub fn open(path: &Path, output: Option<&Path>, hashes: &mut Hashes, watch: &Watch) -> Result<Source> {
        let (problems, mut warnings) = (Problems::default(), Vec::new());

        // 1. What is in the folder?
        let Some(folder) = Folder::open(path, &problems) else { return Err(problems.into_error()) };
        let checkpoint = Checkpoint::open(&folder, &problems, &mut warnings);

        // 2. Which model is it?
        let config = read_config(&folder, &problems);
        let mut model = config.as_ref().and_then(|c| c.resolve(&problems));

        // 3. Is every tensor there, and nothing else?
        let bound = match (&checkpoint, &mut model) {
            (Some(checkpoint), Some(model)) => names::bind(checkpoint, model, &problems, &mut warnings),
            _ => BTreeMap::new(),
        };

        // 4. What stands beside the weights?
        let spec = model.map(|model| model.spec);
        let (shards, sound, read) = (checkpoint.as_ref(), problems.len() == 0, AtomicBool::new(false));
        let ((sidecars, problems), hashed) = rayon::join(
            || {
                let problems = problems;
                let sidecars = Sidecars::read(&folder, config.as_ref(), spec.as_ref(), &problems, &mut warnings);
                read.store(true, Ordering::Relaxed);
                (sidecars, problems)
            },
            || {
                // For a checkpoint with problems nobody wants them.
                let Some(checkpoint) = shards.filter(|_| sound) else { return Ok(()) };
                hashes.shards(checkpoint, |_| {
                    watch.go_on()?;
                    Ok(!read.load(Ordering::Relaxed))
                })
            },
        );
        hashed?;
        let shards = checkpoint.iter().flat_map(|c| &c.shards).map(|s| s.name.as_str());
        let small = folder.files();
        let sources = small.keys().map(String::as_str).chain(shards);
        let origin = origin::read(&folder, config.as_ref(), sources, &problems, &mut warnings);
        if let Some(output) = output {
            check_output(output, &folder, checkpoint.as_ref(), &problems);
        }
        let (Some(checkpoint), Some(spec)) = (checkpoint, spec) else { return Err(problems.into_error()) };
        problems.none()?;
        Ok(Source { folder, checkpoint, spec, bound, sidecars, origin, warnings })
    }
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

/// Notes what stands in the way of the output.
fn check_output(output: &Path, source: &Folder, checkpoint: Option<&Checkpoint>, problems: &Problems) {
    let place = |got: String| problems.file(output.display().to_string(), What::OutputPlace { got });
    if output.file_name().is_none() || fs::metadata(output).is_ok_and(|m| m.is_dir()) {
        return place("it names a folder".to_string());
    }
    let folder = output.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
    match fs::metadata(folder) {
        Ok(m) if m.is_dir() => {}
        Ok(_) => return place(format!("{} is not a folder", folder.display())),
        Err(e) => return place(format!("the folder {}: {e}", folder.display())),
    }
    // By identity, not by name: links lead to one file too.
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let Some(existing) = identity(output) else { return };
    let shards = checkpoint.into_iter().flat_map(|c| &c.shards).map(|shard| shard.name.clone());
    for source_file in source.files().into_keys().chain(shards) {
        if identity(&source.path.join(&source_file)) == Some(existing) {
            problems.file(output.display().to_string(), What::OutputIsSource { source_file });
        }
    }
}
