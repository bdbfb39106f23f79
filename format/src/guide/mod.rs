//! What is known of a matrix's inputs when it is packed: which columns matter, and how an error in one column can be made up
//! for in later ones.
//!
//! With inputs x, the error e of a row of weights costs `sum over tokens of (e . x)^2 = e S e^T`, where S are the
//! [`Moments`]. Let `S = (U + 1) D (U + 1)^T` with U strictly upper triangular and D diagonal. If the columns are rounded in
//! order, each after it was moved by the errors of those before it,
//!
//! ```text
//! q[k] = nearest to w[k] + sum over j < k of (w[j] - q[j]) U[j][k]
//! ```
//!
//! then the cost is the sum of `D[k]` times the squared distance to the nearest: no matrix is inverted. (This is GPTQ in the
//! form of QuIP's appendix.) [`Guide::from_moments`] finds U in f64.

mod cholesky;
#[allow(unsafe_code)]
mod moments;

pub use moments::Moments;

use rayon::prelude::*;

/// Columns that share their scales: they are moved together by the errors of all columns before them.
const BLOCK: usize = crate::codes::BLOCK;

/// Columns whose coefficients lie side by side.
pub(crate) const GROUP: usize = 8;

/// The least importance of a column, relative to the mean: no column is free.
const LEAST: f64 = 1e-4;

/// How moments become a guide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trust {
    /// Added to each column's mean square, as a part of their mean: a text that is short says little about columns that
    /// rarely differ from zero.
    pub damping: f64,
    /// The part of the products of different columns that is kept. What is left out counts as chance.
    pub products: f64,
}

impl Default for Trust {
    fn default() -> Trust {
        Trust { damping: 0.01, products: 1.0 }
    }
}

/// What packing knows of a matrix's inputs. The same for every row.
#[derive(Clone, Debug)]
pub struct Guide {
    /// How much an error in each column counts; 1 in the mean.
    importance: Vec<f32>,
    /// For each block of 32 columns: the coefficients of all columns before it, for 8 of its own columns at a time; then
    /// those of its own. Empty if errors are not made up for.
    feedback: Vec<f32>,
}

impl Guide {
    /// A guide that says only how much an error in each column counts.
    ///
    /// # Panics
    /// When there is no column.
    pub fn from_importance(importance: &[f64]) -> Guide {
        assert!(!importance.is_empty());
        let sane = |x: f64| if x.is_finite() && x > 0.0 { x } else { 0.0 };
        let mean = importance.iter().map(|x| sane(*x)).sum::<f64>() / importance.len() as f64;
        let relative = |x: &f64| if mean > 0.0 { (sane(*x) / mean).max(LEAST) as f32 } else { 1.0 };
        Guide { importance: importance.iter().map(relative).collect(), feedback: Vec::new() }
    }

    /// A guide from sums over a text, on the threads of the current rayon pool.
    pub fn from_moments(moments: Moments, trust: Trust) -> Guide {
        let (n, width) = (moments.cols(), moments.width());
        let squares = moments.mean_squares();
        let tokens = moments.tokens().max(1) as f64;
        let mut sums = moments.sums;
        let mean = tokens * squares.iter().sum::<f64>() / n as f64;
        if mean.is_nan() || mean <= 0.0 || mean.is_infinite() {
            return Guide::from_importance(&vec![1.0; n]);
        }
        if trust.products != 1.0 {
            sums.par_chunks_mut(width).enumerate().for_each(|(i, row)| {
                row[..i].iter_mut().for_each(|x| *x *= trust.products);
            });
        }
        let damping = trust.damping * mean;
        for i in 0..width {
            let own = &mut sums[i * (width + 1)];
            *own = if i < n { *own + damping } else { mean };
        }
        cholesky::factor(&mut sums, width, 1e-9 * mean);
        let blocks = n.div_ceil(BLOCK);
        let mut feedback = vec![0f32; place(blocks)];
        let mut parts = Vec::with_capacity(blocks);
        let mut rest = feedback.as_mut_slice();
        for block in 0..blocks {
            let (part, after) = rest.split_at_mut(place(block + 1) - place(block));
            parts.push(part);
            rest = after;
        }
        // The factor has the columns in reverse order.
        let coefficient = |j: usize, k: usize| {
            let (row, col) = (n - 1 - j, n - 1 - k);
            (sums[row * width + col] / sums[col * (width + 1)]) as f32
        };
        parts.into_par_iter().enumerate().for_each(|(block, part)| {
            let first = block * BLOCK;
            let (before, own) = part.split_at_mut(first * BLOCK);
            for (group, before) in before.chunks_exact_mut((first * GROUP).max(1)).enumerate() {
                for (j, row) in before.chunks_exact_mut(GROUP).enumerate() {
                    let columns = (first + group * GROUP..n).zip(row);
                    columns.for_each(|(k, x)| *x = coefficient(j, k));
                }
            }
            for (j, row) in own.chunks_exact_mut(BLOCK).enumerate().take(n - first) {
                let columns = (first + j + 1..n).zip(&mut row[j + 1..]);
                columns.for_each(|(k, x)| *x = coefficient(first + j, k));
            }
        });
        Guide { feedback, ..Guide::from_importance(&squares) }
    }

    /// Bytes of a guide for a matrix of `cols` columns, made from sums.
    pub fn bytes(cols: usize) -> u64 {
        4 * place(cols.div_ceil(BLOCK)) as u64
    }

    /// Columns of the matrices that it is for.
    pub fn cols(&self) -> usize {
        self.importance.len()
    }

    /// How much errors count in the columns of a block; of columns that are not there, not at all.
    pub(crate) fn importance(&self, block: usize) -> [f32; BLOCK] {
        let mut out = [0.0; BLOCK];
        let own = &self.importance[block * BLOCK..];
        for (out, x) in out.iter_mut().zip(own) {
            *out = *x;
        }
        out
    }

    /// A block's coefficients: `[4, columns before it, 8]`, and `[32, 32]` of its own. None if errors are not made up for.
    pub(crate) fn coefficients(&self, block: usize) -> Option<(&[f32], &[[f32; BLOCK]])> {
        if self.feedback.is_empty() {
            return None;
        }
        let part = &self.feedback[place(block)..place(block + 1)];
        let (before, own) = part.split_at(block * BLOCK * BLOCK);
        Some((before, own.as_chunks().0))
    }
}

/// Where a block's coefficients begin: each block before it has one for each of its columns and each before or in it.
fn place(block: usize) -> usize {
    BLOCK * BLOCK * (block * block.saturating_sub(1) / 2 + block)
}

#[cfg(test)]
mod tests {
    use super::moments::tests::inputs;
    use super::*;

    /// The coefficients are those of `S = (U + 1) D (U + 1)^T`.
    #[test]
    fn coefficients_factor_the_sums() {
        let n = 70;
        let rows = inputs(7, 200, n);
        let mut moments = Moments::new(n);
        moments.add(&rows);
        let guide = Guide::from_moments(moments, Trust { damping: 0.0, products: 1.0 });
        let u = |j: usize, k: usize| -> f64 {
            let (before, own) = guide.coefficients(k / BLOCK).unwrap();
            let (first, k) = (k / BLOCK * BLOCK, k % BLOCK);
            f64::from(if j >= first { own[j - first][k] } else { before[(k / GROUP * first + j) * GROUP + k % GROUP] })
        };
        // The inputs with coefficient rows applied are independent: (U + 1)^-1 S (U + 1)^-T is diagonal. So solve for them.
        let mut solved: Vec<Vec<f64>> = Vec::new();
        for row in rows.chunks_exact(n) {
            let mut y: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            for j in (0..n).rev() {
                y[j] -= (j + 1..n).map(|k| u(j, k) * y[k]).sum::<f64>();
            }
            solved.push(y);
        }
        let product = |i: usize, j: usize| solved.iter().map(|y| y[i] * y[j]).sum::<f64>();
        for i in 0..n {
            for j in 0..i {
                let limit = 1e-4 * (product(i, i) * product(j, j)).sqrt();
                assert!(product(i, j).abs() <= limit, "{i}, {j}: {}", product(i, j));
            }
        }
    }

    #[test]
    fn importance_is_relative_and_never_nothing() {
        let guide = Guide::from_importance(&[1.0, 3.0, 0.0, f64::NAN, -1.0, f64::INFINITY]);
        let got = guide.importance(0);
        assert_eq!(got[..6], [1.5, 4.5, 1e-4, 1e-4, 1e-4, 1e-4]);
        assert_eq!(got[6..], [0.0; 26]);
        assert!(guide.coefficients(0).is_none());
        assert_eq!(Guide::from_importance(&[0.0; 4]).importance(0)[..4], [1.0; 4]);
    }

    #[test]
    fn inputs_that_are_always_zero_say_nothing() {
        let mut moments = Moments::new(40);
        moments.add(&[0.0; 80]);
        let guide = Guide::from_moments(moments, Trust::default());
        assert_eq!((guide.cols(), guide.importance(1)[..8] == [1.0; 8]), (40, true));
        assert!(guide.coefficients(0).is_none());
    }
}
