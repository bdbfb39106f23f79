//! Sums of the products of a matrix's inputs, two by two, over the tokens of a text.
//!
//! ```text
//! S[i][j] = sum over tokens of x[i] x[j], in f64
//! ```
//!
//! A sum's terms follow in the order of the tokens. Each is added by one fused operation, some tokens at a time, and no sum
//! crosses lanes: every machine and number of threads finds the same bits.
//!
//! The columns are kept in reverse order, because that is how they are factored: see [`cholesky`](super::cholesky).
//!
//! The only unsafe code calls functions that are compiled for features which were just detected.

use rayon::prelude::*;

/// Columns of a tile that is computed at a time.
pub(super) const LANES: usize = 8;

/// Rows of sums that one thread takes at a time: as many tiles share the cache.
const TILE_ROWS: usize = 8 * LANES;

/// Tokens that are added at a time.
const TOKENS: usize = 256;

/// The sums over a text, for the inputs of a matrix of `cols` columns.
#[derive(Clone, Debug)]
pub struct Moments {
    cols: usize,
    tokens: usize,
    /// `[width, width]`, of which the lower triangle counts; width is `cols` in whole lanes.
    pub(super) sums: Vec<f64>,
}

impl Moments {
    /// Sums over no token yet.
    pub fn new(cols: usize) -> Moments {
        let width = cols.next_multiple_of(LANES);
        Moments { cols, tokens: 0, sums: vec![0.0; width * width] }
    }

    /// Bytes of the sums for a matrix of `cols` columns.
    pub fn bytes(cols: usize) -> u64 {
        8 * (cols.next_multiple_of(LANES) as u64).pow(2)
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of tokens so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn width(&self) -> usize {
        self.cols.next_multiple_of(LANES)
    }

    /// Adds inputs, `[tokens, cols]`, on the threads of the current rayon pool. The bits do depend on how a text's tokens
    /// are divided among calls.
    ///
    /// # Panics
    /// When `rows` is no whole number of rows.
    pub fn add(&mut self, rows: &[f32]) {
        assert!(rows.len().is_multiple_of(self.cols));
        let (cols, width) = (self.cols, self.width());
        for rows in rows.chunks(TOKENS * cols) {
            let tokens = rows.len() / cols;
            let mut packed = vec![0.0; tokens * width];
            packed.par_chunks_mut(tokens * LANES).enumerate().for_each(|(block, packed)| {
                for (row, packed) in rows.chunks_exact(cols).zip(packed.chunks_exact_mut(LANES)) {
                    for (lane, packed) in packed.iter_mut().enumerate() {
                        if let Some(at) = cols.checked_sub(1 + block * LANES + lane) {
                            *packed = row[at].into();
                        }
                    }
                }
            });
            add_products(&mut self.sums, width, 0, &packed, 1.0);
            self.tokens += tokens;
        }
    }

    /// The mean square of each input.
    pub fn mean_squares(&self) -> Vec<f64> {
        let (n, width) = (self.cols, self.width());
        let tokens = self.tokens.max(1) as f64;
        (0..n).map(|col| self.sums[(n - 1 - col) * (width + 1)] / tokens).collect()
    }
}

/// Adds `sign` times the sums of products to the lower triangle of `sums`, `[width, width]`, from row and column `first` on.
/// `packed` has the factors from there on, in blocks of 8 columns: `[blocks, terms, 8]`. `first` is a multiple of 8.
pub(super) fn add_products(sums: &mut [f64], width: usize, first: usize, packed: &[f64], sign: f64) {
    let blocks = (width - first) / LANES;
    if blocks == 0 {
        return;
    }
    let block_len = packed.len() / blocks;
    let rows = sums[first * width..].par_chunks_mut(TILE_ROWS * width);
    rows.enumerate().for_each(|(tile, rows)| {
        let from = tile * TILE_ROWS / LANES;
        let own = from..from + rows.len() / width / LANES;
        for j in 0..own.end {
            let right = &packed[j * block_len..][..block_len];
            for i in own.start.max(j)..own.end {
                let products = products(&packed[i * block_len..][..block_len], right);
                for (r, products) in products.iter().enumerate() {
                    let at = ((i - own.start) * LANES + r) * width + first + j * LANES;
                    for (sum, product) in rows[at..at + LANES].iter_mut().zip(products) {
                        *sum += sign * product;
                    }
                }
            }
        }
    });
}

type Tile = [[f64; LANES]; LANES];

/// The sums of the products of two blocks' columns.
fn products(left: &[f64], right: &[f64]) -> Tile {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature that the function is compiled for was just detected.
        return unsafe { products_avx512(left, right) };
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features that the function is compiled for were just detected.
        return unsafe { products_avx2(left, right) };
    }
    plain(left, right)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
fn products_avx512(left: &[f64], right: &[f64]) -> Tile {
    plain(left, right)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn products_avx2(left: &[f64], right: &[f64]) -> Tile {
    plain(left, right)
}

#[inline(always)]
fn plain(left: &[f64], right: &[f64]) -> Tile {
    let mut sums = [[0f64; LANES]; LANES];
    for (left, right) in left.as_chunks::<LANES>().0.iter().zip(right.as_chunks::<LANES>().0) {
        for (sums, left) in sums.iter_mut().zip(left) {
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
    sums
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::SplitMix64;

    /// Inputs that depend on each other, as those of a model do.
    pub fn inputs(seed: u64, tokens: usize, cols: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        let mut uniform = || (random.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mut rows = Vec::with_capacity(tokens * cols);
        for _ in 0..tokens {
            let common = uniform();
            rows.extend((0..cols).map(|i| (1.0 + (i % 7) as f32) * (uniform() + common * (i % 3) as f32)));
        }
        rows
    }

    #[test]
    fn sums_are_those_of_the_plain_formula() {
        for (tokens, cols) in [(1, 1), (5, 7), (300, 70), (17, 130)] {
            let rows = inputs(1, tokens, cols);
            let mut moments = Moments::new(cols);
            moments.add(&rows);
            assert_eq!((moments.tokens(), moments.cols()), (tokens, cols));
            let width = moments.width();
            for i in 0..cols {
                for j in 0..=i {
                    let mut expected = 0f64;
                    for rows in rows.chunks(TOKENS * cols) {
                        let term =
                            |sum: f64, row: &[f32]| f64::from(row[cols - 1 - i]).mul_add(row[cols - 1 - j].into(), sum);
                        expected += rows.chunks_exact(cols).fold(0.0, term);
                    }
                    assert_eq!(moments.sums[i * width + j], expected, "{tokens} tokens, {i}, {j}");
                }
            }
            let squares: f64 = rows.iter().step_by(cols).map(|x| f64::from(*x).powi(2)).sum();
            assert!((moments.mean_squares()[0] - squares / tokens as f64).abs() < 1e-12);
        }
    }

    /// Threads and instruction sets change no bit.
    #[test]
    fn every_machine_finds_the_same_sums() {
        let (tokens, cols) = (40, 100);
        let rows = inputs(2, tokens, cols);
        let sums = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut moments = Moments::new(cols);
            pool.install(|| moments.add(&rows));
            moments.sums
        };
        assert!(sums(1) == sums(3));
        let rows: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
        let (left, right) = (&rows[..20 * LANES], &rows[32 * LANES..52 * LANES]);
        assert_eq!(products(left, right), plain(left, right));
    }
}
