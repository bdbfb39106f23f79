//! Matrices times rows of activations: which thread takes which panels, and what stays in its cache meanwhile.
//!
//! ```text
//! for each run of neighbouring pairs of panels        a thread takes the next run when it is done with its last
//!   for each group of pairs whose weights fit L2
//!     for each few tokens                             their activations stay in L1
//!       for each pair of the group
//!         tile = weights of the pair x the tokens     one kernel call, all columns
//! ```

use super::CpuWeight;
use super::disjoint::{Disjoint, each_row_of_two};
use super::isa::{BlockScale, Kernels, MAX_TOKENS, MatrixTile, PAIR_ROWS, QuantizedRows, Rows};
use super::scalar::q8_columns;
use super::threads::Pool;
use nanoserve_format::Encoding;
use nanoserve_format::q8::Q8_BLOCK;

/// Bytes of weights that stay in a core's cache while all tokens pass over them.
const GROUP_BYTES: usize = 256 << 10;

/// Runs of pairs for each thread: enough that a slow core does not hold the rest.
const RUNS_PER_THREAD: usize = 8;

/// Room for the rounded form of a matrix's input.
#[derive(Debug, Default)]
pub struct Quantized {
    bytes: Vec<i8>,
    scales: Vec<BlockScale>,
}

impl Quantized {
    /// Rounds rows for q8 weights.
    pub fn fill(&mut self, kernels: &Kernels, pool: &Pool, x: Rows) {
        let columns = q8_columns(x.width);
        let blocks = columns / Q8_BLOCK;
        self.bytes.resize(x.rows() * columns, 0);
        self.scales.resize(x.rows() * blocks, BlockScale::default());
        each_row_of_two(pool, (&mut self.bytes, columns), (&mut self.scales, blocks), columns, |t, bytes, scales| {
            (kernels.quantize)(x.row(t), bytes, scales);
        });
    }
}

/// A matrix's input in the forms that its encodings need.
pub struct Input<'a> {
    rows: Rows<'a>,
    quantized: QuantizedRows<'a>,
}

impl<'a> Input<'a> {
    /// Rows, and their rounded form where a q8 matrix asks for it.
    pub fn new(rows: Rows<'a>, quantized: &'a Quantized) -> Self {
        let Quantized { bytes, scales } = quantized;
        Input { rows, quantized: QuantizedRows { bytes, scales, columns: q8_columns(rows.width) } }
    }
}

/// Where the rows of some pairs of panels go.
pub struct Output<'a> {
    /// `[tokens, width]`
    out: Disjoint<'a, f32>,
    width: usize,
    /// Rows of the output that a pair gives: 32, or 16 where two matrices make one.
    pair_rows: usize,
    /// The first pair of this output.
    first_pair: usize,
}

impl<'a> Output<'a> {
    /// A buffer `[tokens, width]` whose pairs begin at `first_pair`, and the first pair after it.
    pub fn new(out: &'a mut [f32], width: usize, pair_rows: usize, first_pair: usize) -> (Self, usize) {
        let next = first_pair + width.div_ceil(pair_rows);
        (Output { out: Disjoint::new(out), width, pair_rows, first_pair }, next)
    }
}

/// Two panels that a kernel computes together: of one matrix, or one of each of two.
pub type Pair<'a> = [(&'a CpuWeight, usize); 2];

/// Runs all pairs of all outputs over all tokens.
///
/// `panels(output, pair of that output)` names the panels; `finish(output, first row, tile row, out)` turns what a
/// kernel gave for one token into that token's rows of the output.
pub fn multiply<'w>(
    kernels: &Kernels,
    pool: &Pool,
    x: &Input,
    outputs: &[Output],
    panels: impl Fn(usize, usize) -> Pair<'w> + Sync,
    finish: impl Fn(usize, usize, &[f32; PAIR_ROWS], &mut [f32]) + Sync,
) {
    let tokens = x.rows.rows();
    let pairs = outputs.last().map_or(0, |o| o.first_pair + o.width.div_ceil(o.pair_rows));
    let run = pairs.div_ceil(RUNS_PER_THREAD * pool.threads());
    pool.each(pairs.div_ceil(run), |i| {
        let mut tile: MatrixTile = [[0.0; PAIR_ROWS]; MAX_TOKENS];
        let (mut at, end) = (i * run, ((i + 1) * run).min(pairs));
        while at < end {
            let index = outputs.partition_point(|o| o.first_pair <= at) - 1;
            let output = &outputs[index];
            let output_end = output.first_pair + output.width.div_ceil(output.pair_rows);
            let [(weight, _), _] = panels(index, at - output.first_pair);
            let fit = (GROUP_BYTES / (2 * weight.panel_bytes())).max(1);
            let group = at..(at + fit).min(end).min(output_end);
            let step = match weight.encoding {
                Encoding::Q8 => kernels.q8_tokens,
                Encoding::F16 | Encoding::F32 => kernels.float_tokens,
            };
            for first in (0..tokens).step_by(step) {
                let n = step.min(tokens - first);
                for pair in group.clone() {
                    let pair = pair - output.first_pair;
                    compute(kernels, panels(index, pair), x, first, n, &mut tile);
                    let row = pair * output.pair_rows;
                    let rows = output.pair_rows.min(output.width - row);
                    for (t, values) in tile[..n].iter().enumerate() {
                        // SAFETY: an output's rows `row..row + rows` belong to one pair, a pair to one run, a run to
                        // one thread; within it the part is dropped before the next is made.
                        let out = unsafe { output.out.part((first + t) * output.width + row, rows) };
                        finish(index, row, values, out);
                    }
                }
            }
            at = group.end;
        }
    });
}

/// Two panels times tokens `first..first + n`.
fn compute(kernels: &Kernels, pair: Pair, x: &Input, first: usize, n: usize, tile: &mut MatrixTile) {
    let panels = pair.map(|(weight, panel)| {
        let bytes = weight.panel_bytes();
        &weight.bytes()[panel * bytes..][..bytes]
    });
    match pair[0].0.encoding {
        Encoding::Q8 => (kernels.matrix_q8)(panels, x.quantized.part(first, n), tile),
        Encoding::F16 => (kernels.matrix_f16)(panels, x.rows.part(first, n), tile),
        Encoding::F32 => (kernels.matrix_f32)(panels, x.rows.part(first, n), tile),
    }
}
