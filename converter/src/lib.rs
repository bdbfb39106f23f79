//! A Hugging Face checkpoint folder to one `.nsv` file.
//!
//! [`convert`] goes six steps: look into the folder, understand `config.json`, find every tensor, read what stands beside
//! the weights, encode, and give the file its name. The first four note everything that is wrong before anything is
//! written; the fifth finds what is wrong with the weights themselves, and then drops the file, which has no name yet.
//! The checkpoint is mapped, never read whole.
//!
//! ```no_run
//! use nanoserve_converter::{Options, convert};
//! use nanoserve_format::Encoding;
//! use std::sync::atomic::AtomicBool;
//!
//! let options = Options {
//!     source: "weights/demo".into(),
//!     output: "demo.nsv".into(),
//!     encoding: Encoding::Q8,
//!     threads: None,
//!     dry_run: false,
//! };
//! let report = convert(&options, &(), &AtomicBool::new(false))?;
//! println!("{} tensors, {:.2} bits a weight", report.tensors, report.bits_per_weight);
//! # Ok::<(), nanoserve_converter::ConvertError>(())
//! ```
//!
//! The trap: the same sources and options give the same bytes whatever the number of threads, the day or the folder.
//! Anything new that goes into the file has to keep that.

mod checkpoint;
mod config;
#[cfg(feature = "door")]
#[doc(hidden)]
pub mod door;
mod encode;
mod error;
mod json;
#[allow(unsafe_code)]
mod map;
mod names;
mod report;
mod shard;
mod sidecars;
#[cfg(test)]
mod tests;
mod vocab;

pub use error::{ConvertError, Problem, Result, What};
pub use report::{Progress, Report, Step, TensorSnr, Warning};
pub use vocab::compile_tokenizer;

use checkpoint::{Checkpoint, Folder};
use config::{CONFIG, Config};
use encode::Encoder;
use error::Problems;
use names::Bound;
use nanoserve_format::{Encoding, Plan, SectionKind, Writer};
use report::Watch;
use sidecars::Sidecars;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What to convert, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The checkpoint folder.
    pub source: PathBuf,
    /// The file to write; replaced in one step when it exists.
    pub output: PathBuf,
    /// How every matrix is stored; norms and biases stay f32.
    pub encoding: Encoding,
    /// Threads; as many as the system says when None.
    pub threads: Option<usize>,
    /// Do everything, encoding and the reservation of disk space included, but leave no file.
    pub dry_run: bool,
}

/// Converts a checkpoint. Setting `cancel` stops it within milliseconds, up to the last step, which is not interrupted.
///
/// # Errors
/// Every problem of the input at once, a cancellation, or what the system said. Nothing is left behind then: what was
/// under the output's name before is still there.
pub fn convert(options: &Options, progress: &dyn Progress, cancel: &AtomicBool) -> Result<Report> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build()?;
    pool.install(|| run(options, &Watch { progress, cancel }))
}

fn run(options: &Options, watch: &Watch) -> Result<Report> {
    let started = Instant::now();
    let (problems, mut warnings) = (Problems::default(), Vec::new());

    // 1. What is in the folder?
    let Some(folder) = Folder::open(&options.source, &problems) else { return Err(problems.into_error()) };
    let checkpoint = Checkpoint::open(&folder, &problems, &mut warnings);

    // 2. Which model is it?
    let config = read_config(&folder, &problems);
    let mut spec = config.as_ref().and_then(|c| c.resolve(&problems));

    // 3. Is every tensor there, and nothing else?
    let bound = match (&checkpoint, &mut spec) {
        (Some(checkpoint), Some(spec)) => names::bind(checkpoint, spec, &problems, &mut warnings),
        _ => BTreeMap::new(),
    };

    // 4. What stands beside the weights?
    let sidecars = Sidecars::read(&folder, config.as_ref(), spec.as_ref(), &problems, &mut warnings);
    check_output(&options.output, &folder, checkpoint.as_ref(), &problems);
    let (Some(checkpoint), Some(spec)) = (checkpoint, spec) else { return Err(problems.into_error()) };
    problems.none()?;

    // 5. Every weight, encoded.
    let mut plan = Plan::new(spec, options.encoding)?;
    let tensors = plan.tensors().to_vec();
    add_sections(&mut plan, options, &folder, &checkpoint, sidecars, watch)?;
    let mut writer = Writer::create(&options.output, plan)?;
    let (stored, bytes) = (writer.stored(), writer.file_len());
    let encoders = stored.iter().map(|&index| {
        let (name, shape, encoding) = &tensors[index];
        let Bound { key, tensor } = &bound[name];
        (index, tensor, key, Encoder::new(tensor.info.dtype, checkpoint.bytes(tensor), *shape, *encoding))
    });
    watch.begin(Step::Encode, bound.values().map(|b| b.tensor.info.range.len() as u64).sum());
    let mut worst: Option<TensorSnr> = None;
    for (index, tensor, key, encoder) in encoders {
        // After the first problem there will be no file, and only the other problems are of interest.
        if options.dry_run || problems.len() > 0 {
            encoder.check(watch)?;
        } else {
            writer.write(index, |pieces, out| encoder.fill(pieces, out, watch))?;
        }
        for fault in encoder.faults() {
            problems.tensor(checkpoint.file(tensor), key, fault);
        }
        if let Some(db) = encoder.snr_db().filter(|&db| worst.as_ref().is_none_or(|w| db < w.db)) {
            worst = Some(TensorSnr { tensor: tensors[index].0.clone(), db });
        }
    }
    problems.none()?;

    // 6. The file gets its name.
    watch.go_on()?;
    watch.begin(Step::Finish, 0);
    let root = if options.dry_run { None } else { Some(writer.finish()?.root) };
    let size = |f: fn(&(String, nanoserve_format::Shape, Encoding)) -> Option<usize>| -> u64 {
        stored.iter().filter_map(|&i| f(&tensors[i])).map(|n| n as u64).sum()
    };
    let (parameters, weight_bytes) = (size(|t| t.1.elements()), size(|t| t.1.bytes(t.2)));
    Ok(Report {
        file: options.output.clone(),
        bytes,
        tensors: tensors.len(),
        parameters,
        bits_per_weight: weight_bytes as f64 * 8.0 / parameters as f64,
        time: started.elapsed(),
        worst_snr: worst,
        root,
        warnings,
    })
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

fn add_sections(
    plan: &mut Plan,
    options: &Options,
    folder: &Folder,
    checkpoint: &Checkpoint,
    sidecars: Sidecars,
    watch: &Watch,
) -> Result<()> {
    if let Some(tokenizer) = sidecars.tokenizer {
        plan.section(SectionKind::Tokenizer, tokenizer);
    }
    if let Some(vocabulary) = sidecars.vocabulary {
        plan.section(SectionKind::Vocabulary, vocabulary);
    }
    if let Some(template) = sidecars.template {
        plan.section(SectionKind::ChatTemplate, template.into_bytes());
    }
    plan.json(SectionKind::Generation, &sidecars.generation);
    let recipe = format!("--dtype {}", options.encoding);
    plan.json(SectionKind::Provenance, &sidecars::provenance(recipe, folder, checkpoint, watch)?);
    Ok(())
}
