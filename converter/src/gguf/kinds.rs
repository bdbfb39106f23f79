//! The types of a GGUF file: of its metadata, and of its tensors.

use crate::blocks::Blocks;
use crate::input::Stored;

/// The types of tensors: name, id, values in a block, bytes of a block.
const TENSORS: [(&str, u32, usize, usize); 23] = [
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 18),
    ("Q4_1", 3, 32, 20),
    ("Q5_0", 6, 32, 22),
    ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34),
    ("Q2_K", 10, 256, 84),
    ("Q3_K", 11, 256, 110),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
    ("IQ4_NL", 20, 32, 18),
    ("IQ4_XS", 23, 256, 136),
    ("I8", 24, 1, 1),
    ("I16", 25, 1, 2),
    ("I32", 26, 1, 4),
    ("I64", 27, 1, 8),
    ("F64", 28, 1, 8),
    ("BF16", 30, 1, 2),
    ("TQ1_0", 34, 256, 54),
    ("TQ2_0", 35, 256, 66),
    ("MXFP4", 39, 32, 17),
];

/// How a tensor's values are stored: blocks of consecutive values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorKind {
    /// Its usual name, such as `Q4_K`.
    pub name: &'static str,
    /// Its number in a file.
    pub id: u32,
    /// Values in a block.
    pub values: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

impl TensorKind {
    /// The type of this number; None if its blocks are not known.
    pub fn of(id: u32) -> Option<TensorKind> {
        let &(name, id, values, bytes) = TENSORS.iter().find(|kind| kind.1 == id)?;
        Some(TensorKind { name, id, values, bytes })
    }

    /// The type of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn named(name: &str) -> TensorKind {
        let kind = TENSORS.iter().find(|kind| kind.0 == name).and_then(|kind| TensorKind::of(kind.1));
        kind.expect("a name in the table")
    }

    /// The values that it stores; None for whole numbers, which no weight is.
    pub fn stored(self) -> Option<Stored> {
        let floats = [Stored::F64, Stored::F32, Stored::F16, Stored::BF16];
        let blocks = Blocks::ALL.into_iter().map(Stored::Blocks);
        floats.into_iter().chain(blocks).find(|stored| stored.name() == self.name)
    }
}

/// The type of a metadata value of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// Unsigned, this many bytes.
    Unsigned(usize),
    /// Signed, this many bytes.
    Signed(usize),
    /// Floating point, this many bytes.
    Float(usize),
    /// One byte, 0 or 1.
    Bool,
}

impl Scalar {
    /// The type of this number; None for text, arrays and what is unknown.
    pub(super) fn of(id: u32) -> Option<Scalar> {
        Some(match id {
            0 => Scalar::Unsigned(1),
            1 => Scalar::Signed(1),
            2 => Scalar::Unsigned(2),
            3 => Scalar::Signed(2),
            4 => Scalar::Unsigned(4),
            5 => Scalar::Signed(4),
            6 => Scalar::Float(4),
            7 => Scalar::Bool,
            10 => Scalar::Unsigned(8),
            11 => Scalar::Signed(8),
            12 => Scalar::Float(8),
            _ => return None,
        })
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Scalar::Unsigned(n) | Scalar::Signed(n) | Scalar::Float(n) => n,
            Scalar::Bool => 1,
        }
    }
}
