//! The instruction sets of this machine, and the table of kernels of each.
//!
//! The rest of the CPU backend calls through [`Kernels`] and knows no instruction set. Every table computes the same
//! bits; [`scalar`] defines them.

use super::scalar;
use crate::error::{Result, RuntimeError};
use nanoserve_format::{Codes, Encoding, InputForm, PANEL_ROWS};

/// Rows of weights that a matrix kernel computes at a time: two panels.
pub const PAIR_ROWS: usize = 2 * PANEL_ROWS;

/// The most tokens that a matrix kernel computes at a time.
pub const MAX_TOKENS: usize = 16;

/// The output tile of a matrix kernel: 32 rows for each token.
pub type MatrixTile = [[f32; PAIR_ROWS]; MAX_TOKENS];

/// Two panels of one encoding times a tile of tokens.
#[derive(Clone, Copy, Debug)]
pub struct MatrixKernel {
    /// The numbers of tokens that it can take at a time: the most efficient first, 1 last.
    pub tokens: &'static [usize],
    /// The kernel.
    pub run: MatrixRun,
}

/// A matrix kernel, by the form of its input. Its arguments: two panels `[16, columns]`, the tile of tokens, the
/// output.
#[derive(Clone, Copy, Debug)]
pub enum MatrixRun {
    /// Takes [`InputForm::Float`].
    Float(fn([&[u8]; 2], FloatTile, &mut MatrixTile)),
    /// Takes [`InputForm::Bytes32`].
    Bytes32(fn([&[u8]; 2], BytesTile, &mut MatrixTile)),
    /// Takes [`InputForm::Bytes32`]; weights are codes of this encoding.
    Codes(Codes, CodesRun),
}

/// A matrix kernel for weights that are codes: like [`MatrixRun::Bytes32`], with their encoding.
pub type CodesRun = fn(Codes, [&[u8]; 2], BytesTile, &mut MatrixTile);

/// The matrix kernel for weights that are codes of any encoding.
#[derive(Clone, Copy, Debug)]
pub struct CodesKernel {
    /// The numbers of tokens that it can take at a time: the most efficient first, 1 last.
    pub tokens: &'static [usize],
    /// The kernel.
    pub run: CodesRun,
}

impl CodesKernel {
    /// The kernel of one encoding.
    fn of(&self, codes: Codes) -> MatrixKernel {
        MatrixKernel { tokens: self.tokens, run: MatrixRun::Codes(codes, self.run) }
    }
}

impl MatrixRun {
    /// The form of its input, as its encoding requires.
    pub fn input(self) -> InputForm {
        match self {
            MatrixRun::Float(_) => InputForm::Float,
            MatrixRun::Bytes32(_) | MatrixRun::Codes(..) => InputForm::Bytes32,
        }
    }
}

/// The kernels of one instruction set. The caller has checked the sizes of all slices. No kernel knows a model.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Its name for `--isa`.
    pub name: &'static str,
    /// For f32 weights.
    pub matrix_f32: MatrixKernel,
    /// For f16 weights.
    pub matrix_f16: MatrixKernel,
    /// For q8 weights.
    pub matrix_q8: MatrixKernel,
    /// For weights that are codes of any encoding.
    pub matrix_codes: CodesKernel,
    /// `(row, bytes, scales)`: rounds a row to bytes with a scale for each block.
    pub quantize: fn(&[f32], &mut [i8], &mut [BlockScale]),
    /// `(x, weight, eps, out)`.
    pub rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    /// `(head, cos, sin)`.
    pub rope: fn(&mut [f32], &[f32], &[f32]),
    /// `(gate, up)`: `gate = silu(gate) * up`.
    pub silu_mul: fn(&mut [f32], &[f32]),
    /// Like `silu_mul`, with gelu in its tanh form.
    pub gelu_mul: fn(&mut [f32], &[f32]),
    /// `x += y`.
    pub add: fn(&mut [f32], &[f32]),
    /// `x *= factor`.
    pub scale: fn(&mut [f32], f32),
    /// `x = cap * tanh(x / cap)`.
    pub softcap: fn(&mut [f32], f32),
    /// Attention over an f32 cache.
    pub attend_f32: fn(AttendJob),
    /// Attention over an f16 cache.
    pub attend_f16: fn(AttendJob),
    /// Loops that measure its peak rates; None for the scalar kernels.
    pub rates: Option<Rates>,
}

impl Kernels {
    /// The matrix kernel of an encoding.
    pub fn matrix(&self, encoding: Encoding) -> MatrixKernel {
        match encoding {
            Encoding::F32 => self.matrix_f32,
            Encoding::F16 => self.matrix_f16,
            Encoding::Q8 => self.matrix_q8,
            Encoding::Codes(codes) => self.matrix_codes.of(codes),
        }
    }
}

/// Loops that each do a single thing, to measure the machine's peak rates.
#[derive(Clone, Copy)]
pub struct Rates {
    /// `(rounds)`: int8 products. Returns the number of multiply-accumulates.
    pub dot: fn(usize) -> usize,
    /// `(rounds)`: f32 products, likewise.
    pub fma: fn(usize) -> usize,
    /// Reads all bytes.
    pub read: fn(&[u8]),
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A view of consecutive rows of activations.
#[derive(Clone, Copy, Debug)]
pub struct RowsView<'a> {
    /// `[rows, width]`
    pub data: &'a [f32],
    /// Values of a row.
    pub width: usize,
}

impl<'a> RowsView<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    /// One row: `[width]`.
    pub fn row(&self, t: usize) -> &'a [f32] {
        &self.data[t * self.width..(t + 1) * self.width]
    }

    /// A range of the rows.
    pub fn part(&self, rows: std::ops::Range<usize>) -> RowsView<'a> {
        RowsView { data: &self.data[rows.start * self.width..rows.end * self.width], width: self.width }
    }
}

/// The scale of a block of 32 activations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct BlockScale {
    /// What a byte of the block is multiplied by.
    pub scale: f32,
    /// -128 times the sum of the block's bytes. Kernels that read weights as unsigned add it.
    pub correction: i32,
    /// -128 times the sum of the first half's bytes.
    pub first: i32,
    /// The sum of the block's bytes, times `scale`: what a weight's minimum is multiplied by.
    pub sum: f32,
}

/// The activations of a few tokens, rounded to int8 in blocks of 32 and interleaved as the matrix kernels read them.
/// Columns are padded with zeros to whole pairs of blocks.
#[derive(Clone, Copy, Debug)]
pub struct BytesTile<'a> {
    /// `[columns / 4, tokens]`: four bytes of one token.
    pub words: &'a [i32],
    /// `[columns / 32, tokens]`
    pub scales: &'a [BlockScale],
    /// Number of tokens.
    pub tokens: usize,
}

/// The activations of a few tokens, interleaved as the matrix kernels read them.
#[derive(Clone, Copy, Debug)]
pub struct FloatTile<'a> {
    /// `[columns, tokens]`
    pub values: &'a [f32],
    /// Number of tokens.
    pub tokens: usize,
}

/// Attention of some query rows over the keys and values of one head.
#[derive(Debug)]
pub struct AttendJob<'a> {
    /// `[rows, head_dim]`, already scaled.
    pub q: &'a [f32],
    /// `[rows]`: one more than the last position that each row sees. Ascending; at least one row.
    pub limits: &'a [usize],
    /// Length of the sliding window: a row sees at most its last `window` positions. `usize::MAX` if it sees all.
    pub window: usize,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// `[ring / 16, head_dim, 16]` in the cache's type: lanes are positions.
    pub keys: &'a [u8],
    /// `[ring, value_stride]` in the cache's type: lanes are dimensions.
    pub values: &'a [u8],
    /// Length of the ring buffer: position p is at p modulo `ring`. If any limit is above it, it is a multiple of the
    /// softmax's block.
    pub ring: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// `[rows, head_dim]`
    pub out: &'a mut [f32],
}

impl AttendJob<'_> {
    /// Numbers from one position to the next in `values`: head_dim rounded up to whole lanes.
    pub fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(PANEL_ROWS)
    }
}

/// Defines `table()` of an instruction set; each entry compiles the generic kernel with the set's features. `bytes` and
/// `float` give the number of panels that a kernel with that input takes at a time, and its numbers of tokens; `codes` the
/// numbers of tokens with the panels that each takes.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! entry_points {
    (
        $simd:ty, $name:literal,
        features: $features:literal,
        bytes: $bytes_panels:literal, [$($bytes:literal),+],
        codes: [$($codes:literal by $codes_panels:literal),+],
        float: $float_panels:literal, [$($float:literal),+],
        attend: $rows:literal,
    ) => {
        /// The table, if the machine can run it.
        pub fn table() -> Option<&'static $crate::cpu::isa::Kernels> {
            static KERNELS: $crate::cpu::isa::Kernels = $crate::cpu::isa::Kernels {
                name: $name,
                matrix_f32: $crate::cpu::isa::MatrixKernel {
                    tokens: &[$($float),+],
                    run: $crate::cpu::isa::MatrixRun::Float(|panels, x, out| $crate::cpu::isa::entry_points!(@call features::matrix_float::<f32>(panels, x, out))),
                },
                matrix_f16: $crate::cpu::isa::MatrixKernel {
                    tokens: &[$($float),+],
                    run: $crate::cpu::isa::MatrixRun::Float(|panels, x, out| $crate::cpu::isa::entry_points!(@call features::matrix_float::<f16>(panels, x, out))),
                },
                matrix_q8: $crate::cpu::isa::MatrixKernel {
                    tokens: &[$($bytes),+],
                    run: $crate::cpu::isa::MatrixRun::Bytes32(|panels, x, out| $crate::cpu::isa::entry_points!(@call features::matrix_q8(panels, x, out))),
                },
                matrix_codes: $crate::cpu::isa::CodesKernel {
                    tokens: &[$($codes),+],
                    run: |codes, panels, x, out| $crate::cpu::isa::entry_points!(@call features::matrix_codes(codes, panels, x, out)),
                },
                quantize: |x, bytes, scales| $crate::cpu::isa::entry_points!(@call features::quantize(x, bytes, scales)),
                rms_norm: |x, weight, eps, out| $crate::cpu::isa::entry_points!(@call features::rms_norm(x, weight, eps, out)),
                rope: |head, cos, sin| $crate::cpu::isa::entry_points!(@call features::rope(head, cos, sin)),
                silu_mul: |gate, up| $crate::cpu::isa::entry_points!(@call features::silu_mul(gate, up)),
                gelu_mul: |gate, up| $crate::cpu::isa::entry_points!(@call features::gelu_mul(gate, up)),
                add: |x, y| $crate::cpu::isa::entry_points!(@call features::add(x, y)),
                scale: |x, factor| $crate::cpu::isa::entry_points!(@call features::scale(x, factor)),
                softcap: |x, cap| $crate::cpu::isa::entry_points!(@call features::softcap(x, cap)),
                attend_f32: |job| $crate::cpu::isa::entry_points!(@call features::attend::<f32>(job)),
                attend_f16: |job| $crate::cpu::isa::entry_points!(@call features::attend::<f16>(job)),
                rates: Some($crate::cpu::isa::Rates {
                    dot: |rounds| $crate::cpu::isa::entry_points!(@call features::dot_rate(rounds)),
                    fma: |rounds| $crate::cpu::isa::entry_points!(@call features::fma_rate(rounds)),
                    read: |bytes| $crate::cpu::isa::entry_points!(@call features::read(bytes)),
                }),
            };
            <$simd>::detect().map(|_| &KERNELS)
        }

        /// The generic kernels, compiled with the features that a value of the `Simd` type proves.
        mod features {
            use super::*;
            use nanoserve_format::Codes;
            use $crate::cpu::isa::{AttendJob, BlockScale, BytesTile, FloatTile, MatrixTile};

            /// The proof, for the functions here. Code without the features can call it only in an unsafe block.
            #[inline]
            #[target_feature(enable = $features)]
            fn proof() -> $simd {
                // SAFETY: this function is compiled with every feature that the type stands for, so its callers have
                // them.
                unsafe { <$simd>::assume() }
            }

            #[target_feature(enable = $features)]
            pub fn matrix_q8(panels: [&[u8]; 2], x: BytesTile, out: &mut MatrixTile) {
                match x.tokens {
                    $($bytes => generic::matrix_q8::<_, $bytes_panels, $bytes>(proof(), panels, x, out),)+
                    n => unreachable!("a tile of {n} tokens is not one that the table names"),
                }
            }

            #[target_feature(enable = $features)]
            pub fn matrix_codes(codes: Codes, panels: [&[u8]; 2], x: BytesTile, out: &mut MatrixTile) {
                match x.tokens {
                    $($codes => generic::matrix_codes::<_, $codes_panels, $codes>(proof(), codes, panels, x, out),)+
                    n => unreachable!("a tile of {n} tokens is not one that the table names"),
                }
            }

            #[target_feature(enable = $features)]
            pub fn matrix_float<W: generic::Stored>(panels: [&[u8]; 2], x: FloatTile, out: &mut MatrixTile) {
                match x.tokens {
                    $($float => generic::matrix_float::<_, W, $float_panels, $float>(proof(), panels, x, out),)+
                    n => unreachable!("a tile of {n} tokens is not one that the table names"),
                }
            }

            #[target_feature(enable = $features)]
            pub fn quantize(x: &[f32], bytes: &mut [i8], scales: &mut [BlockScale]) {
                generic::quantize(proof(), x, bytes, scales);
            }

            #[target_feature(enable = $features)]
            pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                generic::rms_norm(proof(), x, weight, eps, out);
            }

            #[target_feature(enable = $features)]
            pub fn rope(head: &mut [f32], cos: &[f32], sin: &[f32]) {
                generic::rope(proof(), head, cos, sin);
            }

            #[target_feature(enable = $features)]
            pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
                generic::silu_mul(proof(), gate, up);
            }

            #[target_feature(enable = $features)]
            pub fn gelu_mul(gate: &mut [f32], up: &[f32]) {
                generic::gelu_mul(proof(), gate, up);
            }

            #[target_feature(enable = $features)]
            pub fn add(x: &mut [f32], y: &[f32]) {
                generic::add(proof(), x, y);
            }

            #[target_feature(enable = $features)]
            pub fn scale(x: &mut [f32], factor: f32) {
                generic::scale(proof(), x, factor);
            }

            #[target_feature(enable = $features)]
            pub fn softcap(x: &mut [f32], cap: f32) {
                generic::softcap(proof(), x, cap);
            }

            #[target_feature(enable = $features)]
            pub fn attend<T: generic::Stored>(job: AttendJob) {
                generic::attend::<_, T, $rows>(proof(), job);
            }

            // As many independent chains as the best tile has accumulators.
            #[target_feature(enable = $features)]
            pub fn dot_rate(rounds: usize) -> usize {
                generic::dot_rate::<_, { $bytes_panels * [$($bytes),+][0] }>(proof(), rounds)
            }

            #[target_feature(enable = $features)]
            pub fn fma_rate(rounds: usize) -> usize {
                generic::fma_rate::<_, { $float_panels * [$($float),+][0] }>(proof(), rounds)
            }

            #[target_feature(enable = $features)]
            pub fn read(bytes: &[u8]) {
                generic::read(proof(), bytes);
            }
        }
    };
    (@call $($call:tt)+) => {
        // SAFETY: the machine has the features: this call is reachable only through `table`, which returns the kernels
        // only if the features were detected.
        unsafe { $($call)+ }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use entry_points;

/// Every table this machine can run: the scalar one first, the fastest last.
pub fn available() -> Vec<&'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let wider = [super::avx2::table(), super::avxvnni::table(), super::avx512::table()];
    #[cfg(target_arch = "aarch64")]
    let wider = super::neon::tables();
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let wider: [Option<&Kernels>; 0] = [];
    std::iter::once(&scalar::KERNELS).chain(wider.into_iter().flatten()).collect()
}

/// The table with this name, or the fastest if no name is given.
///
/// # Errors
/// When this machine, or this program, has no such table.
pub fn choose(name: Option<&str>) -> Result<&'static Kernels> {
    let all = available();
    let found = match name {
        Some(name) => all.iter().find(|k| k.name == name),
        None => all.last(),
    };
    found.copied().ok_or_else(|| RuntimeError::Isa {
        got: name.unwrap_or_default().to_string(),
        available: all.iter().map(|k| k.name).collect::<Vec<_>>().join(", "),
    })
}
