//! What a conversion is made of, whatever form it came in.
//!
//! Each form of checkpoint has a folder of its own in this crate, which ends where an [`Input`] begins: it understands its
//! own files, notes what is wrong with them, and says of each tensor where its bytes are and what has to be done to them.
//! All that follows (encoding, sections, hashes, comparison) knows an [`Input`] alone.
//!
//! To add another form: fill an [`Input`]. Where it stores values in a type of its own, that type joins [`Stored`]; where
//! its values are not yet those that the model computes with, what is missing joins [`Transform`].

use crate::report::Warning;
use crate::sidecars::Sidecars;
use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use nanoserve_format::{ModelSpec, Provenance};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};

/// A model to convert, with nothing wrong in it but, perhaps, values of weights.
#[derive(Debug)]
pub(crate) struct Input {
    /// The model.
    pub spec: ModelSpec,
    /// Every stored tensor of the model, by its canonical name.
    pub weights: BTreeMap<String, Weight>,
    /// What stands beside the weights.
    pub sidecars: Sidecars,
    /// Every file that was read, for [`Weight::bytes`] and for the record of sources.
    pub files: Vec<SourceFile>,
    /// Where it says it comes from; the rest of the record follows from the conversion.
    pub origin: Provenance,
    /// What somebody may want to know.
    pub warnings: Vec<Warning>,
}

impl Input {
    /// Bytes of all weights, as they are stored.
    pub fn weight_bytes(&self) -> usize {
        self.weights.values().map(|weight| weight.bytes(&self.files).len()).sum()
    }
}

/// A file of the source.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Its name, for messages and for the record.
    pub name: String,
    /// All of its bytes.
    pub bytes: Bytes,
}

/// Bytes of a file.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// Mapped: they come when they are needed.
    Mapped(Mmap),
    /// Read.
    Held(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Held(bytes) => bytes,
        }
    }
}

/// Where the values of one of the model's tensors are, and how they become those that the model wants.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// What the source calls the tensor that it is, or is a part of: for messages.
    pub name: String,
    /// Which of the source's files it is in.
    pub file: usize,
    /// Where in that file: row after row.
    pub range: Range<usize>,
    /// Rows (of a vector, elements) before its own in the source's tensor: messages count from there.
    pub first_row: usize,
    /// How its values are stored.
    pub stored: Stored,
    /// What is done to the values once they are f32, in this order.
    pub transforms: Vec<Transform>,
}

impl Weight {
    /// Its bytes.
    pub fn bytes<'f>(&self, files: &'f [SourceFile]) -> &'f [u8] {
        &files[self.file].bytes[self.range.clone()]
    }

    /// Writes the values that `bytes` of it hold to `out`, as the model wants them.
    pub fn read(&self, bytes: &[u8], out: &mut [f32]) {
        self.stored.widen(bytes, out);
        for transform in &self.transforms {
            transform.apply(out);
        }
    }
}

/// How a source stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F32,
    F16,
    BF16,
}

impl Stored {
    /// Bytes of so many values.
    pub fn bytes(self, values: usize) -> usize {
        match self {
            Stored::F32 => 4 * values,
            Stored::F16 | Stored::BF16 => 2 * values,
        }
    }

    /// Stored values, little-endian, to f32, exactly. `out` is as long as there are values.
    fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Stored::F32 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f32::from_le_bytes(*b);
                }
            }
            Stored::BF16 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            Stored::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
                Ok(halves) => halves.convert_to_f32_slice(out),
                // Bytes that begin at an odd place of their file: rare, and only slower.
                Err(_) => {
                    for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                        *x = f16::from_le_bytes(*b).to_f32();
                    }
                }
            },
        }
    }
}

/// What is done to values after they are widened to f32. It sees runs of them, at most a few thousand at a time: to put rows
/// in another order is a matter of which bytes [`Encoder`](crate::encode::Encoder) reads for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    /// Adds 1 to each: a norm that is stored as its distance from 1.
    PlusOne,
}

impl Transform {
    fn apply(self, values: &mut [f32]) {
        match self {
            Transform::PlusOne => values.iter_mut().for_each(|x| *x += 1.0),
        }
    }
}
