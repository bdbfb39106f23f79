//! The Cholesky factor of a symmetric matrix, in place.
//!
//! ```text
//! for each 128 columns
//!   factor their own square, one thread
//!   solve the rows below it, 8 at a time in lanes
//!   subtract these rows' products from the triangle that is left
//! ```
//!
//! The order of every sum is fixed: the same matrix gives the same factor on every machine.

use super::moments::{LANES, add_products};
use rayon::prelude::*;

/// Columns that are factored at a time.
const STEP: usize = 128;

/// Replaces the lower triangle of `a`, `[width, width]`, by L with `L L^T = a`. `width` is a multiple of 8. A pivot below
/// `least` becomes `least`: rounding can make a matrix without full rank slightly negative.
pub(super) fn factor(a: &mut [f64], width: usize, least: f64) {
    let mut packed = Vec::new();
    for first in (0..width).step_by(STEP) {
        let n = STEP.min(width - first);
        let (head, below) = a[first * width..].split_at_mut(n * width);
        let mut own = [[0.0; STEP]; STEP];
        for (row, own) in head.chunks_exact(width).zip(&mut own) {
            own[..n].copy_from_slice(&row[first..first + n]);
        }
        square(&mut own, n, least);
        for (row, own) in head.chunks_exact_mut(width).zip(&own) {
            row[first..first + n].copy_from_slice(&own[..n]);
        }
        packed.resize(below.len() / width * n, 0.0);
        let blocks = below.par_chunks_mut(LANES * width).zip(packed.par_chunks_mut(n * LANES));
        blocks.for_each(|(rows, packed)| {
            let packed = packed.as_chunks_mut::<LANES>().0;
            for (lane, row) in rows.chunks_exact(width).enumerate() {
                for (packed, x) in packed.iter_mut().zip(&row[first..first + n]) {
                    packed[lane] = *x;
                }
            }
            solve(&own, packed);
            for (lane, row) in rows.chunks_exact_mut(width).enumerate() {
                for (packed, x) in packed.iter().zip(&mut row[first..first + n]) {
                    *x = packed[lane];
                }
            }
        });
        add_products(a, width, first + n, &packed, -1.0);
    }
}

/// Factors the first `n` rows and columns of a small matrix.
fn square(a: &mut [[f64; STEP]; STEP], n: usize, least: f64) {
    for j in 0..n {
        let (above, rest) = a.split_at_mut(j);
        let (row, rest) = rest.split_first_mut().expect("j is below n");
        for (i, above) in above.iter().enumerate() {
            let own: f64 = (0..i).map(|k| row[k] * above[k]).sum();
            row[i] = (row[i] - own) / above[i];
        }
        let own: f64 = row[..j].iter().map(|x| x * x).sum();
        row[j] = (row[j] - own).max(least).sqrt();
        row[j + 1..].fill(0.0);
        debug_assert_eq!(rest.len(), STEP - j - 1);
    }
}

/// Solves `x L^T = rows` for 8 rows, column after column: `[columns][8 rows]`.
fn solve(l: &[[f64; STEP]; STEP], rows: &mut [[f64; LANES]]) {
    for j in 0..rows.len() {
        let (solved, rest) = rows.split_at_mut(j);
        let x = &mut rest[0];
        for (solved, l) in solved.iter().zip(&l[j]) {
            for (x, solved) in x.iter_mut().zip(solved) {
                *x -= solved * l;
            }
        }
        x.iter_mut().for_each(|x| *x /= l[j][j]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::moments::{Moments, tests::inputs};
    use super::*;

    #[test]
    fn a_factor_times_itself_is_the_matrix() {
        for cols in [8, 24, 128, 136, 300] {
            let mut moments = Moments::new(cols);
            moments.add(&inputs(3, 2 * cols, cols));
            let (width, before) = (moments.width(), moments.sums.clone());
            for i in cols..width {
                moments.sums[i * (width + 1)] = 1.0;
            }
            factor(&mut moments.sums, width, 1e-9);
            let scale = before[0];
            for i in 0..cols {
                for j in 0..=i {
                    let got: f64 = (0..=j).map(|k| moments.sums[i * width + k] * moments.sums[j * width + k]).sum();
                    assert!((got - before[i * width + j]).abs() < 1e-9 * scale, "{cols}: {i}, {j}: {got}");
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let cols = 200;
        let mut moments = Moments::new(cols);
        moments.add(&inputs(4, 250, cols));
        let factored = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut a = moments.sums.clone();
            pool.install(|| factor(&mut a, 200, 1e-9));
            a
        };
        assert!(factored(1) == factored(3));
    }

    #[test]
    fn a_matrix_without_full_rank_has_a_finite_factor() {
        let cols = 64;
        let mut moments = Moments::new(cols);
        moments.add(&inputs(5, 3, cols));
        factor(&mut moments.sums, cols, 1e-6);
        assert!(moments.sums.iter().all(|x| x.is_finite()));
    }
}
