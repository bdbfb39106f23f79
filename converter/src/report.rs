//! What a conversion reports while it runs and when it ends. The library prints nothing.

use crate::error::{ConvertError, Result};
use nanoserve_format::{Foreign, Hash};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A step of a conversion that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Encoding weights and, except in a dry run, writing them; meanwhile the sources are hashed.
    Encode,
    /// Getting the file safely to disk.
    Finish,
}

/// Receives the progress of a conversion, from any thread. `()` ignores it.
pub trait Progress: Sync {
    /// A step begins that will take `bytes` source bytes.
    fn begin(&self, step: Step, bytes: u64);
    /// `bytes` more of them are done.
    fn advance(&self, bytes: u64);
}

impl Progress for () {
    fn begin(&self, _: Step, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// The observer of a conversion, who may stop it.
pub(crate) struct Watch<'a> {
    /// Receives the progress.
    pub progress: &'a dyn Progress,
    /// Set when it should stop.
    pub cancel: &'a AtomicBool,
}

impl Watch<'_> {
    /// A step begins.
    pub fn begin(&self, step: Step, bytes: u64) {
        self.progress.begin(step, bytes);
    }

    /// `bytes` more source bytes are done.
    pub fn advance(&self, bytes: usize) {
        self.progress.advance(bytes as u64);
    }

    /// An error once a stop was requested.
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
    /// Number of weights, aliases not counted.
    pub parameters: u64,
    /// Bits that the tensors take per weight, padding included.
    pub bits_per_weight: f64,
    /// How long it took.
    pub time: Duration,
    /// The q8 tensor with the lowest signal-to-noise ratio; None if rounding to q8 changed no weight.
    pub worst_snr: Option<TensorSnr>,
    /// Root hash of the file; None in a dry run.
    pub root: Option<Hash>,
    /// Oddities that did not stop the conversion.
    pub warnings: Vec<Warning>,
}

/// The signal-to-noise ratio of a rounded tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSnr {
    /// Its canonical name.
    pub tensor: String,
    /// `10 log10(sum x^2 / sum (x - decoded)^2)`, in dB.
    pub db: f64,
}

/// Something odd that does not stop a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// There is no tokenizer.
    NoTokenizer {
        /// What is missing.
        missing: &'static str,
        /// What to do about it; may be empty.
        hint: &'static str,
    },
    /// What of a model a GGUF file does not say.
    NotHeld {
        /// The facts.
        facts: Vec<&'static str>,
    },
    /// The head of a tied model differs from its embedding.
    HeadKept {
        /// Where the source says that the model is tied.
        said: &'static str,
        /// The head, by its name in the source.
        head: String,
    },
    /// Keys that are ignored, because their tensors follow from other data.
    Leftovers {
        /// What they follow from.
        from: &'static str,
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
    /// Tensors that the user asked to leave out.
    LeftOutAsked {
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// Tensors that a model of this class has no use for, of a kind that many checkpoints carry.
    Strays {
        /// What they are.
        what: &'static str,
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// Tensors whose names begin with a prefix once more than the model's do.
    PrefixTwice {
        /// The prefix.
        prefix: &'static str,
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// Tensors in F64, which became F32.
    Rounded {
        /// How many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// Metadata that is not read: no part of the model is known by these keys.
    KeysNotRead {
        /// How many keys.
        count: usize,
        /// The first in the file.
        first: String,
    },
    /// The source's weights had been rounded before they were rounded for it.
    RoundedTwice {
        /// Where it says so.
        said: String,
    },
    /// The source's weights are rounded already, and are rounded once more.
    RoundedAgain {
        /// The types of the tensors concerned.
        from: Vec<&'static str>,
        /// What they are rounded to.
        to: String,
        /// How many tensors.
        count: usize,
    },
    /// The index says something else about tensors than the shards do, which are read.
    IndexDiffers {
        /// About how many.
        count: usize,
        /// The first by name.
        first: String,
    },
    /// There are both one whole file and an index.
    IndexIgnored {
        /// The whole file.
        read: &'static str,
    },
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
        /// The most bytes that are kept.
        most: u64,
    },
    /// A licence is there, but is no file in the folder.
    LicenceNotKept {
        /// Its name.
        name: String,
        /// What it is.
        why: String,
    },
    /// Added tokens of the tokenizer for which the model has no row.
    TokensWithoutRow {
        /// How many.
        count: usize,
        /// The one with the lowest id.
        first: String,
        /// Its id.
        id: u32,
        /// Rows that the model has.
        vocab_size: usize,
    },
    /// The tokenizer is of a kind that has no compiled form: the file has its tokenizer.json alone.
    NotCompiled {
        /// The kind of its model.
        model: &'static str,
    },
    /// The compiled tokenizer differs from tokenizer.json, and was omitted.
    VocabularyDiffers {
        /// A text that shows the difference.
        text: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Names and texts in it are the source's.
        Foreign(&Words(self).to_string()).fmt(f)
    }
}

/// A warning's words, with names as the source has them.
struct Words<'w>(&'w Warning);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Warning::NoTokenizer { missing, hint } => {
                write!(f, "no {missing}: the file will run on token ids only")?;
                if hint.is_empty() { Ok(()) } else { write!(f, " ({hint})") }
            }
            Warning::NotHeld { facts } => {
                write!(f, "a GGUF file does not say {}: programs that read it may differ there", facts.join(", nor "))
            }
            Warning::HeadKept { said, head } => {
                write!(f, "{said}, but {head} differs from the embedding: both are kept, not tied")
            }
            Warning::Leftovers { from, count, first } => {
                write!(f, "{count} tensor{} ignored that follow from {from}: {first}", plural(*count))?;
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
            Warning::LeftOutAsked { count, first } => {
                write!(f, "{count} tensor{} left out, as asked: {first}{}", plural(*count), more(*count))
            }
            Warning::Strays { what, count, first } => {
                write!(f, "{count} tensor{} ignored, {what}: {first}{}", plural(*count), more(*count))
            }
            Warning::PrefixTwice { prefix, count, first } => write!(
                f,
                "the names of {count} tensor{} begin with '{prefix}' once more than the model's, and are read without it: \
                 {first}{}",
                plural(*count),
                more(*count)
            ),
            Warning::Rounded { count, first } => {
                write!(f, "{count} tensor{} in F64, rounded to F32: {first}{}", plural(*count), more(*count))
            }
            Warning::KeysNotRead { count, first } => {
                write!(f, "{count} key{} of metadata not read: {first}{}", plural(*count), more(*count))
            }
            Warning::RoundedTwice { said } => write!(
                f,
                "the weights had been rounded before they were rounded for this file, as its metadata tells: {said}"
            ),
            Warning::RoundedAgain { from, to, count } => write!(
                f,
                "{count} tensor{} in {} rounded once more, to {to}: what the first rounding lost stays lost",
                plural(*count),
                from.join(", ")
            ),
            Warning::IndexDiffers { count, first } => write!(
                f,
                "the index is wrong about {count} tensor{}, and the shards are right: {first}{}",
                plural(*count),
                more(*count)
            ),
            Warning::IndexIgnored { read } => write!(f, "{read} is read, the index beside it is not"),
            Warning::NoEos => f.write_str("no eos_token_id: generation will not end by itself"),
            Warning::NoDefaultTemplate { names } => {
                write!(f, "chat templates {}, but none is named default: chat needs to be told which", names.join(", "))
            }
            Warning::LongLicence { name, most } => write!(f, "{name} has more than {most} bytes and is not kept"),
            Warning::LicenceNotKept { name, why } => write!(f, "{name} {why}: it is not kept"),
            Warning::TokensWithoutRow { count, first, id, vocab_size } => {
                let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
                write!(
                    f,
                    "the tokenizer's token '{first}' ({id}){more} is beyond the model's {vocab_size} rows: a prompt \
                     cannot have it"
                )
            }
            Warning::NotCompiled { model } => {
                write!(
                    f,
                    "the tokenizer ({model}) has no compiled form: it takes longer to load, and a nanoserve built \
                     without the feature tokenizer-json cannot encode text for this model"
                )
            }
            Warning::VocabularyDiffers { text } => {
                write!(f, "the tokenizer has no compiled form, and will take longer to load: it differs on {text:?}")
            }
        }
    }
}

/// What follows the first of some.
fn more(count: usize) -> &'static str {
    if count > 1 { ", ..." } else { "" }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
