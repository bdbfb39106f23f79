//! What can go wrong, all of it at once: a [`Problem`] says where, what was found, what was expected and what to do.

use nanoserve_format::{Encoding, ErrorKind, Foreign, FormatError};
use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;

/// What every fallible call of this crate returns.
pub type Result<T, E = ConvertError> = std::result::Result<T, E>;

/// Why there is no new file. Whatever was under its name before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The input is wrong: everything that is, in one report.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
    /// The head is the embedding, and was given another encoding.
    #[error("the head of this model is its embedding, which cannot be stored in {embedding} and in {head}")]
    HeadTied {
        /// The embedding's encoding.
        embedding: Encoding,
        /// The head's.
        head: Encoding,
    },
    /// Somebody asked to stop.
    #[error("stopped before the end: nothing was written")]
    Cancelled,
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] FormatError),
    /// The new file, whole but for this, could not be asked for its answers.
    #[error("the new file did not prove itself: {0}")]
    LastStep(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file to compare with cannot be read.
    #[error("{file}: {source}")]
    Compared {
        /// Its path.
        file: String,
        /// Why.
        source: FormatError,
    },
    /// The system gave no threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl ConvertError {
    /// Whether the input, or the machine, is at fault, or nothing: somebody asked to stop.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // Where the machine failed to read one file, other problems may come of that.
            ConvertError::Problems(all) if all.iter().any(|problem| problem.what.kind() == ErrorKind::Machine) => {
                ErrorKind::Machine
            }
            ConvertError::Problems(_) | ConvertError::HeadTied { .. } => ErrorKind::Input,
            ConvertError::Compared { source, .. } => source.kind(),
            ConvertError::Cancelled => ErrorKind::Cancelled,
            // The input was checked before: what fails now is the place to write to, or the machine's arithmetic.
            ConvertError::Write(_) | ConvertError::LastStep(_) | ConvertError::Threads(_) => ErrorKind::Machine,
        }
    }
}

/// The words for fields that an architecture has otherwise.
fn said(fields: &[String], nearest: &str) -> String {
    match fields {
        [] => "this description".to_string(),
        _ => format!("its {} (the nearest is {nearest})", fields.join(", ")),
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// One thing that is wrong with the input.
#[derive(Debug)]
#[non_exhaustive]
pub struct Problem {
    /// The file it is in, by its name in the source.
    pub file: String,
    /// The tensor, by its name in the source.
    pub tensor: Option<String>,
    /// What it is.
    pub what: What,
    /// What to do about it, where there is something to say.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Names and values are the source's, so all of it is shown as a foreign text, part by part.
        write!(f, "{}: ", Foreign(&self.file))?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor '{}': ", Foreign(tensor))?;
        }
        write!(f, "{}", Foreign(&self.what.to_string()))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n  hint: {}", Foreign(hint)))
    }
}

/// The ways an input is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum What {
    /// No architecture of GGUF files describes the model.
    #[error("no architecture of GGUF files has {}", said(.fields, .nearest))]
    NoArchitecture {
        /// The fields of the description that the nearest has otherwise.
        fields: Vec<String>,
        /// The nearest; empty if there is none.
        nearest: &'static str,
    },
    /// A GGUF file has no type with the numbers of this encoding.
    #[error("is stored in {encoding}, as are {count} tensors: no type of GGUF files holds its values in as few bits")]
    NotHeld {
        /// The encoding.
        encoding: String,
        /// How many tensors have it.
        count: usize,
    },
    /// The metadata of a GGUF file cannot say what the tokenizer does.
    #[error("its tokenizer has no form in GGUF files: {cause}")]
    TokenizerNotHeld {
        /// Why.
        cause: String,
    },
    /// SOURCE is not a folder.
    #[error("is {got}, expected a checkpoint folder")]
    NotAFolder {
        /// What it is instead.
        got: &'static str,
    },
    /// SOURCE is a file of a checkpoint folder.
    #[error("is a file of a checkpoint, expected the folder that holds it")]
    FileOfFolder {
        /// That folder.
        folder: PathBuf,
    },
    /// SOURCE is not there, and looks like a name on a model hub.
    #[error("is not there; it looks like a model's name on a hub, expected a checkpoint folder")]
    HubName {
        /// The name.
        name: String,
    },
    /// SOURCE is the folder that a hub's cache keeps for one model, all its revisions.
    #[error("is the folder that a hub's cache keeps for a model, expected a snapshot in it")]
    CacheOfModel {
        /// The snapshot that is meant, probably.
        snapshot: Option<PathBuf>,
    },
    /// SOURCE is the cache of a model hub.
    #[error("is the cache of a model hub, expected a snapshot of one of the {models} in it")]
    CacheOfHub {
        /// How many.
        models: usize,
        /// One of the snapshots.
        snapshot: Option<PathBuf>,
    },
    /// A link to something that is not there.
    #[error("is a link to {target:?}, which is not there")]
    DanglingLink {
        /// Where it leads.
        target: PathBuf,
    },
    /// A link that leads out of the folder.
    #[error("is a link to {target:?}, which is outside of the folder")]
    LinkOutside {
        /// Where it leads.
        target: PathBuf,
    },
    /// Something else than a file, where a file is read.
    #[error("is {got}, expected a file")]
    NotAFile {
        /// What it is.
        got: &'static str,
    },
    /// A file without a byte.
    #[error("is empty")]
    Empty,
    /// A file that is too long for what it should be.
    #[error("has more than {most} bytes")]
    TooLong {
        /// The most that is read of a file of this kind.
        most: u64,
    },
    /// A file cannot be read.
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    /// A file that every source has is not there.
    #[error("is missing{found}")]
    FileMissing {
        /// What is there in its place; empty when nothing is.
        found: String,
    },
    /// Weights in a form that is not read.
    #[error("is {got}, expected {expected}")]
    Foreign {
        /// What it is.
        got: &'static str,
        /// The form that is read.
        expected: &'static str,
    },
    /// An adapter (LoRA and the like), whose model it changes.
    #[error("is an adapter{}{}", kind.as_ref().map_or(String::new(), |k| format!(" ({k:?})")), base.as_ref().map_or(String::new(), |b| format!(" of {b:?}")))]
    Adapter {
        /// Its kind, such as LORA.
        kind: Option<String>,
        /// The model that it changes, by the adapter's own words.
        base: Option<String>,
    },
    /// Tensors of an adapter that is not merged into the model.
    #[error("holds {count} tensors of an adapter that is not merged into the model, the first is {first:?}")]
    AdapterTensors {
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// The names of tensors hold what a wrapper around the model added.
    #[error("the names of {count} tensors hold '{part}'{}, and the model's do not", by.map_or(String::new(), |by| format!(", as {by} adds it")))]
    Wrapped {
        /// What they hold.
        part: String,
        /// How many.
        count: usize,
        /// Who adds it, where that is known.
        by: Option<&'static str>,
    },
    /// A pattern of tensors to leave out that is none.
    #[error("the pattern {pattern:?} is wrong: {cause}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A pattern of tensors to leave out that matches no name.
    #[error("no tensor's name matches the pattern {pattern:?}")]
    PatternMatchesNothing {
        /// The pattern.
        pattern: String,
    },
    /// The output would overwrite a file it is made from.
    #[error("is the output and the source file '{source_file}' at once")]
    OutputIsSource {
        /// Name of the source file.
        source_file: String,
    },
    /// The output cannot be put where it should go.
    #[error("cannot be written: {got}")]
    OutputPlace {
        /// What stands in its way.
        got: String,
    },
    /// The output would replace a file that is no model.
    #[error("is there already, and is no .nsv file")]
    OutputForeign,

    /// A file is not the JSON it should be.
    #[error("is no valid JSON: {cause}")]
    Json {
        /// Where and why.
        cause: String,
    },
    /// A field is missing or has a value that cannot be.
    #[error("{field} is {got}, expected {expected}")]
    Field {
        /// Its name, with the object it is in.
        field: String,
        /// Its value.
        got: String,
        /// What it may be.
        expected: String,
    },
    /// A model of another class.
    #[error("the model is {got}, expected one of {}", expected.join(", "))]
    Architecture {
        /// What the source says it is.
        got: String,
        /// The classes that are converted.
        expected: Vec<&'static str>,
    },
    /// A feature of a known model that is not supported.
    #[error("{field} '{got}' is not supported, expected {expected}")]
    Unsupported {
        /// The field that asks for it.
        field: String,
        /// Its value.
        got: String,
        /// The values that are supported.
        expected: String,
    },
    /// Weights that were quantized before.
    #[error("the weights are quantized already ({method}), expected f32, f16 or bf16")]
    Quantized {
        /// How.
        method: String,
    },

    /// A Git LFS pointer in place of a file.
    #[error("is a Git LFS pointer, not the file itself")]
    LfsPointer,
    /// The header of a shard does not fit into it.
    #[error("the header claims {got} bytes, the file has {room} for it")]
    HeaderLength {
        /// Bytes claimed.
        got: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The header of a shard cannot be understood.
    #[error("the header cannot be read: {cause}")]
    Header {
        /// Why.
        cause: String,
    },
    /// The header, or the index, names a tensor twice.
    #[error("is named twice")]
    DuplicateKey,
    /// A tensor's bytes overlap those before it, or leave a gap.
    #[error("starts at byte {got} of the data, expected {expected}: the header's offsets overlap or leave gaps")]
    Offsets {
        /// First byte by the header.
        got: u64,
        /// Where the tensor before it ends.
        expected: u64,
    },
    /// A tensor has more or fewer bytes than its shape and type take.
    #[error("has {got} bytes, its shape {shape:?} in {dtype} takes {expected}")]
    TensorBytes {
        /// Bytes by the header's offsets.
        got: u64,
        /// Its shape.
        shape: Vec<usize>,
        /// Its type.
        dtype: String,
        /// Bytes that those take; `more than fit` past 64 bits.
        expected: String,
    },
    /// A shard is shorter or longer than its header says.
    #[error("has {got} bytes, its header says {expected}")]
    ShardLength {
        /// Bytes there are.
        got: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The index names a file that is not there.
    #[error("the index names it, but it is not there")]
    ShardMissing,
    /// Two shards have one tensor.
    #[error("is also in {other}")]
    TwoShards {
        /// The other shard.
        other: String,
    },

    /// A tensor of the model is not in the source.
    #[error("is missing")]
    TensorMissing,
    /// A tensor of the model was left out on the user's word.
    #[error("is left out, and the model needs it")]
    TensorLeftOut,
    /// A model that is not tied has no head.
    #[error("is missing, and {said}")]
    HeadMissing {
        /// Where the source says that the model is not tied.
        said: &'static str,
    },
    /// A tensor of the source is none of the model's.
    #[error("is no tensor of this model")]
    TensorUnknown,
    /// A tensor's type is none that is read.
    #[error("has type {got}, expected F64, F32, F16 or BF16")]
    Dtype {
        /// Its type.
        got: String,
    },
    /// No encoding holds the values of a tensor's type exactly.
    #[error("has type {got}, whose values no encoding holds exactly")]
    NotCarried {
        /// Its type.
        got: &'static str,
    },
    /// A tensor's shape is not the one that follows from the model's description.
    #[error("has shape {got:?}, expected {expected}")]
    Shape {
        /// Its shape.
        got: Vec<usize>,
        /// The shape that follows, with the numbers it follows from.
        expected: String,
        /// What could be wrong; may be empty.
        guess: String,
    },
    /// A tensor holds infinities or NaNs.
    #[error("has {count} values that are not finite, the first is {value} at index {index:?}")]
    NotFinite {
        /// Place of the first.
        index: Vec<usize>,
        /// The first.
        value: f32,
        /// How many there are.
        count: u64,
    },
    /// A tensor in F64 holds values that F32 does not.
    #[error(
        "{value:e} at index {index:?} is beyond the range of f32; {count} values of the tensor are beyond it or not finite"
    )]
    BeyondF32 {
        /// Place of the first.
        index: Vec<usize>,
        /// The first.
        value: f64,
        /// How many there are.
        count: u64,
    },
    /// A value is beyond what the encoding holds.
    #[error("{value:e} at row {row}, column {col} does not fit {encoding}, expected magnitudes up to {largest:e}")]
    OutOfRange {
        /// Row of the first.
        row: usize,
        /// Column of the first; for q8 the first of its block.
        col: usize,
        /// The value; for q8 the largest magnitude of its block.
        value: f32,
        /// The encoding asked for.
        encoding: Encoding,
        /// The largest magnitude that it holds.
        largest: f64,
    },

    /// A tokenizer is given for something that is no GGUF file.
    #[error("is no GGUF file, and a tokenizer can be given for such a file alone")]
    OwnTokenizer,
    /// The tokenizer does not load.
    #[error("the tokenizer does not load: {cause}")]
    Tokenizer {
        /// The loader's answer.
        cause: String,
    },
    /// The metadata describes no tokenizer that is known.
    #[error("no tokenizer can be made of it: {cause}")]
    GgufTokenizer {
        /// Why.
        cause: String,
    },
    /// A token's id is beyond the model's vocabulary.
    #[error("{field} is {got}, expected less than the model's vocab_size, {vocab_size}")]
    TokenId {
        /// The field, or the token.
        field: String,
        /// The id.
        got: u32,
        /// Ids that the model has.
        vocab_size: usize,
    },
}

impl What {
    /// Whether the source, or the machine that should read it, is at fault.
    pub fn kind(&self) -> ErrorKind {
        match self {
            What::Read(e) => ErrorKind::of_io(e),
            _ => ErrorKind::Input,
        }
    }
}

impl What {
    /// What to do about it, where that does not depend on the form of the source.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            What::OutputIsSource { .. } => Some("give the output another name"),
            What::NotFinite { .. } | What::BeyondF32 { .. } => {
                Some("the checkpoint is damaged, or its training diverged")
            }
            What::Shape { guess, .. } if !guess.is_empty() => Some(guess),
            _ => None,
        }
    }
}

/// What a source advises about a problem.
pub(crate) type Hints = fn(&What) -> Option<String>;

/// Problems as they are found. A step notes what it finds and goes on as far as it can.
#[derive(Debug)]
pub(crate) struct Problems {
    list: RefCell<Vec<Problem>>,
    hints: Hints,
}

impl Default for Problems {
    fn default() -> Problems {
        Problems::new(|_| None)
    }
}

impl Problems {
    /// None so far, of a source that gives these hints.
    pub fn new(hints: Hints) -> Problems {
        Problems { list: RefCell::default(), hints }
    }

    /// Notes a problem of a file.
    pub fn file(&self, file: impl Into<String>, what: What) {
        self.note(file.into(), None, what);
    }

    /// Notes a problem of a tensor.
    pub fn tensor(&self, file: impl Into<String>, tensor: impl Into<String>, what: What) {
        self.note(file.into(), Some(tensor.into()), what);
    }

    fn note(&self, file: String, tensor: Option<String>, what: What) {
        let hint = what.hint().map(str::to_string).or_else(|| (self.hints)(&what));
        self.list.borrow_mut().push(Problem { file, tensor, what, hint });
    }

    /// How many there are so far.
    pub fn len(&self) -> usize {
        self.list.borrow().len()
    }

    /// The error that they are.
    pub fn into_error(self) -> ConvertError {
        ConvertError::Problems(self.list.into_inner())
    }

    /// Ok when there are none so far.
    pub fn none(&self) -> Result<()> {
        let list = self.list.take();
        if list.is_empty() { Ok(()) } else { Err(ConvertError::Problems(list)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_report_with_a_failure_of_the_machine_is_one_of_the_machine() {
        let problem = |what| Problem { file: "a".into(), tensor: None, what, hint: None };
        let report =
            |kind: io::ErrorKind| ConvertError::Problems(vec![problem(What::Empty), problem(What::Read(kind.into()))]);
        assert_eq!(report(io::ErrorKind::OutOfMemory).kind(), ErrorKind::Machine);
        assert_eq!(report(io::ErrorKind::StorageFull).kind(), ErrorKind::Machine);
        assert_eq!(report(io::ErrorKind::NotFound).kind(), ErrorKind::Input);
        assert_eq!(report(io::ErrorKind::PermissionDenied).kind(), ErrorKind::Input);
    }
}
