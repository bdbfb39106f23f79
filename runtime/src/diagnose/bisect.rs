//! Finds the first thing that differs: a damaged byte, a kernel that does not equal its scalar twin, or a component
//! that is not the reference's.
//!
//! ```text
//! file        its own hashes                                                    a flipped bit, by tensor and bytes
//! kernels     each instruction set against the scalar kernels, bit for bit      a broken lane, by kernel and position
//! reference   the model against another program's activations                   a wrong weight, bias, eps, angle
//! ```
//!
//! A stage is useful only if those before it found nothing. The last two compare under *teacher forcing*: once an
//! operation's result was compared, the expected rows replace it ([`Tap`](crate::engine::step::Tap)). So each operation
//! is judged alone, on correct inputs, and errors do not propagate. A component is a result, named as on the ladder.
//! The blame is what made it wrong: a tensor, a number of the description, a kernel.

mod attention;
mod component;
mod explain;
mod kernels;
mod linear;
mod noise;
mod reference;
mod rotary;
mod switches;

pub use super::rule::Tolerance;
pub use kernels::kernels;
pub use reference::{Judged, reference};

use nanoserve_format::{ModelSpec, NsvFile};
use std::fmt;

/// Number of tokens of [`some_ids`]: more than one block of attention, and such that every tile size of a matrix kernel
/// occurs.
const SOME_IDS: usize = 66;

/// Something that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The first result that shows it, by its name on the ladder. For damaged bytes, the tensor or section.
    pub component: String,
    /// What is at fault: a tensor, a number of the description, a kernel.
    pub blame: String,
    /// The place in the result; None for damaged bytes and missing components.
    pub at: Option<At>,
    /// The instruction set and the way of feeding tokens; None if they do not matter.
    pub path: Option<String>,
    /// What is known about it, for people.
    pub what: String,
}

/// A place in a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The token's position.
    pub position: usize,
    /// The index of the output: the row of the matrix that made it.
    pub row: usize,
}

/// The parts of a file whose bytes have changed since they were written.
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

/// Token ids to use when none are given: always the same, spread over the vocabulary.
pub fn some_ids(spec: &ModelSpec) -> Vec<u32> {
    let n = SOME_IDS.min(spec.context_length);
    (0..n).map(|i| ((i * i * 31 + i * 7 + 1) % spec.vocab_size) as u32).collect()
}

/// Displays numbers as `3, 17, 40, 41 and 5 more`.
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
