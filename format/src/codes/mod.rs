//! Encodings of 4, 5 or 6 bits a weight: codes in blocks of 32 columns, with a scale and perhaps a minimum.
//!
//! A weight is `scale * (c + offset) + min`, where `c` is its code, or the table's number for its code. A [`Form`] holds
//! everything that tells one of these encodings from another; the loops that read and write panels follow the form.
//!
//! Three forms are our own (q4, q5, q6): any number of columns, scales of one byte and two f32 for a whole row. The
//! others hold exactly what a GGUF file holds, and are called as there.
//!
//! ```text
//! panel of 16 rows     front, units
//! front                own forms: 16 f32 scales, then 16 f32 minima, which the rows' bytes multiply; else nothing
//! unit                 64 columns, or 256 where f16 scales belong to 256 columns: head, blocks of 32 columns
//! head     flat        for each block 16 f16 scales; then, with minima, for each block 16 f16 minima
//!          nested      256 columns: 16 f16 scales, 16 f16 minima (zeros without); then
//!                      unsigned: for each block 16 bytes of scales, 16 bytes of minima
//!                      signed: for each 16 or 32 columns 16 bytes of scales
//! block                4 lines of 64 bytes with the low 4 bits, then 1 line with the fifth bits, or 2 with the fifth
//!                      and sixth
//! ```
//!
//! In a line, byte `4 * row + j` belongs to the columns `4 * group + j` of a block. Line `h` of the low bits has group
//! `2 * h` in its low halves and group `2 * h + 1` in its high ones. A line of fifth bits has group `g` in bit `g`; a
//! line `k` of fifth and sixth bits has group `4 * k + i` in bits `2 * i` and `2 * i + 1`.

mod fit;
mod pack;
mod view;

pub use view::{BlockScales, PanelMut, PanelRef};

use crate::encoding::{Description, InputForm, PANEL_ROWS};

/// Columns of a block.
pub const BLOCK: usize = 32;

/// Bytes of a line: 16 rows of four columns.
pub const LINE: usize = 4 * PANEL_ROWS;

/// Bytes in front of the units of a panel whose scales belong to whole rows.
pub const FRONT: usize = 2 * 4 * PANEL_ROWS;

/// Bytes of the f16 scales and minima of 256 columns.
pub const HEAD_FRONT: usize = 2 * 2 * PANEL_ROWS;

/// The table of IQ4_NL and IQ4_XS.
pub static IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The table of MXFP4: the values of e2m1, doubled.
pub static E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// An encoding of this family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codes {
    /// Our own: 4 bits, a byte of scale and a byte of minimum for 32 columns.
    Q4,
    /// Our own: 5 bits, likewise.
    Q5,
    /// Our own: 6 bits, a signed byte of scale for 16 columns.
    Q6,
    /// 4 bits, f16 scale.
    Q4_0,
    /// 4 bits, f16 scale and minimum.
    Q4_1,
    /// 5 bits, f16 scale.
    Q5_0,
    /// 5 bits, f16 scale and minimum.
    Q5_1,
    /// 4 bits into a table, f16 scale.
    Iq4Nl,
    /// 4 bits as e2m1, a power of two as scale.
    Mxfp4,
    /// 4 bits, scale and minimum of 32 columns times two f16 of 256.
    Q4K,
    /// 5 bits, likewise.
    Q5K,
    /// 6 bits, scale of 16 columns times an f16 of 256.
    Q6K,
    /// 4 bits into a table, scale of 32 columns times an f16 of 256.
    Iq4Xs,
}

/// What a code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// The code plus this number.
    Linear(i32),
    /// The number at the code's place.
    Table(&'static [i8; 16]),
}

/// Where the scales and minima of the blocks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// An f16 scale for each block and, if true, an f16 minimum.
    Flat(bool),
    /// Bytes for each block, times numbers of a longer part of the row.
    Nested(Span, Sub),
}

/// How many columns of a row share the two numbers that each block's bytes are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The whole row; f32.
    Row,
    /// 256 columns; f16.
    Columns256,
}

/// The bytes of a block whose scale is nested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sub {
    /// An unsigned scale, and an unsigned factor of the negated minimum.
    Unsigned,
    /// A signed scale for each so many columns, 16 or 32; no minimum.
    Signed(usize),
}

/// Everything that an encoding of this family consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bits of a code: 4, 5 or 6.
    pub bits: u32,
    /// What a code stands for.
    pub values: Values,
    /// Its scales and minima.
    pub scales: Scales,
}

impl Form {
    /// Blocks of a unit.
    pub const fn unit_blocks(&self) -> usize {
        match self.scales {
            Scales::Nested(Span::Columns256, _) => 8,
            Scales::Flat(_) | Scales::Nested(Span::Row, _) => 2,
        }
    }

    /// Bytes of a unit's head.
    pub const fn head_bytes(&self) -> usize {
        let front = match self.scales {
            Scales::Flat(minima) => return self.unit_blocks() * 2 * PANEL_ROWS * (1 + minima as usize),
            Scales::Nested(Span::Row, _) => 0,
            Scales::Nested(Span::Columns256, _) => HEAD_FRONT,
        };
        front + self.unit_blocks() * self.sub_bytes()
    }

    /// Bytes of a block's nested scales and minima.
    pub const fn sub_bytes(&self) -> usize {
        match self.scales {
            Scales::Flat(_) => 0,
            Scales::Nested(_, Sub::Unsigned) => 2 * PANEL_ROWS,
            Scales::Nested(_, Sub::Signed(columns)) => BLOCK / columns * PANEL_ROWS,
        }
    }

    /// Bytes of a block's codes.
    pub const fn block_bytes(&self) -> usize {
        match self.bits {
            4 => 4 * LINE,
            5 => 5 * LINE,
            _ => 6 * LINE,
        }
    }

    /// Bytes of a unit.
    pub const fn unit_bytes(&self) -> usize {
        self.head_bytes() + self.unit_blocks() * self.block_bytes()
    }

    /// Bytes in front of a panel's units.
    pub const fn front_bytes(&self) -> usize {
        match self.scales {
            Scales::Nested(Span::Row, _) => FRONT,
            Scales::Flat(_) | Scales::Nested(Span::Columns256, _) => 0,
        }
    }

    /// Bytes of a panel of `cols` columns, or None if that overflows.
    pub fn panel_bytes(&self, cols: usize) -> Option<usize> {
        let units = cols.div_ceil(self.unit_blocks() * BLOCK);
        units.checked_mul(self.unit_bytes())?.checked_add(self.front_bytes())
    }

    /// Whether blocks have minima.
    pub const fn has_minima(&self) -> bool {
        matches!(self.scales, Scales::Flat(true) | Scales::Nested(_, Sub::Unsigned))
    }

    /// Whether each half of a block has a scale of its own.
    pub const fn has_halves(&self) -> bool {
        matches!(self.scales, Scales::Nested(_, Sub::Signed(columns)) if columns < BLOCK)
    }

    /// The largest code.
    pub const fn largest_code(&self) -> u8 {
        (1 << self.bits) - 1
    }

    /// The number that a code stands for, before scale and minimum.
    pub fn value(&self, code: u8) -> i32 {
        match self.values {
            Values::Linear(offset) => i32::from(code) + offset,
            Values::Table(table) => table[usize::from(code)].into(),
        }
    }
}

/// Defines the forms and their descriptions, in the order of [`Codes`].
macro_rules! forms {
    ($($name:ident, $code:literal, $word:literal, $bits:literal, $values:expr, $scales:expr;)+) => {
        impl Codes {
            /// Every encoding of this family.
            pub const ALL: [Codes; 13] = [$(Codes::$name),+];

            /// What it consists of.
            pub const fn form(self) -> &'static Form {
                match self {
                    $(Codes::$name => {
                        static FORM: Form = Form { bits: $bits, values: $values, scales: $scales };
                        &FORM
                    })+
                }
            }

            /// Its properties as an encoding.
            pub(crate) const fn description(self) -> &'static Description {
                match self {
                    $(Codes::$name => {
                        static DESCRIPTION: Description = Description {
                            code: $code,
                            name: $word,
                            exact: false,
                            largest: pack::LARGEST,
                            step: |largest| pack::step(Codes::$name.form(), largest),
                            input: InputForm::Bytes32,
                            panel_bytes: |cols| Codes::$name.form().panel_bytes(cols),
                            pack: |cols, rows, out| pack::pack(Codes::$name.form(), cols, rows, out),
                            unpack_row: |panel, row, out| view::unpack_row(Codes::$name.form(), panel, row, out),
                        };
                        &DESCRIPTION
                    })+
                }
            }
        }
    };
}

use Scales::{Flat, Nested};
use Values::{Linear, Table};

forms! {
    Q4, 3, "q4", 4, Linear(0), Nested(Span::Row, Sub::Unsigned);
    Q5, 4, "q5", 5, Linear(0), Nested(Span::Row, Sub::Unsigned);
    Q6, 5, "q6", 6, Linear(-32), Nested(Span::Row, Sub::Signed(16));
    Q4_0, 6, "q4_0", 4, Linear(-8), Flat(false);
    Q4_1, 7, "q4_1", 4, Linear(0), Flat(true);
    Q5_0, 8, "q5_0", 5, Linear(-16), Flat(false);
    Q5_1, 9, "q5_1", 5, Linear(0), Flat(true);
    Iq4Nl, 10, "iq4_nl", 4, Table(&IQ4), Flat(false);
    Mxfp4, 11, "mxfp4", 4, Table(&E2M1), Flat(false);
    Q4K, 12, "q4_k", 4, Linear(0), Nested(Span::Columns256, Sub::Unsigned);
    Q5K, 13, "q5_k", 5, Linear(0), Nested(Span::Columns256, Sub::Unsigned);
    Q6K, 14, "q6_k", 6, Linear(-32), Nested(Span::Columns256, Sub::Signed(16));
    Iq4Xs, 15, "iq4_xs", 4, Table(&IQ4), Nested(Span::Columns256, Sub::Signed(32));
}
