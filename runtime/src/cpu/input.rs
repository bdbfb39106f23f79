//! The input of a matrix product: rows cut into tiles of a few tokens, each laid out as the kernels read it.

use super::disjoint::{Disjoint, each_range};
use super::isa::{BlockScale, BytesTile, FloatTile, Kernels, MatrixKernel, MatrixRun, MatrixTile, RowsView};
use super::pool::Pool;
use super::scalar::bytes_columns;
use nanoserve_format::{Encoding, INPUT_BLOCK, InputForm};

/// Rows in every form that the current matrices need. It keeps its memory from one input to the next.
#[derive(Debug, Default)]
pub struct Input {
    rows: usize,
    /// One for each pair of form and tile sizes needed so far. There are two if all kernels of a form use the same
    /// sizes.
    tiles: Vec<Tiles>,
}

/// Rows in one form, cut into tiles of the sizes that some kernels take.
#[derive(Debug)]
pub struct Tiles {
    form: InputForm,
    sizes: &'static [usize],
    /// True if it holds the current input, not an earlier one.
    filled: bool,
    /// First token and number of tokens of each tile.
    cut: Vec<(usize, usize)>,
    /// Columns of a row; for bytes padded to whole pairs of blocks.
    columns: usize,
    /// Form bytes: `[columns / 4, tokens]` for each tile.
    words: Vec<i32>,
    /// Form bytes: `[columns / 32, tokens]` for each tile.
    scales: Vec<BlockScale>,
    /// Form f32: `[columns, tokens]` for each tile.
    values: Vec<f32>,
}

impl Input {
    /// Converts rows to the forms that matrices with these `encodings` need.
    pub fn fill(&mut self, kernels: &Kernels, pool: &Pool, x: RowsView, encodings: impl Iterator<Item = Encoding>) {
        self.rows = x.rows();
        self.tiles.iter_mut().for_each(|tiles| tiles.filled = false);
        for kernel in encodings.map(|encoding| kernels.matrix(encoding)) {
            let at = self.tiles.iter().position(|tiles| tiles.serve(&kernel)).unwrap_or_else(|| {
                self.tiles.push(Tiles::new(&kernel));
                self.tiles.len() - 1
            });
            if !self.tiles[at].filled {
                self.tiles[at].fill(kernels, pool, x);
            }
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The tiles for a kernel. The kernel's encoding must be one of those it was filled for.
    pub fn tiles(&self, kernel: &MatrixKernel) -> &Tiles {
        self.tiles.iter().find(|tiles| tiles.filled && tiles.serve(kernel)).expect("filled for every matrix at hand")
    }
}

impl Tiles {
    fn new(kernel: &MatrixKernel) -> Self {
        let (form, sizes) = (kernel.run.input(), kernel.tokens);
        let (words, scales, values) = (Vec::new(), Vec::new(), Vec::new());
        Tiles { form, sizes, filled: false, cut: Vec::new(), columns: 0, words, scales, values }
    }

    /// True if a kernel takes tiles of this form and these sizes.
    fn serve(&self, kernel: &MatrixKernel) -> bool {
        self.form == kernel.run.input() && self.sizes == kernel.tokens
    }

    fn fill(&mut self, kernels: &Kernels, pool: &Pool, x: RowsView) {
        cut(x.rows(), self.sizes, &mut self.cut);
        match self.form {
            InputForm::Float => self.transpose(pool, x),
            InputForm::Bytes32 => self.quantize(kernels, pool, x),
        }
        self.filled = true;
    }

    fn quantize(&mut self, kernels: &Kernels, pool: &Pool, x: RowsView) {
        self.columns = bytes_columns(x.width);
        let Tiles { cut, words, scales, columns, .. } = self;
        let (groups, blocks) = (*columns / 4, *columns / INPUT_BLOCK);
        words.resize(x.rows() * groups, 0);
        scales.resize(x.rows() * blocks, BlockScale::default());
        let (words, scales) = (Disjoint::new(words), Disjoint::new(scales));
        each_range(pool, cut.len(), *columns * cut[0].1, |range| {
            let (mut bytes, mut row_scales) = (vec![0i8; *columns], vec![BlockScale::default(); blocks]);
            for &(first, n) in &cut[range] {
                // SAFETY: tiles do not overlap, and each is in one range.
                let (words, scales) =
                    unsafe { (words.part(first * groups, n * groups), scales.part(first * blocks, n * blocks)) };
                for t in 0..n {
                    (kernels.quantize)(x.row(first + t), &mut bytes, &mut row_scales);
                    for (word, four) in words[t..].iter_mut().step_by(n).zip(bytes.as_chunks::<4>().0) {
                        *word = i32::from_le_bytes(four.map(|b| b as u8));
                    }
                    for (scale, own) in scales[t..].iter_mut().step_by(n).zip(&row_scales) {
                        *scale = *own;
                    }
                }
            }
        });
    }

    fn transpose(&mut self, pool: &Pool, x: RowsView) {
        self.columns = x.width;
        let Tiles { cut, values, columns, .. } = self;
        values.resize(x.rows() * *columns, 0.0);
        let values = Disjoint::new(values);
        each_range(pool, cut.len(), *columns * cut[0].1, |range| {
            for &(first, n) in &cut[range] {
                // SAFETY: tiles do not overlap, and each is in one range.
                let values = unsafe { values.part(first * *columns, n * *columns) };
                for t in 0..n {
                    for (value, x) in values[t..].iter_mut().step_by(n).zip(x.row(first + t)) {
                        *value = *x;
                    }
                }
            }
        });
    }

    /// First token and number of tokens of each tile.
    pub fn cut(&self) -> &[(usize, usize)] {
        &self.cut
    }

    /// Runs a kernel on two panels and the tokens of one tile.
    pub fn run(&self, kernel: &MatrixKernel, panels: [&[u8]; 2], tokens: (usize, usize), out: &mut MatrixTile) {
        match kernel.run {
            MatrixRun::Float(run) => run(panels, self.float(tokens), out),
            MatrixRun::Bytes32(run) => run(panels, self.bytes(tokens), out),
            MatrixRun::Codes(codes, run) => run(codes, panels, self.bytes(tokens), out),
        }
    }

    fn bytes(&self, (first, tokens): (usize, usize)) -> BytesTile<'_> {
        let (groups, blocks) = (self.columns / 4, self.columns / INPUT_BLOCK);
        let words = &self.words[first * groups..(first + tokens) * groups];
        BytesTile { words, scales: &self.scales[first * blocks..(first + tokens) * blocks], tokens }
    }

    fn float(&self, (first, tokens): (usize, usize)) -> FloatTile<'_> {
        FloatTile { values: &self.values[first * self.columns..(first + tokens) * self.columns], tokens }
    }
}

/// Cuts tokens into tiles of the sizes that a kernel takes, preferring the first.
fn cut(tokens: usize, sizes: &[usize], tiles: &mut Vec<(usize, usize)>) {
    tiles.clear();
    let mut first = 0;
    while first < tokens {
        let n = sizes.iter().copied().find(|&n| n <= tokens - first).expect("the last size is 1");
        tiles.push((first, n));
        first += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::scalar;

    /// Kernels with the same form but other tile sizes get their own tiles, and never those of an earlier input.
    #[test]
    fn each_kernel_gets_tiles_of_its_sizes() {
        let mut kernels = scalar::KERNELS;
        kernels.matrix_f16.tokens = &[2, 1];
        let (pool, mut input) = (Pool::new(1).unwrap(), Input::default());
        let data: Vec<f32> = (0..5 * 40).map(|i| i as f32).collect();
        for rows in [5, 3] {
            let x = RowsView { data: &data[data.len() - rows * 40..], width: 40 };
            input.fill(&kernels, &pool, x, [Encoding::F16, Encoding::F32, Encoding::Q8, Encoding::F32].into_iter());
            assert_eq!((input.rows(), input.tiles.len()), (rows, 3));
            for encoding in Encoding::ALL {
                let kernel = kernels.matrix(encoding);
                let tiles = input.tiles(&kernel);
                assert!(tiles.cut().iter().all(|(_, n)| kernel.tokens.contains(n)));
                assert_eq!(tiles.cut().iter().map(|(_, n)| n).sum::<usize>(), rows);
                let last = *tiles.cut().last().unwrap();
                match kernel.run {
                    MatrixRun::Float(_) => assert_eq!(tiles.float(last).values[last.1 - 1], x.row(rows - 1)[0]),
                    MatrixRun::Bytes32(_) | MatrixRun::Codes(..) => {
                        assert_eq!(tiles.bytes(last).scales[last.1 - 1].scale, x.row(rows - 1)[31] / 127.0)
                    }
                }
            }
        }
    }
}
