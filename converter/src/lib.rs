//! A Hugging Face checkpoint folder to one `.nsv` file.
//!
//! [`convert`] goes six steps: look into the folder, understand `config.json`, find every tensor, read what stands beside
//! the weights, encode, and give the file its name. The first four, [`Source::open`](source::Source::open), note everything
//! that is wrong before anything is written; the fifth finds what is wrong with the weights themselves, and then drops
//! the file, which has no name yet. The checkpoint is mapped, never read whole.
//!
//! ```no_run
//! use nanoserve_converter::{Options, convert};
//! use nanoserve_format::Encoding;
//! use std::sync::atomic::AtomicBool;
//!
//! let options = Options::new("weights/demo", "demo.nsv", Encoding::Q8);
//! let report = convert(&options, &(), &AtomicBool::new(false))?;
//! println!("{} tensors, {:.2} bits a weight", report.tensors, report.bits_per_weight);
//! # Ok::<(), nanoserve_converter::ConvertError>(())
//! ```
//!
//! The trap: the same sources and options give the same bytes whatever the number of threads, the day or the folder.
//! Anything new that goes into the file has to keep that.

mod check;
mod checkpoint;
mod config;
#[cfg(feature = "door")]
#[doc(hidden)]
pub mod door;
mod encode;
mod error;
mod families;
mod json;
mod layers;
#[allow(unsafe_code)]
mod map;
mod names;
mod origin;
mod report;
mod rope;
mod shard;
mod sidecars;
mod source;
mod templates;
#[cfg(test)]
mod tests;
mod vocab;

pub use check::{Comparison, Difference, compare};
pub use error::{ConvertError, Problem, Result, What};
pub use families::{Supported, SupportedFamily, supported};
pub use report::{Progress, Report, Step, TensorSnr, Warning};
pub use vocab::compile_tokenizer;

use encode::Encoder;
use error::Problems;
use names::Bound;
use nanoserve_format::{Encoding, Golden, Plan, SectionKind, Writer};
use report::Watch;
use sidecars::Hashes;
use source::Source;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use vocab::Compiled;

/// What to convert, and how. More fields will come: start with [`Options::new`] and set what is to be otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The checkpoint folder.
    pub source: PathBuf,
    /// The file to write; replaced in one step when it exists.
    pub output: PathBuf,
    /// How every matrix is stored; norms and biases stay f32.
    pub encoding: Encoding,
    /// Threads; as many as the system says when None.
    pub threads: Option<usize>,
    /// Note the SHA-256 of the sources too: one thread, at one or two GB/s.
    pub sha256: bool,
    /// Do everything, encoding and the reservation of disk space included, but leave no file.
    pub dry_run: bool,
}

impl Options {
    /// A conversion on as many threads as the system says, which notes no SHA-256 and writes the file.
    pub fn new(source: impl Into<PathBuf>, output: impl Into<PathBuf>, encoding: Encoding) -> Options {
        let (source, output) = (source.into(), output.into());
        Options { source, output, encoding, threads: None, sha256: false, dry_run: false }
    }
}

/// Converts a checkpoint. Setting `cancel` stops it within milliseconds, up to the last step, which is not interrupted.
///
/// # Errors
/// Every problem of the input at once, a cancellation, or what the system said. Nothing is left behind then: what was
/// under the output's name before is still there.
pub fn convert(options: &Options, progress: &dyn Progress, cancel: &AtomicBool) -> Result<Report> {
    convert_with(options, progress, cancel, None)
}

/// Asked for the answers of a file that is whole but for them, by its temporary name: what it returns goes into the file
/// as the sections [`SectionKind::Golden`] and [`SectionKind::Reference`]. This crate runs no model; who calls it may.
pub type LastStep<'a> = &'a (dyn Fn(&Path) -> Result<Vec<(SectionKind, Golden)>, Box<dyn Error + Send + Sync>> + Sync);

/// As [`convert`], with a last step.
///
/// # Errors
/// As [`convert`], and the last step's own.
pub fn convert_with(
    options: &Options,
    progress: &dyn Progress,
    cancel: &AtomicBool,
    last: Option<LastStep>,
) -> Result<Report> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build()?;
    pool.install(|| run(options, &Watch { progress, cancel }, last))
}

fn run(options: &Options, watch: &Watch, last: Option<LastStep>) -> Result<Report> {
    let started = Instant::now();
    // 1 to 4. What is to be converted?
    let mut hashes = Hashes::new(options.sha256);
    let Source { folder, checkpoint, spec, bound, sidecars, origin, mut warnings } =
        Source::open(&options.source, Some(&options.output), &mut hashes, watch)?;

    // 5. Every weight, encoded; at the same time the sources' hashes and the tokenizer, compiled.
    let mut plan = Plan::new(spec, options.encoding)?;
    let tensors = plan.tensors().to_vec();
    sidecars.add_to(&mut plan);
    let mut writer = Writer::create(&options.output, plan)?;
    let stored = writer.stored();
    let small = folder.files();
    let weights = bound.values().map(|b| b.values(&checkpoint).bytes.len()).sum::<usize>();
    watch.begin(Step::Encode, (weights + hashes.left(&folder, &checkpoint)) as u64);
    let encode = || -> Result<Option<TensorSnr>> {
        let (problems, mut worst) = (Problems::default(), None::<TensorSnr>);
        for &index in &stored {
            let (name, shape, encoding) = &tensors[index];
            let from @ Bound { key, tensor, .. } = &bound[name];
            let encoder = Encoder::new(from.values(&checkpoint), *shape, *encoding);
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
                worst = Some(TensorSnr { tensor: name.clone(), db });
            }
        }
        problems.none().map(|()| worst)
    };
    let recipe = recipe(options.encoding, options.sha256);
    let provenance = || hashes.provenance(recipe, origin, &small, &checkpoint, watch);
    let beside = || rayon::join(|| sidecars.compile(), provenance);
    let ((compiled, provenance), worst) = rayon::join(beside, encode);
    let worst = worst?;
    let (compiled, vectors) = compiled;
    match compiled {
        Compiled::Section(section) => writer.section(SectionKind::Vocabulary, section),
        Compiled::Different(text) => warnings.push(Warning::VocabularyDiffers { text }),
        Compiled::Other => {}
    }
    if let Some(vectors) = vectors {
        writer.json(SectionKind::TokenizerVectors, &vectors);
    }
    writer.json(SectionKind::Provenance, &provenance?);

    // 6. The file answers for itself, and gets its name.
    watch.go_on()?;
    watch.begin(Step::Finish, 0);
    if let (Some(last), false) = (last, options.dry_run) {
        let (path, _) = writer.seal()?;
        for (kind, section) in last(path).map_err(ConvertError::LastStep)? {
            writer.json(kind, &section);
        }
    }
    let bytes = writer.file_len();
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

/// The options that shape a file, as they are given on the command line.
fn recipe(encoding: Encoding, sha256: bool) -> String {
    format!("--dtype {encoding}{}", if sha256 { " --sha256" } else { "" })
}
