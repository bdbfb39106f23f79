//! Writes a model as a GGUF file, for programs that read those.
//!
//! No value changes: what a GGUF file has no place for is refused. The reader of GGUF files in this crate is the judge. What
//! is written before the weights is first read back in memory; the description must be the model's own, and so must the
//! vocabulary. A reader that goes by the same rules then computes the same.
//!
//! ```text
//! describe.rs     metadata of the model and of its origin, factors of RoPE
//! vocabulary.rs   metadata of the tokens
//! head.rs         the bytes in front of the data
//! blocks.rs       rows of panels as blocks
//! ```
//!
//! The trap: rows of q and k are moved for some architectures (`tensors::table` says where to).

mod blocks;
mod describe;
mod head;
#[cfg(test)]
mod tests;
mod vocabulary;

use crate::error::{Problems, Result, What};
use crate::gguf::architectures::{ARCHITECTURES, Architecture};
use crate::gguf::container::Header;
use crate::gguf::kinds::TensorKind;
use crate::gguf::tensors::{self, Tensors, Wanted};
use crate::gguf::{hints, keys, model, sidecars};
use crate::input::{Bytes, SourceFile};
use crate::output;
use crate::report::{Progress, Step, Warning, Watch};
use crate::vocab::Compilation;
use blocks::Rows;
use head::{Keys, Meta, Place, head};
use nanoserve_format::{Encoding, GenerationDefaults, ModelSpec, NsvFile, Replacing, SectionKind, Shape, TensorView};
use nanoserve_tokenizer::vocab::CompiledVocabulary;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The first bytes of a GGUF file.
const MAGIC: &[u8] = b"GGUF";
/// Bytes of rows that are written at once.
const CHUNK: usize = 1 << 20;

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exported {
    /// The file.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The architecture that it names.
    pub architecture: &'static str,
    /// The types of its tensors, and how many have each.
    pub types: BTreeMap<&'static str, usize>,
    /// What of the model has no place in it, though it computes the same.
    pub warnings: Vec<Warning>,
}

/// Writes `model` to `output`, which is replaced in one step if it is a GGUF file, or if `force` is set. Setting `cancel` stops
/// it within a megabyte.
///
/// # Errors
/// Everything about the model that no GGUF file can hold; a cancellation; an error of the system. Then nothing is written.
pub fn export(
    model: &NsvFile,
    output: &Path,
    force: bool,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Exported> {
    let name = model.path().file_name().unwrap_or(model.path().as_os_str()).to_string_lossy().into_owned();
    let problems = Problems::new(hints::hint);
    let sources = [(name.clone(), model.path().to_path_buf())];
    output::check(output, force, MAGIC, sources.into_iter(), &problems);
    let Some(plan) = plan(model, &name, &problems)?.filter(|_| problems.len() == 0) else {
        return Err(problems.into_error());
    };
    let Plan { architecture, keys, sources, places, warnings } = plan;
    let head = head(&keys, &places);
    let bytes = head.len() as u64 + places.iter().map(|place| place.padded() as u64).sum::<u64>();
    let watch = Watch { progress, cancel };
    watch.begin(Step::Encode, bytes);
    let mut file = Replacing::begin(output, bytes)?;
    file.write(&head)?;
    watch.advance(head.len());
    let mut out = Vec::with_capacity(2 * CHUNK);
    let mut flush = |out: &mut Vec<u8>| -> Result<()> {
        if out.len() >= CHUNK {
            watch.go_on()?;
            file.write(out)?;
            watch.advance(out.len());
            out.clear();
        }
        Ok(())
    };
    for (source, place) in sources.iter().zip(&places) {
        match source {
            Source::Values(values) => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Source::Model(wanted) => put(model, wanted, place.kind, &mut out, &mut flush)?,
        }
        out.resize(out.len() + place.padded() - place.bytes(), 0);
    }
    watch.go_on()?;
    file.write(&out)?;
    watch.begin(Step::Finish, 0);
    file.finish()?;
    let mut types = BTreeMap::new();
    for place in &places {
        *types.entry(place.kind.name).or_insert(0) += 1;
    }
    Ok(Exported { file: output.to_path_buf(), bytes, architecture: architecture.name, types, warnings })
}

/// Everything that is decided before a byte is written.
struct Plan {
    architecture: &'static Architecture,
    keys: Keys,
    /// Where the values of each tensor come from.
    sources: Vec<Source>,
    /// The same tensors as the file names them.
    places: Vec<Place>,
    warnings: Vec<Warning>,
}

/// Where the values of a tensor come from.
enum Source {
    /// The model's tensors.
    Model(Wanted),
    /// These are the values.
    Values(Vec<f32>),
}

/// Plans the file; None if a problem was noted.
fn plan(model: &NsvFile, name: &str, problems: &Problems) -> Result<Option<Plan>> {
    let (spec, before) = (model.spec(), problems.len());
    let architecture = match architecture(spec) {
        Ok(found) => found,
        Err(what) => {
            problems.file(name, what);
            return Ok(None);
        }
    };
    let (mut sources, mut places) = (Vec::new(), Vec::new());
    for (name, values) in describe::factors(spec) {
        places.push(Place { name: name.to_string(), shape: vec![values.len()], kind: TensorKind::named("F32") });
        sources.push(Source::Values(values));
    }
    let mut not_held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for wanted in tensors::table(spec, architecture) {
        let encodings: Vec<Encoding> = wanted.parts.iter().map(|(part, ..)| tensor(model, part).encoding).collect();
        // The parts of one tensor have one type. Where theirs differ, f32 holds the values of all.
        let first = encodings[0];
        let kind = match (&wanted.shape[..], encodings.iter().all(|&one| one == first)) {
            (&[_, cols], true) => blocks::kind(first, cols),
            (&[_, cols], false) => {
                let all = encodings.iter().all(|&one| blocks::kind(one, cols).is_some());
                all.then(|| TensorKind::named("F32"))
            }
            _ => Some(TensorKind::named("F32")),
        };
        let Some(kind) = kind else {
            let odd = encodings.iter().find(|&&one| blocks::kind(one, 32).is_none()).unwrap_or(&first);
            not_held.entry(odd.to_string()).or_default().push(wanted.name);
            continue;
        };
        places.push(Place { name: wanted.name.clone(), shape: wanted.shape.clone(), kind });
        sources.push(Source::Model(wanted));
    }
    for (encoding, tensors) in not_held {
        problems.tensor(name, &tensors[0], What::NotHeld { encoding, count: tensors.len() });
    }

    let (origin, generation) = (model.provenance()?, model.generation()?);
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut keys = describe::model(spec, architecture);
    keys.extend(describe::general(&origin, &generation, &stem));
    // As llama.cpp numbers files by what most of their weights are.
    let types: BTreeSet<&str> = places.iter().map(|place| place.kind.name).filter(|&name| name != "F32").collect();
    let numbers = [("F16", 1), ("Q4_0", 2), ("Q4_1", 3), ("Q8_0", 7), ("Q5_0", 8), ("Q5_1", 9), ("IQ4_NL", 25)];
    let number = match types.iter().collect::<Vec<_>>()[..] {
        [] => Some(0),
        [one] => numbers.iter().find(|(name, _)| name == one).map(|(_, number)| *number),
        _ => None,
    };
    keys.extend(number.map(|number| ("general.file_type".to_string(), Meta::U32(number))));
    keys.push(("general.quantization_version".to_string(), Meta::U32(2)));

    let mut warnings = Vec::new();
    let section = model.section(SectionKind::Vocabulary)?;
    let problem = |cause: String| problems.file(name, What::TokenizerNotHeld { cause });
    if let Some(section) = section {
        let templates = model.chat_templates()?;
        match vocabulary(spec, section, &generation, templates, &keys) {
            Ok((own, lost)) => {
                keys.extend(own);
                warnings.extend((!lost.is_empty()).then_some(Warning::NotHeld { facts: lost }));
            }
            Err(cause) => problem(cause),
        }
    } else if model.section(SectionKind::Tokenizer)?.is_some() {
        problem("it has no compiled form in the file".to_string());
    } else {
        keys.push(("tokenizer.ggml.model".to_string(), Meta::Text("no_vocab".to_string())));
    }
    let done = problems.len() == before;
    Ok(done.then_some(Plan { architecture, keys, sources, places, warnings }))
}

/// The keys of the vocabulary in `section`, and what of it they do not hold. `others` are the file's other keys.
fn vocabulary(
    spec: &ModelSpec,
    section: &[u8],
    generation: &GenerationDefaults,
    (template, named): (Option<String>, BTreeMap<String, String>),
    others: &Keys,
) -> std::result::Result<(Keys, Vec<&'static str>), String> {
    let opened = CompiledVocabulary::open(section).and_then(|vocabulary| Ok((vocabulary, vocabulary.contents()?)));
    let (vocabulary, own) = opened.map_err(|e| e.to_string())?;
    let mut keys = vocabulary::keys(&vocabulary, &own, generation, spec.vocab_size)?;
    let template = template.map(|text| ("tokenizer.chat_template".to_string(), text));
    let named = named.into_iter().map(|(name, text)| (format!("tokenizer.chat_template.{name}"), text));
    keys.extend(template.into_iter().chain(named).map(|(key, text)| (key, Meta::Text(text))));

    // What does a reader make of it?
    let problems = Problems::default();
    let read = |read: &Read| sidecars::read(&read.keys(&problems), None, Some(spec), &problems, &mut Vec::new());
    let sidecars =
        read(&Read::new(spec, &[&others[..], &keys[..]].concat()).ok_or("its metadata cannot be read again")?);
    if problems.len() > 0 {
        return Err(problems.into_error().to_string());
    }
    let Compilation::Section(again) = sidecars.compile().0 else {
        return Err("what a reader makes of it has no compiled form".to_string());
    };
    let read =
        CompiledVocabulary::open(&again).and_then(|vocabulary| vocabulary.contents()).map_err(|e| e.to_string())?;
    let mut lost = vocabulary::compare(&own, &read, spec.vocab_size)?;
    let found = sidecars.generation;
    let found: BTreeSet<u32> = found.eos_ids.into_iter().chain(found.turn_end_ids).collect();
    if !generation.eos_ids.iter().chain(&generation.turn_end_ids).all(|id| found.contains(id)) {
        lost.push("all tokens that end an answer");
    }
    Ok((keys, lost))
}

/// The first architecture whose reader finds this description, to 32 bits, in what describe.rs writes.
fn architecture(spec: &ModelSpec) -> std::result::Result<&'static Architecture, What> {
    let fields = |spec: &ModelSpec| serde_json::to_value(spec).expect("a description can be written");
    let own = fields(spec);
    let mut nearest: Option<(Vec<String>, &'static str)> = None;
    // Both hold models with biases for q, k and v alone. Under this name they are usual.
    let biased = spec.qkv_bias && !spec.attn_out_bias && !spec.mlp_bias;
    let biased = ARCHITECTURES.iter().filter(|a| biased && a.name == "qwen2");
    for architecture in biased.chain(ARCHITECTURES) {
        let problems = Problems::default();
        let Some(read) = Read::new(spec, &describe::model(spec, architecture)) else { continue };
        let tensors = read.tensors(&problems);
        let Some(found) = model::read(&read.keys(&problems), &tensors, &problems) else { continue };
        let found = fields(&found.spec);
        let names = [&own, &found].into_iter().filter_map(Value::as_object).flat_map(|all| all.keys());
        let differs: BTreeSet<&String> = names.filter(|name| !alike(&own[*name], &found[*name])).collect();
        if differs.is_empty() {
            return Ok(architecture);
        }
        if nearest.as_ref().is_none_or(|(least, _)| differs.len() < least.len()) {
            nearest = Some((differs.into_iter().cloned().collect(), architecture.name));
        }
    }
    let (fields, nearest) = nearest.unwrap_or_default();
    Err(What::NoArchitecture { fields, nearest })
}

/// Whether two values are the same to a file that holds numbers in 32 bits.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(x), Value::Object(y)) => x.keys().chain(y.keys()).all(|name| alike(&a[name], &b[name])),
        (Value::Number(x), Value::Number(y)) if x.is_f64() || y.is_f64() => {
            x.as_f64().map(|x| x as f32) == y.as_f64().map(|y| y as f32)
        }
        _ => a == b,
    }
}

/// The head of a file, with just the tensors that tell something about the model, as a reader has it.
struct Read {
    files: Vec<SourceFile>,
    header: Header,
}

impl Read {
    /// None if the container itself refuses it.
    fn new(spec: &ModelSpec, keys: &Keys) -> Option<Read> {
        let f32 = TensorKind::named("F32");
        let place = |name: &str, shape: Vec<usize>| Place { name: name.to_string(), shape, kind: f32 };
        let mut places = vec![place(tensors::EMBED, vec![spec.vocab_size, 1])];
        if !spec.tied_lm_head {
            places.push(place(tensors::HEAD, vec![1]));
        }
        let biases = [(spec.qkv_bias, "attn_q"), (spec.attn_out_bias, "attn_output"), (spec.mlp_bias, "ffn_up")];
        for (_, name) in biases.iter().filter(|(has, _)| *has) {
            places.push(place(&format!("blk.0.{name}.bias"), vec![1]));
        }
        let factors = describe::factors(spec);
        places.extend(factors.iter().map(|(name, values)| place(name, vec![values.len()])));
        let mut bytes = head(keys, &places);
        for place in &places {
            let values = factors.iter().find(|(name, _)| *name == place.name).map_or(&[][..], |(_, values)| values);
            let end = bytes.len() + place.padded();
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            bytes.resize(end, 0);
        }
        let header = Header::parse(&bytes).ok()?;
        let files = vec![SourceFile { name: "the GGUF file".to_string(), bytes: Bytes::Held(bytes) }];
        Some(Read { files, header })
    }

    fn keys<'r>(&'r self, problems: &'r Problems) -> keys::Keys<'r> {
        keys::Keys::new(&self.files[0].name, &self.header, &self.files[0].bytes, problems)
    }

    fn tensors(&self, problems: &Problems) -> Tensors<'_> {
        Tensors::new(&self.files, self.header.tensors.iter().map(|tensor| (0, tensor.clone())), problems)
    }
}

/// A tensor of the model.
fn tensor<'f>(model: &'f NsvFile, name: &str) -> TensorView<'f> {
    model.tensor(name).expect("a file has every tensor of its description")
}

/// Adds the values of a tensor to `out`; `flush` may take bytes out of it.
fn put(
    model: &NsvFile,
    wanted: &Wanted,
    kind: TensorKind,
    out: &mut Vec<u8>,
    flush: &mut dyn FnMut(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    for (part, rows, order) in &wanted.parts {
        let view = tensor(model, part);
        // The model's row for each place in the file.
        let mut row_at = vec![0; *rows];
        (0..*rows).for_each(|row| row_at[order.source(row)] = row);
        match view.shape {
            Shape::Vector(_) => row_at.into_iter().for_each(|row| out.extend(&view.bytes[4 * row..4 * row + 4])),
            Shape::Matrix(_, cols) => {
                let mut rows = Rows::new(view, cols, kind);
                for row in row_at {
                    rows.put(row, out);
                    flush(out)?;
                }
            }
        }
    }
    Ok(())
}
