//! Converts a checkpoint folder to one `.nsv` file.
//!
//! [`convert`] takes six steps: look into the folder, understand what it says about the model, find every tensor, read
//! what accompanies the weights, encode, and give the file its name. `hf` does the first four, because it alone knows
//! such a folder: it notes every problem before anything is written, and returns an `Input` (input.rs). The other two
//! read only that `Input`. The fifth finds bad values in the weights; the file, which has no name yet, is then dropped.
//! The checkpoint is mapped, never read whole.
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
//! Anything new in the file must keep that.

mod blocks;
mod check;
mod dtype;
mod encode;
mod error;
mod files;
mod gguf;
mod hashes;
mod hf;
mod input;
mod leave_out;
#[allow(unsafe_code)]
mod map;
mod output;
mod report;
mod sidecars;
mod simplify;
#[cfg(test)]
mod tests;
mod vocab;
mod vocab_form;

pub use check::{Comparison, Difference, compare};
pub use dtype::Dtype;
pub use error::{ConvertError, Problem, Result, What};
#[cfg(feature = "from-bytes")]
#[doc(hidden)]
pub use gguf::from_bytes::gguf as gguf_from_bytes;
pub use gguf::{Exported, export, gguf_shards, is_gguf};
#[cfg(feature = "from-bytes")]
#[doc(hidden)]
pub use hf::from_bytes;
pub use hf::{Supported, SupportedFamily, reads, supported};
pub use report::{Progress, Report, Step, TensorSnr, Warning};
pub use vocab::compile_tokenizer;

use encode::Encoder;
use error::Problems;
use hashes::Hashes;
use input::{Input, SourceFile, Stored, Weight};
use nanoserve_format::{Encoding, Golden, Plan, Role, SectionKind, Shape, Writer};
use report::Watch;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use vocab::Compilation;

/// What to convert, and how. More fields will come: start with [`Options::new`] and set what is to be otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The checkpoint folder.
    pub source: PathBuf,
    /// The file to write; it is replaced in one step if it exists.
    pub output: PathBuf,
    /// How matrices are stored; norms and biases stay f32.
    pub dtype: Dtype,
    /// Number of threads; None means as many as the system has.
    pub threads: Option<usize>,
    /// Record the SHA-256 of the sources too: this takes one thread, at one or two GB/s.
    pub sha256: bool,
    /// Tensors that are not wanted, by patterns of their names: `*` is any characters, `?` one, `[ab]` a or b. One that the
    /// model needs is then missing.
    pub leave_out: Vec<String>,
    /// For a GGUF file: a tokenizer.json to take in place of the tokenizer that its metadata describes. A folder has its own.
    pub tokenizer: Option<PathBuf>,
    /// Replace a file at `output` that is no model.
    pub force: bool,
    /// Do everything, encoding and the reservation of disk space included, but leave no file.
    pub dry_run: bool,
}

impl Options {
    /// A conversion on as many threads as the system says, which notes no SHA-256 and writes the file.
    pub fn new(source: impl Into<PathBuf>, output: impl Into<PathBuf>, dtype: impl Into<Dtype>) -> Options {
        let (source, output) = (source.into(), output.into());
        let (dtype, leave_out) = (dtype.into(), Vec::new());
        Options {
            source,
            output,
            dtype,
            threads: None,
            sha256: false,
            leave_out,
            tokenizer: None,
            force: false,
            dry_run: false,
        }
    }
}

/// Converts a checkpoint. Setting `cancel` stops it within milliseconds, except in the last step, which always ends.
///
/// # Errors
/// Every problem of the input at once, a cancellation, or an error of the system. Then nothing is left behind, and a
/// file that was there before stays.
pub fn convert(options: &Options, progress: &dyn Progress, cancel: &AtomicBool) -> Result<Report> {
    convert_with(options, progress, cancel, None)
}

/// Gets the temporary path of a file that is complete except for its answers, and returns these; they go into the file
/// as the sections [`SectionKind::Golden`] and [`SectionKind::Reference`]. This crate runs no model; its caller may.
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
    let watch = Watch { progress, cancel };
    pool.install(|| run(options, &watch, last, |hashes| open(options, true, hashes, &watch)))
}

/// Opens what there is at the source's path: a GGUF file or a checkpoint folder.
fn open(options: &Options, writes: bool, hashes: &mut Hashes, watch: &Watch) -> Result<Input> {
    if is_gguf(&options.source) {
        return gguf::open(options, writes);
    }
    if options.tokenizer.is_some() {
        let problems = Problems::default();
        problems.file(options.source.display().to_string(), What::OwnTokenizer);
        return Err(problems.into_error());
    }
    hf::open(options, writes, hashes, watch)
}

/// Converts the input that `open` returns; `open` may begin to hash its files.
fn run(
    options: &Options,
    watch: &Watch,
    last: Option<LastStep>,
    open: impl FnOnce(&mut Hashes) -> Result<Input>,
) -> Result<Report> {
    let started = Instant::now();
    // 1 to 4. What is to be converted?
    let mut hashes = Hashes::new(options.sha256);
    let input = open(&mut hashes)?;
    let source_bytes = input.weight_bytes() + hashes.left(&input.files);
    let Input { spec, weights, sidecars, files, origin, mut warnings } = input;

    // 5. Encode every weight; meanwhile, hash the sources and compile the tokenizer.
    let chosen = options.dtype.recipe();
    let (embedding, head) = (chosen.encoding(Role::Embedding), chosen.encoding(Role::Head));
    if spec.tied_lm_head && embedding != head {
        return Err(ConvertError::HeadTied { embedding, head });
    }
    let mut plan = Plan::new(spec, chosen)?;
    let made_by = match options.dtype {
        Dtype::Recipe(_) => Dtype::Recipe(plan.recipe()),
        Dtype::Source => {
            for (name, encoding) in exact_encodings(&plan, &weights, &files)? {
                plan.set_encoding(&name, encoding);
            }
            Dtype::Source
        }
    };
    let tensors = plan.tensors().to_vec();
    warnings.extend(rounded_again(&tensors, &weights, options.dtype));
    sidecars.add_to(&mut plan);
    let mut writer = Writer::create(&options.output, plan)?;
    let stored = writer.stored();
    watch.begin(Step::Encode, source_bytes as u64);
    let encode = || -> Result<Option<TensorSnr>> {
        let (problems, mut worst) = (Problems::default(), None::<TensorSnr>);
        for &index in &stored {
            let (name, shape, encoding) = &tensors[index];
            let weight = &weights[name];
            let encoder = Encoder::new(weight, &files, *shape, *encoding);
            // After the first problem no file is made; only the other problems are of interest.
            if options.dry_run || problems.len() > 0 {
                encoder.check(watch)?;
            } else {
                writer.write(index, |pieces, out| encoder.fill(pieces, out, watch))?;
            }
            for fault in encoder.faults() {
                problems.tensor(&files[weight.file].name, &weight.name, fault);
            }
            if let Some(db) = encoder.snr_db().filter(|&db| worst.as_ref().is_none_or(|w| db < w.db)) {
                worst = Some(TensorSnr { tensor: name.clone(), db });
            }
        }
        problems.none().map(|()| worst)
    };
    let recipe = recipe(made_by, options.sha256, options);
    let provenance = || hashes.provenance(recipe, origin, &files, watch);
    let compile_and_hash = || rayon::join(|| sidecars.compile(), provenance);
    let ((compiled, provenance), worst) = rayon::join(compile_and_hash, encode);
    let worst = worst?;
    let (compiled, vectors) = compiled;
    if let Some(json) = sidecars.uncompiled(&compiled) {
        writer.section(SectionKind::Tokenizer, json.to_vec());
    }
    match compiled {
        Compilation::Section(section) => writer.section(SectionKind::Vocabulary, section),
        Compilation::Different(text) => warnings.push(Warning::VocabularyDiffers { text }),
        Compilation::Other => {
            let model = sidecars.tokenizer.as_ref().map(|tokenizer| vocab::model_name(&tokenizer.loaded));
            warnings.extend(model.map(|model| Warning::NotCompiled { model }));
        }
    }
    if let Some(vectors) = vectors {
        writer.json(SectionKind::TokenizerVectors, &vectors);
    }
    writer.json(SectionKind::Provenance, &provenance?);

    // 6. Record the file's answers, and give it its name.
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
    let size = |f: fn(&(String, Shape, Encoding)) -> Option<usize>| -> u64 {
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

/// The encoding of each matrix that is stored that holds its source's values exactly.
fn exact_encodings(
    plan: &Plan,
    weights: &BTreeMap<String, Weight>,
    files: &[SourceFile],
) -> Result<Vec<(String, Encoding)>> {
    let (problems, mut all) = (Problems::default(), Vec::new());
    for (name, shape, _) in plan.tensors() {
        let (Shape::Matrix(..), Some(weight)) = (shape, weights.get(name)) else { continue };
        match weight.exact_encoding(files) {
            Some(encoding) => all.push((name.clone(), encoding)),
            None => {
                problems.tensor(&files[weight.file].name, &weight.name, What::NotCarried { got: weight.stored.name() })
            }
        }
    }
    problems.none().map(|()| all)
}

/// The warning that blocks are rounded to something else than what they are.
fn rounded_again(
    tensors: &[(String, Shape, Encoding)],
    weights: &BTreeMap<String, Weight>,
    dtype: Dtype,
) -> Option<Warning> {
    let again = tensors.iter().filter_map(|(name, _, encoding)| match weights.get(name)?.stored {
        Stored::Blocks(kind) => (!encoding.is_exact() && kind.carrier() != Some(*encoding)).then_some(kind.name()),
        Stored::F64 | Stored::F32 | Stored::F16 | Stored::BF16 => None,
    });
    let mut from: Vec<&str> = again.collect();
    let count = from.len();
    from.sort_unstable();
    from.dedup();
    (count > 0).then(|| Warning::RoundedAgain { from, to: dtype.to_string(), count })
}

/// The options that shape a file, as on the command line.
fn recipe(dtype: Dtype, sha256: bool, options: &Options) -> String {
    // In quotes, as a shell needs them.
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let left_out = options.leave_out.iter().map(|pattern| format!(" --leave-out {}", quoted(pattern)));
    let tokenizer = options.tokenizer.as_deref().and_then(Path::file_name);
    let tokenizer = tokenizer.map(|name| format!(" --tokenizer {}", quoted(&name.to_string_lossy())));
    let sha256 = if sha256 { " --sha256" } else { "" };
    format!("--dtype {dtype}{sha256}{}{}", tokenizer.unwrap_or_default(), left_out.collect::<String>())
}
