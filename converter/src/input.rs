//! The input of a conversion, whatever form of checkpoint it comes from.
//!
//! Each form of checkpoint has a folder of its own in this crate, which makes an [`Input`]: it reads its own files,
//! notes what is wrong with them, and says for each tensor where its bytes are and what must be done to them.
//! Everything after that (encoding, sections, hashes, comparison) knows only an [`Input`].
//!
//! To add another form, fill an [`Input`]. If it stores values in a type of its own, add the type to [`Stored`]; if its
//! values are not yet those that the model computes with, add the missing step to [`Transform`].

use crate::blocks::{Blocks, fits};
use crate::report::Warning;
use crate::sidecars::Sidecars;
use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use nanoserve_format::{Encoding, ModelSpec, Provenance};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};

/// A model to convert, checked except for the values of its weights.
#[derive(Debug)]
pub(crate) struct Input {
    /// The model.
    pub spec: ModelSpec,
    /// Every stored tensor of the model, by its canonical name.
    pub weights: BTreeMap<String, Weight>,
    /// What accompanies the weights.
    pub sidecars: Sidecars,
    /// Every file that was read, for [`Weight::bytes`] and for the record of sources.
    pub files: Vec<SourceFile>,
    /// Where the source says it comes from; the conversion fills in the rest of the record.
    pub origin: Provenance,
    /// Oddities that do not stop the conversion.
    pub warnings: Vec<Warning>,
}

impl Input {
    /// Bytes of all weights, as the source stores them.
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
    /// Mapped: pages are read when they are needed.
    Mapped(Mmap),
    /// Read into memory.
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

/// Where the values of one of the model's tensors are, and how they become the values that the model computes with.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// The source's name of the tensor that it is or is part of, for messages.
    pub name: String,
    /// Index of its file in [`Input::files`].
    pub file: usize,
    /// Where its bytes are in that file, row after row.
    pub range: Range<usize>,
    /// Rows (of a vector, elements) before it in the source's tensor; messages count from the start of that tensor.
    pub first_row: usize,
    /// The type of its stored values.
    pub stored: Stored,
    /// The order of its rows.
    pub order: RowOrder,
    /// The changes made to the values once they are f32, in this order.
    pub transforms: Vec<Transform>,
}

/// In which order a source stores the rows of a matrix, or the elements of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As the model has them.
    Same,
    /// The two halves of each head interleaved, so that the pairs that RoPE rotates are neighbours.
    Pairs {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The source's place of the model's row `row`.
    pub fn source(self, row: usize) -> usize {
        match self {
            RowOrder::Same => row,
            RowOrder::Pairs { head_dim } => {
                let (head, row, half) = (row / head_dim, row % head_dim, head_dim / 2);
                head * head_dim + 2 * (row % half) + row / half
            }
        }
    }
}

impl Weight {
    /// Its bytes.
    pub fn bytes<'f>(&self, files: &'f [SourceFile]) -> &'f [u8] {
        &files[self.file].bytes[self.range.clone()]
    }

    /// The smallest encoding that holds every value exactly, as a matrix; None if there is none. An f64 is rounded to f32
    /// first, as always.
    pub fn exact_encoding(&self, files: &[SourceFile]) -> Option<Encoding> {
        /// Bytes that one thread looks at.
        const PIECE: usize = 1 << 20;
        let bytes = self.bytes(files);
        if !self.transforms.is_empty() {
            return Some(Encoding::F32);
        }
        match self.stored {
            Stored::F64 | Stored::F32 => Some(Encoding::F32),
            Stored::F16 => Some(Encoding::F16),
            Stored::BF16 => {
                let exact = |b: &[u8; 2]| {
                    let value = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                    f16::from_f32(value).to_f32() == value
                };
                let all = bytes.par_chunks(PIECE).all(|piece| piece.as_chunks().0.iter().all(exact));
                Some(if all { Encoding::F16 } else { Encoding::F32 })
            }
            Stored::Blocks(kind) => {
                let piece = (PIECE / kind.bytes() + 1) * kind.bytes();
                let carrier = kind.carrier()?;
                let all = bytes.par_chunks(piece).all(|piece| fits(kind, piece));
                Some(if all { carrier } else { Encoding::F32 })
            }
        }
    }

    /// Converts `bytes`, some of its own, to the values that the model computes with, in `out`.
    pub fn read(&self, bytes: &[u8], out: &mut [f32]) {
        self.stored.widen(bytes, out);
        for transform in &self.transforms {
            transform.apply(out);
        }
    }
}

/// The type in which a source stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    F64,
    F32,
    F16,
    BF16,
    /// Blocks that share scales; a row is whole blocks.
    Blocks(Blocks),
}

impl Stored {
    /// Its name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Stored::F64 => "F64",
            Stored::F32 => "F32",
            Stored::F16 => "F16",
            Stored::BF16 => "BF16",
            Stored::Blocks(kind) => kind.name(),
        }
    }

    /// Bytes of this many values, which are whole blocks.
    pub fn bytes(self, values: usize) -> usize {
        match self {
            Stored::F64 => 8 * values,
            Stored::F32 => 4 * values,
            Stored::F16 | Stored::BF16 => 2 * values,
            Stored::Blocks(kind) => values / kind.values() * kind.bytes(),
        }
    }

    /// Converts stored values, little-endian, to f32: exactly, but f64 to the nearest. `out` has one element for each
    /// value.
    fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Stored::F64 => {
                for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *x = f64::from_le_bytes(*b) as f32;
                }
            }
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
            Stored::Blocks(kind) => kind.widen(bytes, out),
            Stored::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
                Ok(halves) => halves.convert_to_f32_slice(out),
                // Bytes that begin at an odd offset of their file: rare, and only slower.
                Err(_) => {
                    for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                        *x = f16::from_le_bytes(*b).to_f32();
                    }
                }
            },
        }
    }
}

/// A change to values after they are widened to f32. It sees at most a few thousand values at a time. To reorder rows,
/// there is [`RowOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    /// Adds 1 to each value, for norms that are stored as their difference from 1.
    PlusOne,
}

impl Transform {
    fn apply(self, values: &mut [f32]) {
        match self {
            Transform::PlusOne => values.iter_mut().for_each(|x| *x += 1.0),
        }
    }
}
