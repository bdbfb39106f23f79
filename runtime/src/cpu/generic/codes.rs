//! Two panels of codes times a few tokens.
//!
//! ```text
//! matrix_codes, for N tokens and P panels of 16 rows:
//!   sum[N][P] = 0
//!   for each block of 32 columns, for each panel, for each part of the block that has a scale of its own
//!     dot[N] = offset * (sum of y)                    integers
//!     for each line of codes
//!       w = its low group, its high group             unpacked once, used N times
//!       for each token: dot[token] += w . y
//!     sum = dot * (dw * dx) + sum                     dw by the form
//!     sum = min * (sum of y * dx) + sum               if there are minima
//! ```
//!
//! The loop is compiled once for each encoding, with all of its form known.

use super::{GROUPS, Group, Simd};
use crate::cpu::isa::{BlockScale, BytesTile, MatrixTile};
use crate::cpu::math::LANES;
use nanoserve_format::codes::{FRONT, Form, HEAD_FRONT, Scales, Span, Sub, Values};
use nanoserve_format::{Codes, PANEL_ROWS};

/// An encoding, as a type.
trait Encoded {
    /// What it consists of.
    const FORM: Form;
}

/// Evaluates an expression with a type that stands for the encoding.
macro_rules! with_encoding {
    ($codes:expr, [$($name:ident),+], $own:ident, $call:expr) => {
        match $codes {
            $(Codes::$name => {
                struct $own;
                impl Encoded for $own {
                    const FORM: Form = *Codes::$name.form();
                }
                $call
            })+
        }
    };
}

/// Two panels of codes times the tokens of a tile, `P` panels at a time.
#[inline(always)]
pub fn matrix_codes<S: Simd, const P: usize, const N: usize>(
    s: S,
    codes: Codes,
    panels: [&[u8]; 2],
    x: BytesTile,
    out: &mut MatrixTile,
) {
    with_encoding!(
        codes,
        [Q4, Q5, Q6, Q4_0, Q4_1, Q5_0, Q5_1, Iq4Nl, Mxfp4, Q4K, Q5K, Q6K, Iq4Xs],
        Own,
        run::<S, Own, P, N>(s, panels, x, out)
    );
}

/// The product for one encoding.
#[inline(always)]
fn run<S: Simd, E: Encoded, const P: usize, const N: usize>(
    s: S,
    panels: [&[u8]; 2],
    x: BytesTile,
    out: &mut MatrixTile,
) {
    let unit_bytes = const { E::FORM.unit_bytes() };
    let pairs_of_unit = const { E::FORM.unit_blocks() / 2 };
    let words = x.words.as_chunks::<N>().0.as_chunks::<GROUPS>().0.as_chunks::<2>().0;
    let scales = x.scales.as_chunks::<N>().0.as_chunks::<2>().0;
    for first in (0..2).step_by(P) {
        let panels: [&[u8]; P] = std::array::from_fn(|p| panels[first + p]);
        let mut sums = [[s.splat(0.0); P]; N];
        for (pair, (words, scales)) in words.iter().zip(scales).enumerate() {
            let unit = const { E::FORM.front_bytes() } + pair / pairs_of_unit * unit_bytes;
            // One panel after the other: the sums of all and the dot products of one fit in registers.
            for (p, panel) in panels.iter().enumerate() {
                let head = Head { panel, unit: &panel[unit..unit + unit_bytes] };
                for half in 0..2 {
                    let block = pair % pairs_of_unit * 2 + half;
                    add_block::<S, E, P, N>(s, head, block, &words[half], &scales[half], &mut sums, p);
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.iter_mut()) {
            for (sum, out) in sums.iter().zip(&mut out.as_chunks_mut::<LANES>().0[first..]) {
                s.store(*sum, out);
            }
        }
    }
}

/// Adds the products of one block of panel `p`.
#[inline(always)]
fn add_block<S: Simd, E: Encoded, const P: usize, const N: usize>(
    s: S,
    head: Head,
    block: usize,
    words: &[[i32; N]; GROUPS],
    scales: &[BlockScale; N],
    sums: &mut [[S::F; P]; N],
    p: usize,
) {
    let parts = const { if E::FORM.has_halves() { 2 } else { 1 } };
    let lines_of_part = 4 / parts;
    let bytes = const { E::FORM.block_bytes() };
    let lines = head.unit[const { E::FORM.head_bytes() } + block * bytes..][..bytes].as_chunks::<{ 4 * LANES }>().0;
    for part in 0..parts {
        let mut dots = [s.sum_start(0); N];
        for t in 0..N {
            dots[t] = start::<S, E>(s, part_of(&scales[t], part, parts));
        }
        for line in part * lines_of_part..(part + 1) * lines_of_part {
            let (codes, low, high) = (s.line(&lines[line]), 2 * line, 2 * line + 1);
            let first = numbers::<S, E>(s, s.low(codes), lines, low);
            let second = numbers::<S, E>(s, s.high(codes), lines, high);
            for t in 0..N {
                let (w, y) = ([first, second], [words[low][t], words[high][t]]);
                dots[t] = match E::FORM.values {
                    Values::Table(_) => s.dot(s.dot(dots[t], w[0], y[0]), w[1], y[1]),
                    Values::Linear(_) => s.dot_codes(dots[t], w, y),
                };
            }
        }
        let dw = head.scale::<S, E>(s, block, part);
        for t in 0..N {
            sums[t][p] = s.fma(s.to_float(dots[t]), s.mul(dw, s.splat(scales[t].scale)), sums[t][p]);
        }
    }
    if const { E::FORM.has_minima() } {
        let min = head.min::<S, E>(s, block);
        for t in 0..N {
            sums[t][p] = s.fma(min, s.splat(scales[t].sum), sums[t][p]);
        }
    }
}

/// -128 times the sum of the activations' bytes, of a block or one half of it.
#[inline(always)]
fn part_of(scale: &BlockScale, part: usize, parts: usize) -> i32 {
    match (part, parts) {
        (_, 1) => scale.correction,
        (0, _) => scale.first,
        _ => scale.correction.wrapping_sub(scale.first),
    }
}

/// What sums of dot products begin with.
#[inline(always)]
fn start<S: Simd, E: Encoded>(s: S, correction: i32) -> S::I {
    match E::FORM.values {
        Values::Table(_) => s.dot_start(correction),
        Values::Linear(0) => s.sum_start(0),
        // The correction is a multiple of 128.
        Values::Linear(offset) => s.sum_start((correction >> 7).wrapping_mul(-offset)),
    }
}

/// The numbers of a group of codes whose lower four bits are known, as weights.
#[inline(always)]
fn numbers<S: Simd, E: Encoded>(s: S, codes: S::B, lines: &[Group], group: usize) -> S::W {
    match (E::FORM.bits, E::FORM.values) {
        (_, Values::Table(table)) => s.lookup(table, codes),
        (4, _) => s.codes(codes),
        (5, _) => s.codes(s.with_bits(codes, s.line(&lines[4]), group, 1)),
        _ => s.codes(s.with_bits(codes, s.line(&lines[4 + group / 4]), 2 * (group % 4), 3)),
    }
}

/// Where the scales and minima of a unit's blocks are.
#[derive(Clone, Copy)]
struct Head<'p> {
    panel: &'p [u8],
    unit: &'p [u8],
}

impl Head<'_> {
    /// The scales of a block, or of one part of it, of 16 rows.
    #[inline(always)]
    fn scale<S: Simd, E: Encoded>(self, s: S, block: usize, part: usize) -> S::F {
        let (share, sub) = match E::FORM.scales {
            Scales::Flat(_) => return load_f16(s, self.unit, block * 2 * PANEL_ROWS),
            Scales::Nested(Span::Row, sub) => (load_f32(s, self.panel, 0), sub),
            Scales::Nested(Span::Columns256, sub) => (load_f16(s, self.unit, 0), sub),
        };
        let bytes = self.sub_bytes::<E>(block, part);
        s.mul(share, if let Sub::Unsigned = sub { s.load_u8(bytes) } else { s.load_i8(bytes) })
    }

    /// The minima of a block, of 16 rows; its form has them.
    #[inline(always)]
    fn min<S: Simd, E: Encoded>(self, s: S, block: usize) -> S::F {
        let share = match E::FORM.scales {
            Scales::Flat(_) => {
                let unit_blocks = const { E::FORM.unit_blocks() };
                return load_f16(s, self.unit, (unit_blocks + block) * 2 * PANEL_ROWS);
            }
            Scales::Nested(Span::Row, _) => load_f32(s, self.panel, FRONT / 2),
            Scales::Nested(Span::Columns256, _) => load_f16(s, self.unit, HEAD_FRONT / 2),
        };
        s.mul(s.mul(share, s.splat(-1.0)), s.load_u8(self.sub_bytes::<E>(block, 1)))
    }

    /// The `index`-th 16 bytes of a block's nested scales and minima.
    #[inline(always)]
    fn sub_bytes<E: Encoded>(&self, block: usize, index: usize) -> &[u8; PANEL_ROWS] {
        let front = if let Scales::Nested(Span::Columns256, _) = E::FORM.scales { HEAD_FRONT } else { 0 };
        let at = front + block * const { E::FORM.sub_bytes() } + index * PANEL_ROWS;
        self.unit[at..].first_chunk().expect("a block's scales and minima end in its unit")
    }
}

#[inline(always)]
fn load_f16<S: Simd>(s: S, bytes: &[u8], at: usize) -> S::F {
    let bytes: &[u8; 2 * LANES] = bytes[at..].first_chunk().expect("16 scales");
    s.load_f16(bytemuck::cast_ref(bytes))
}

#[inline(always)]
fn load_f32<S: Simd>(s: S, bytes: &[u8], at: usize) -> S::F {
    let bytes: &[u8; 4 * LANES] = bytes[at..].first_chunk().expect("16 scales");
    s.load(bytemuck::cast_ref(bytes))
}
