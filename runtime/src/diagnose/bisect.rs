//! The first thing that differs: a damaged byte, a kernel that does not equal its plain twin, or a component that is not
//! the reference's.
//!
//! ```text
//! file        its own hashes                                                    a flipped bit, by tensor and bytes
//! kernels     each instruction set against the plain kernels, bit for bit       a broken lane, by kernel and position
//! reference   the model against somebody else's activations                     a wrong weight, bias, eps, angle
//! ```
//!
//! A stage is worth asking where those before it found nothing. The last two compare under *teacher forcing*: once an
//! operation's result was compared, the expected rows take its place ([`forward::Tap`](crate::engine::step::Tap)), so that
//! each operation is judged alone, on good inputs, and an error does not travel. A component is a result by its name on
//! the ladder; the blame is what made it wrong: a tensor, a number of the description, a kernel.

mod attention;
mod component;
mod explain;
mod kernels;
mod linear;
mod noise;
mod reference;
mod rotary;
mod switches;

pub use kernels::kernels;
pub use reference::{Judged, Tolerance, reference};

use nanoserve_format::{ModelSpec, NsvFile};
use std::fmt;

/// Tokens of [`some_ids`]: more than one block of attention, and some of every tile of a matrix kernel.
const SOME_IDS: usize = 66;

/// Something that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The first result that shows it, by its name on the ladder; the tensor or section where bytes are damaged.
    pub component: String,
    /// What is at fault: a tensor, a number of the description, a kernel.
    pub blame: String,
    /// Where in the result; None where bytes are damaged.
    pub at: Option<At>,
    /// The instruction set and the way through the model; None where they do not matter.
    pub path: Option<String>,
    /// What is known about it, in a sentence.
    pub what: String,
}

/// A place in a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The token's position.
    pub position: usize,
    /// The output: the row of the matrix that made it.
    pub row: usize,
}

/// The parts of a file whose bytes are not the ones that were written.
pub fn damage(file: &NsvFile) -> Vec<Finding> {
    let finding = |d: nanoserve_format::Damage| Finding {
        component: d.what.clone(),
        blame: d.what,
        at: None,
        path: None,
        what: format!("bytes {}..{} are not the ones that were written", d.range.start, d.range.end),
    };
    file.check().into_iter().map(finding).collect()
}

/// Token ids for a model that nobody gave any: always the same, spread over the vocabulary.
pub fn some_ids(spec: &ModelSpec) -> Vec<u32> {
    let n = SOME_IDS.min(spec.context_length);
    (0..n).map(|i| ((i * i * 31 + i * 7 + 1) % spec.vocab_size) as u32).collect()
}

/// Numbers as a person lists them: `3, 17, 40 and 5 more`.
struct Listed<'a>(&'a [usize]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().take(4).map(usize::to_string).collect();
        f.write_str(&shown.join(", "))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
