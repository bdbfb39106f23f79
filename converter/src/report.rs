//! What a conversion tells while it runs and when it is done. The library prints nothing.

use crate::error::{ConvertError, Result};
use nanoserve_format::Hash;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a conversion is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Encoding weights and, but in a dry run, writing them; beside it the sources are hashed.
    Encode,
    /// Getting the file safely to disk.
    Finish,
}

/// Told how far a conversion is, from any thread. `()` does not listen.
pub trait Progress: Sync {
    /// A step begins, and will take `bytes` source bytes.
    fn begin(&self, step: Step, bytes: u64);
    /// So many more of them are done.
    fn advance(&self, bytes: u64);
}

impl Progress for () {
    fn begin(&self, _: Step, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// Who watches a conversion, and may stop it.
pub(crate) struct Watch<'a> {
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// Set when it should stop.
    pub cancel: &'a AtomicBool,
}

impl Watch<'_> {
    /// A step begins.
    pub fn begin(&self, step: Step, bytes: u64) {
        self.progress.begin(step, bytes);
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: usize) {
        self.progress.advance(bytes as u64);
    }

    /// Ok until somebody asks to stop.
    pub fn go_on(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(ConvertError::Cancelled) } else { Ok(()) }
    }
}

/// What was converted.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file that was, or in a dry run would be, written.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Tensors in its directory, aliases included.
    pub tensors: usize,
    /// Weights, each stored one once.
    pub parameters: u64,
    /// Bits that the tensors take for each of them, padding included.
    pub bits_per_weight: f64,
    /// How long it took.
    pub time: Duration,
    /// Of a q8 file, the tensor with the lowest signal-to-noise ratio; None where no weight was rounded.
    pub worst_snr: Option<TensorSnr>,
    /// Root hash of the file; None in a dry run.
    pub root: Option<Hash>,
    /// What somebody may want to know.
    pub warnings: Vec<Warning>,
}

/// How much of a tensor rounding left.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSnr {
    /// Its canonical name.
    pub tensor: String,
    /// `10 log10(sum x^2 / sum (x - decoded)^2)`, in dB.
    pub db: f64,
}

/// Something odd that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// There is no tokenizer.json.
    NoTokenizer {
        /// There is a `tokenizer.model` in its place.
        has_model: bool,
    },
    /// The head of a tied model differs from its embedding.
    HeadKept,
    /// Keys that nothing needs.
    Leftovers {
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// Keys of parts that are left out on purpose.
    LeftOut {
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// There are both one whole file and an index.
    IndexIgnored,
    /// No token ends a text.
    NoEos,
    /// Several chat templates, none of them the default.
    NoDefaultTemplate {
        /// Their names.
        names: Vec<String>,
    },
    /// A licence is too long to be kept.
    LongLicence {
        /// Its file.
        name: String,
        /// Bytes that it may have.
        most: u64,
    },
    /// The compiled tokenizer is not equal to tokenizer.json, and was left away.
    VocabularyDiffers {
        /// A text that shows it.
        text: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Warning::NoTokenizer { has_model } => {
                f.write_str("no tokenizer.json: the file will run on token ids only")?;
                let hint = " (tokenizer.model is not read; load and save it with transformers to get tokenizer.json)";
                if *has_model { f.write_str(hint) } else { Ok(()) }
            }
            Warning::HeadKept => f.write_str(
                "tie_word_embeddings is true, but lm_head.weight differs from the embedding: both are kept, not tied",
            ),
            Warning::Leftovers { count, first } => {
                write!(f, "{count} tensor{} ignored that follow from config.json: {first}", plural(*count))?;
                if *count > 1 { f.write_str(", ...") } else { Ok(()) }
            }
            Warning::LeftOut { count, first } => {
                write!(
                    f,
                    "the text model alone: {count} tensor{} of the parts for images left out: {first}",
                    plural(*count)
                )?;
                if *count > 1 { f.write_str(", ...") } else { Ok(()) }
            }
            Warning::IndexIgnored => f.write_str("model.safetensors is read, the index beside it is not"),
            Warning::NoEos => f.write_str("no eos_token_id: generation will not end by itself"),
            Warning::NoDefaultTemplate { names } => {
                write!(f, "chat templates {}, but none is named default: chat needs to be told which", names.join(", "))
            }
            Warning::LongLicence { name, most } => write!(f, "{name} has more than {most} bytes and is not kept"),
            Warning::VocabularyDiffers { text } => {
                write!(f, "the tokenizer has no compiled form, and will take longer to load: it differs on {text:?}")
            }
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
