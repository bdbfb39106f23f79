//! Compares a file with its sources: everything is converted again, nothing is written.

use crate::encode::Encoder;
use crate::error::{ConvertError, Problems, Result};
use crate::hashes::Hashes;
use crate::input::Input;
use crate::report::{Progress, Step, Watch};
use crate::vocab::Compilation;
use crate::{Dtype, Options, open, recipe};
use nanoserve_format::{ModelSpec, NsvFile, SectionKind, TensorEntry};
use serde_json::Value;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Tensors compared.
    pub tensors: usize,
    /// What differs from what the sources give.
    pub differences: Vec<Difference>,
}

/// A part of a file that differs from what the sources give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The tensor or section.
    pub what: String,
    /// How it differs.
    pub how: String,
}

/// Converts again in memory, in the encodings of the file `options.output`, and compares the result with that file. The
/// file's recorded answers are not compared.
///
/// # Errors
/// Every problem of the sources at once, a cancellation, or a file that cannot be read.
pub fn compare(options: &Options, progress: &dyn Progress, cancel: &AtomicBool) -> Result<Comparison> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads.unwrap_or(0)).build()?;
    let watch = Watch { progress, cancel };
    pool.install(|| run(options, &watch, |hashes| open(options, false, hashes, &watch)))
}

/// Compares with the input that `open` returns; `open` may begin to hash its files.
pub(crate) fn run(
    options: &Options,
    watch: &Watch,
    open: impl FnOnce(&mut Hashes) -> Result<Input>,
) -> Result<Comparison> {
    let unread = |source| ConvertError::Compared { file: options.output.display().to_string(), source };
    let file = NsvFile::open(&options.output).map_err(unread)?;
    let sha256 = file.provenance().map_err(unread)?.sources.iter().any(|s| s.sha256.is_some());
    let mut hashes = Hashes::new(sha256);
    let input = open(&mut hashes)?;
    let mut differences = Vec::new();
    let mut differs = |what: String, how: String| differences.push(Difference { what, how });
    let (got, expected) = (file.spec(), &input.spec);
    if got != expected {
        differs("description".into(), descriptions(got, expected));
        return Ok(Comparison { tensors: 0, differences });
    }
    watch.begin(Step::Encode, (input.weight_bytes() + hashes.left(&input.files)) as u64);
    for entry in &file.layout().tensors {
        if let Some(how) = tensor(&file, entry, &input, watch)? {
            differs(format!("tensor {}", entry.name), how);
        }
    }
    let (compiled, vectors) = input.sidecars.compile();
    let mut plan = nanoserve_format::Plan::new(input.spec.clone(), file.layout().recipe()).map_err(unread)?;
    // What made the file decides what is compared with it, not what an option says.
    let exact = made_by_source(&file.provenance().map_err(unread)?.recipe);
    let dtype = if exact { Dtype::Source } else { Dtype::Recipe(plan.recipe()) };
    let made_by = recipe(dtype, sha256, options);
    let provenance = hashes.provenance(made_by, input.origin, &input.files, watch)?;
    input.sidecars.add_to(&mut plan);
    plan.json(SectionKind::Provenance, &provenance);
    if let Some(json) = input.sidecars.uncompiled(&compiled) {
        plan.section(SectionKind::Tokenizer, json.to_vec());
    }
    if let Compilation::Section(section) = compiled {
        plan.section(SectionKind::Vocabulary, section);
    }
    if let Some(vectors) = vectors {
        plan.json(SectionKind::TokenizerVectors, &vectors);
    }
    for kind in SectionKind::ALL {
        let made = matches!(kind, SectionKind::Directory | SectionKind::Chunks | SectionKind::Spec);
        if made || matches!(kind, SectionKind::Golden | SectionKind::Reference) {
            continue;
        }
        match (file.section(kind).map_err(unread)?, plan.sections().get(&kind)) {
            (Some(got), Some(expected)) if got == expected => {}
            (None, None) => {}
            (Some(got), Some(expected)) => {
                let at = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
                differs(format!("section {kind}"), format!("differs from byte {at} on"));
            }
            (Some(_), None) => differs(format!("section {kind}"), "is in the file, the sources make none".into()),
            (None, Some(_)) => differs(format!("section {kind}"), "is not in the file".into()),
        }
    }
    Ok(Comparison { tensors: file.layout().tensors.len(), differences })
}

/// Whether these options, as a file notes them, store every matrix as the source does.
fn made_by_source(options: &str) -> bool {
    options.split(' ').skip_while(|word| *word != "--dtype").nth(1) == Some(&Dtype::Source.to_string())
}

/// How many fields of a description are named.
const NAMED_FIELDS: usize = 6;

/// The fields in which two descriptions differ, in a sentence.
fn descriptions(got: &ModelSpec, expected: &ModelSpec) -> String {
    let (mut all, mut path) = (Vec::new(), Vec::new());
    fields(&json(got), &json(expected), &mut path, &mut all);
    // The order of an object's fields depends on how serde_json was built.
    all.sort_unstable();
    let named = all[..all.len().min(NAMED_FIELDS)].join(", ");
    let others = all.len().saturating_sub(NAMED_FIELDS);
    let others = if others > 0 { format!(", and {others} more") } else { String::new() };
    format!("the file is of another model than the sources: {named}{others}")
}

fn json(spec: &ModelSpec) -> Value {
    serde_json::to_value(spec).expect("a description is written as JSON in every file")
}

/// Adds every field that differs. Objects are compared field by field; lists are too long to print.
fn fields<'a>(got: &'a Value, expected: &'a Value, path: &mut Vec<&'a str>, all: &mut Vec<String>) {
    match (got, expected) {
        (got, expected) if got == expected => {}
        (Value::Object(a), Value::Object(b)) => {
            let absent = &Value::Null;
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                path.push(name);
                fields(a.get(name).unwrap_or(absent), b.get(name).unwrap_or(absent), path, all);
                path.pop();
            }
        }
        (got, expected) => {
            let simple = |v: &Value| !v.is_array() && !v.is_object();
            let field = path.join(".");
            all.push(match simple(got) && simple(expected) {
                true => format!("{field} is {got} and not {expected}"),
                false => format!("{field} differs"),
            });
        }
    }
}

/// How a tensor differs from what its source gives; None if it does not.
fn tensor(file: &NsvFile, entry: &TensorEntry, input: &Input, watch: &Watch) -> Result<Option<String>> {
    // The head of a tied model is an alias: its bytes are compared as the embedding.
    let Some(weight) = input.weights.get(&entry.name) else { return Ok(None) };
    let encoder = Encoder::new(weight, &input.files, entry.shape, entry.encoding);
    let stored = &file.bytes()[entry.range.clone()];
    let found: Mutex<Option<(Range<usize>, usize)>> = Mutex::new(None);
    encoder.pieces(watch, |first, made| {
        let stored = &stored[first..first + made.len()];
        let count = stored.iter().zip(made).filter(|(a, b)| a != b).count();
        let Some(at) = stored.iter().zip(made).position(|(a, b)| a != b) else { return };
        let last = stored.iter().zip(made).rposition(|(a, b)| a != b).unwrap_or(at);
        let (start, end) = (entry.range.start + first + at, entry.range.start + first + last + 1);
        let mut found = found.lock().expect("no thread panics while it holds this");
        *found = Some(match found.take() {
            Some((range, n)) => (range.start.min(start)..range.end.max(end), n + count),
            None => (start..end, count),
        });
    })?;
    let problems = Problems::default();
    for fault in encoder.faults() {
        problems.tensor(&input.files[weight.file].name, &weight.name, fault);
    }
    problems.none()?;
    let found = found.into_inner().expect("no thread panicked while it held this");
    Ok(found.map(|(range, count)| format!("{count} bytes of {}..{}", range.start, range.end)))
}
