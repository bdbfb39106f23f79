//! Matrices times rows of activations: which thread takes which panels, and what stays in its cache.
//!
//! ```text
//! for each share of the tokens                        one share; if weights are few, one for each thread
//!   for each run of neighbouring pairs of panels      a thread that is done takes the next run
//!   for each group of pairs whose weights fit L2
//!     for each tile of tokens                         their activations stay in L1
//!       for each pair of the group
//!         tile = weights of the pair x the tokens     one kernel call, all columns
//! ```

use super::CpuWeight;
use super::disjoint::Disjoint;
use super::input::Input;
use super::isa::{Kernels, MAX_TOKENS, MatrixTile, PAIR_ROWS};
use super::pool::Pool;
use nanoserve_format::PANEL_ROWS;
use std::ops::Range;

/// Bytes of weights that stay in a core's cache while all tokens pass over them.
const GROUP_BYTES: usize = 256 << 10;

/// Runs of pairs for each thread: enough that a slow core does not hold up the rest.
const RUNS_PER_THREAD: usize = 8;

/// If the weights take at most this many bytes, threads divide the tokens of a prompt (at least [`SHARE_TOKENS`] each)
/// instead of the panels. Then what a thread computed is still in its cache for the next operation, which saves more
/// than it costs that every thread reads all weights.
const SHARED_BYTES: usize = 2 << 20;
const SHARE_TOKENS: usize = 96;

/// Where the rows of some pairs of panels go.
pub struct Output<'a> {
    /// `[tokens, width]`
    out: Disjoint<'a, f32>,
    width: usize,
    /// Distance from the first panel's rows to the second's. None if the two panels belong to two matrices that
    /// together make one panel's rows.
    apart: Option<usize>,
    /// Number of pairs of this output.
    pairs: usize,
    /// The number of its first pair among those of all outputs.
    first_pair: usize,
}

impl<'a> Output<'a> {
    /// The output `[tokens, width]` of one matrix whose pairs begin at `first_pair`, and the first pair after it.
    pub fn new(out: &'a mut [f32], width: usize, first_pair: usize) -> (Self, usize) {
        let pairs = width.div_ceil(PANEL_ROWS).div_ceil(2);
        let apart = Some(pairs * PANEL_ROWS);
        (Output { out: Disjoint::new(out), width, apart, pairs, first_pair }, first_pair + pairs)
    }

    /// The output `[tokens, width]` that two matrices make together.
    pub fn of_two(out: &'a mut [f32], width: usize) -> Self {
        let pairs = width.div_ceil(PANEL_ROWS);
        Output { out: Disjoint::new(out), width, apart: None, pairs, first_pair: 0 }
    }

    /// Where a pair's tile goes: (first row of the output, number of rows, part of the tile).
    fn pieces(&self, pair: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
        let row = pair * PANEL_ROWS;
        let pieces = match self.apart {
            Some(apart) => [Some((row, 0..PANEL_ROWS)), Some((row + apart, PANEL_ROWS..PAIR_ROWS))],
            None => [Some((row, 0..PAIR_ROWS)), None],
        };
        let rows = |(row, tile)| (row < self.width).then(|| (row, PANEL_ROWS.min(self.width - row), tile));
        pieces.into_iter().flatten().filter_map(rows)
    }
}

/// Two panels that a kernel computes together: both of one matrix, or one each of two matrices with the same encoding.
pub type Pair<'a> = [(&'a CpuWeight, usize); 2];

/// The panels of pair `pair` of one matrix: one from its first half and one from its second, so that successive pairs
/// read two contiguous streams. If there is no second panel, the first is used twice.
pub fn halves(weight: &CpuWeight, pair: usize) -> Pair<'_> {
    let second = pair + weight.panels().div_ceil(2);
    [(weight, pair), (weight, if second < weight.panels() { second } else { pair })]
}

/// Runs all pairs of all outputs over all tokens.
///
/// `panels(output, pair of that output)` returns the panels. `finish(output, first row, tile rows, out)` turns a
/// kernel's result for one token into that token's rows of the output: the rows of one panel, or of a pair if two
/// matrices make them.
pub fn multiply<'w>(
    kernels: &Kernels,
    pool: &Pool,
    x: &Input,
    outputs: &[Output],
    panels: impl Fn(usize, usize) -> Pair<'w> + Sync,
    finish: impl Fn(usize, usize, &[f32], &mut [f32]) + Sync,
) {
    let pairs = outputs.last().map_or(0, |o| o.first_pair + o.pairs);
    let bytes: usize = outputs.iter().enumerate().map(|(i, o)| 2 * o.pairs * panels(i, 0)[0].0.panel_bytes()).sum();
    let shares = if bytes <= SHARED_BYTES { (x.rows() / SHARE_TOKENS).clamp(1, pool.threads()) } else { 1 };
    let run = pairs.div_ceil(RUNS_PER_THREAD * pool.threads() / shares);
    let runs = pairs.div_ceil(run);
    pool.each(shares * runs, |i| {
        let mut tile: MatrixTile = [[0.0; PAIR_ROWS]; MAX_TOKENS];
        let (share, i) = (i / runs, i % runs);
        let (mut at, end) = (i * run, ((i + 1) * run).min(pairs));
        while at < end {
            let index = outputs.partition_point(|o| o.first_pair <= at) - 1;
            let output = &outputs[index];
            let [(weight, _), _] = panels(index, at - output.first_pair);
            let fit = (GROUP_BYTES / (2 * weight.panel_bytes())).max(1);
            let group = at..(at + fit).min(end).min(output.first_pair + output.pairs);
            let kernel = kernels.matrix(weight.encoding);
            let tiles = x.tiles(&kernel);
            let cut = tiles.cut();
            for &tokens in &cut[share * cut.len() / shares..(share + 1) * cut.len() / shares] {
                for pair in group.clone() {
                    let pair = pair - output.first_pair;
                    let panels = panels(index, pair).map(|(weight, panel)| weight.panel(panel));
                    tiles.run(&kernel, panels, tokens, &mut tile);
                    for (row, rows, part) in output.pieces(pair) {
                        for (t, values) in tile[..tokens.1].iter().enumerate() {
                            // SAFETY: an output's rows `row..row + rows` belong to one pair, a pair to one run, and a
                            // token to one share. One thread has both run and share, and it drops this part before it
                            // makes the next.
                            let out = unsafe { output.out.part((tokens.0 + t) * output.width + row, rows) };
                            finish(index, row, &values[part.clone()], out);
                        }
                    }
                }
            }
            at = group.end;
        }
    });
}
