//! How far a component may be from the reference because weights, and for some encodings activations, are rounded.
//!
//! A value rounded to a multiple of a step is off by at most half a step, with a standard deviation of step / sqrt(12).
//! These errors are practically independent. The error of an output `y = sum w[k] x[k]` then has a standard deviation,
//! here called its spread, whose square is
//!
//! ```text
//! sum over blocks of 32 columns of   step_w^2 / 12 * sum of x^2   +   (step_x^2 / 12 + own noise of x) * sum of w^2
//! ```
//!
//! The encoding derives the step from the largest magnitude of a block
//! ([`Encoding::step`](nanoserve_format::Encoding::step)): in q8 that magnitude is 127 steps; in f16 a step is at most
//! its unit in the last place; f32 has no steps. Rounding errors are bounded and symmetric about zero, so one value in
//! 2e13 exceeds [`SPREADS`] spreads. A wrong weight, matrix or bias lies far beyond that.

use nanoserve_format::schema::EMBED;
use nanoserve_format::{Activation, INPUT_BLOCK, NsvFile, Shape, panel};
use std::f64::consts::PI;

/// How many spreads rounding may be off: 2 exp(-8^2 / 2) is 3e-14.
pub const SPREADS: f64 = 8.0;

/// What rounding may have done to the values of a component.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// Nothing.
    None,
    /// The square of the spread of each value.
    Each(Vec<f64>),
    /// An earlier result was rounded by an unknown amount.
    Unknown,
}

impl Noise {
    /// How far value `i` may be off.
    pub fn limit(&self, i: usize) -> f64 {
        match self {
            Noise::None => 0.0,
            Noise::Each(squares) => SPREADS * squares[i].sqrt(),
            Noise::Unknown => f64::INFINITY,
        }
    }

    /// The noise of sums of two values.
    pub fn both(&self, other: &Noise) -> Noise {
        match (self, other) {
            (Noise::Unknown, _) | (_, Noise::Unknown) => Noise::Unknown,
            (Noise::None, other) => other.clone(),
            (this, Noise::None) => this.clone(),
            (Noise::Each(a), Noise::Each(b)) => Noise::Each(a.iter().zip(b).map(|(a, b)| a + b).collect()),
        }
    }

    /// The noise of values multiplied by a factor.
    pub fn scaled(&self, factor: f64) -> Noise {
        let Noise::Each(squares) = self else { return self.clone() };
        Noise::Each(squares.iter().map(|square| square * factor * factor).collect())
    }

    /// The noise of heads after RoPE of their first `turning` elements: each value of a pair mixes both, times
    /// `factor`.
    pub fn turned(&self, head_dim: usize, turning: usize, factor: f64) -> Noise {
        let Noise::Each(squares) = self else { return self.clone() };
        let half = turning / 2;
        let square = |i: usize| match i % head_dim {
            j if j < half => (squares[i] + squares[i + half]) * factor * factor,
            j if j < turning => (squares[i] + squares[i - half]) * factor * factor,
            _ => squares[i],
        };
        Noise::Each((0..squares.len()).map(square).collect())
    }

    /// The noise of a norm of `x`, part by part: each value's own noise, and that of the part's mean square.
    pub fn normed(&self, x: &[f32], weight: &[f32], eps: f64) -> Noise {
        let Noise::Each(spread) = self else { return self.clone() };
        let mut out = Vec::with_capacity(x.len());
        for (x, spread) in x.chunks_exact(weight.len()).zip(spread.chunks_exact(weight.len())) {
            let mean = squares(x) / x.len() as f64 + eps;
            let pull: f64 = x.iter().zip(spread).map(|(x, s)| f64::from(*x).powi(2) * s).sum();
            let pull = pull / (x.len() as f64 * mean).powi(2);
            let one =
                |((x, s), w): ((&f32, &f64), &f32)| f64::from(*w).powi(2) / mean * (s + f64::from(*x).powi(2) * pull);
            out.extend(x.iter().zip(spread).zip(weight).map(one));
        }
        Noise::Each(out)
    }

    /// The noise of `activation(gate) * up`. The slope of silu and of gelu is below 1.13.
    pub fn gated(activation: Activation, gate: (&[f32], &Noise), up: (&[f32], &Noise)) -> Noise {
        let ((g, g_noise), (u, u_noise)) = (gate, up);
        match (g_noise, u_noise) {
            (Noise::Unknown, _) | (_, Noise::Unknown) => return Noise::Unknown,
            (Noise::None, Noise::None) => return Noise::None,
            _ => {}
        }
        let spread = |i: usize| {
            let (g, u) = (f64::from(g[i]), f64::from(u[i]));
            let (dg, du) = (1.13 * g_noise.limit(i) / SPREADS, u_noise.limit(i) / SPREADS);
            // The last term matters if both are far off.
            dg * u.abs() + activated(activation, g).abs() * du + SPREADS * dg * du
        };
        Noise::Each((0..g.len()).map(|i| spread(i).powi(2)).collect())
    }
}

/// The gate's activation function.
pub fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => x / 2.0 * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
    }
}

fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn squares(block: &[f32]) -> f64 {
    block.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// The values of a norm's weight.
pub fn vector<'f>(file: &'f NsvFile, name: &str) -> &'f [f32] {
    bytemuck::cast_slice(file.tensor(name).expect("a norm of the schema").bytes)
}

/// The noise of decoded rows of the embedding, each `width` wide.
pub fn embed(file: &NsvFile, rows: &[f32], width: usize) -> Noise {
    let encoding = file.tensor(EMBED).expect("every model has an embedding").encoding;
    if encoding.is_exact() {
        return Noise::None;
    }
    // A single value is off by at most half a step, plus a little for the rounding of the scale itself.
    let spread = |step: f64| (0.501 * step / SPREADS).powi(2);
    let blocks = rows.chunks(width).flat_map(|row| row.chunks(INPUT_BLOCK).zip(encoding.steps(row)));
    Noise::Each(blocks.flat_map(|(block, step)| std::iter::repeat_n(spread(step), block.len())).collect())
}

/// The noise of a matrix times rows `x`, which may be off themselves.
pub fn linear(file: &NsvFile, weight: &str, x: &[f32], x_noise: &Noise) -> Noise {
    let view = file.tensor(weight).expect("a matrix of the schema");
    let Shape::Matrix(rows, cols) = view.shape else { unreachable!("{weight} is a matrix") };
    if *x_noise == Noise::Unknown || (view.encoding.is_exact() && *x_noise == Noise::None) {
        return x_noise.clone();
    }
    // For each token and block: the sum of x^2, and the square of the spread of one x.
    let blocks = cols.div_ceil(INPUT_BLOCK);
    let mut inputs = Vec::with_capacity(x.len() / cols * blocks);
    for (t, row) in x.chunks_exact(cols).enumerate() {
        for (b, block) in row.chunks(INPUT_BLOCK).enumerate() {
            let rounded = view.encoding.input().step(largest(block));
            let at = t * cols + b * INPUT_BLOCK;
            let carried = match x_noise {
                Noise::Each(squares) => squares[at..at + block.len()].iter().fold(0.0, |m, s| f64::max(m, *s)),
                _ => 0.0,
            };
            inputs.push((squares(block), rounded * rounded / 12.0 + carried));
        }
    }
    let tokens = x.len() / cols;
    let mut out = vec![0.0; tokens * rows];
    let mut weights = vec![0.0; cols];
    for r in 0..rows {
        panel::unpack_rows(view.encoding, cols, view.bytes, r, &mut weights);
        // For each block: the square of the spread of one weight, and the sum of w^2.
        let steps = view.encoding.steps(&weights);
        let spread_and_square = |(block, step): (&[f32], f64)| (step.powi(2) / 12.0, squares(block));
        let row_blocks: Vec<(f64, f64)> = weights.chunks(INPUT_BLOCK).zip(steps).map(spread_and_square).collect();
        for (t, inputs) in inputs.chunks_exact(blocks).enumerate() {
            out[t * rows + r] = row_blocks.iter().zip(inputs).map(|(w, x)| w.0 * x.0 + w.1 * x.1).sum();
        }
    }
    Noise::Each(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::{Encoding, FormatError, InputForm, ModelSpec, PANEL_ROWS, Plan, Writer};

    const COLS: usize = 200;

    /// Uniform in -1..1, without a pattern.
    fn random(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    /// A file with random weights in `lm_head`, and these weights before they were rounded.
    fn file(encoding: Encoding) -> (NsvFile, Vec<f32>) {
        let spec = ModelSpec {
            hidden_size: COLS,
            intermediate_size: 16,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 4,
            vocab_size: 160,
            ..ModelSpec::default()
        };
        let mut state = 3;
        let weights: Vec<f32> = (0..160 * COLS).map(|_| (random(&mut state).powi(3) * 0.1) as f32).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("noise.nsv");
        let mut writer = Writer::create(&path, Plan::new(spec.clone(), encoding).unwrap()).unwrap();
        let head = nanoserve_format::schema::count(&spec) - 1;
        for index in writer.stored() {
            let fill = |pieces: std::ops::Range<usize>, out: &mut [u8]| {
                out.fill(0);
                let panels = out.chunks_exact_mut(encoding.panel_bytes(COLS).unwrap());
                for (piece, out) in pieces.zip(panels).filter(|_| index == head) {
                    let rows = &weights[piece * PANEL_ROWS * COLS..(piece + 1) * PANEL_ROWS * COLS];
                    panel::pack(encoding, COLS, rows, out).unwrap();
                }
                Ok::<(), FormatError>(())
            };
            writer.write(index, fill).unwrap();
        }
        writer.finish().unwrap();
        (NsvFile::open(&path).unwrap(), weights)
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// The predicted spread matches the real errors: none is near eight spreads, and typical errors are about one. In
    /// f16 the spread is that of a block's largest weight, and the other weights' errors are smaller.
    #[test]
    fn spreads_are_those_of_the_errors() {
        for (encoding, least, most) in [(Encoding::Q8, 0.9, 1.1), (Encoding::F16, 0.2, 1.0)] {
            let (file, weights) = file(encoding);
            let view = file.tensor("lm_head.weight").unwrap();
            let mut state = 4;
            let (mut sum, mut worst, mut count) = (0.0, 0f64, 0.0);
            for _ in 0..32 {
                let x: Vec<f32> = (0..COLS).map(|_| random(&mut state) as f32).collect();
                let mut rounded = x.clone();
                if encoding.input() == InputForm::Bytes32 {
                    for block in rounded.chunks_mut(INPUT_BLOCK) {
                        let d = largest(block) / 127.0;
                        block.iter_mut().for_each(|x| *x = (*x / d).round_ties_even() * d);
                    }
                }
                let Noise::Each(squares) = linear(&file, "lm_head.weight", &x, &Noise::None) else { panic!("rounded") };
                let mut row = vec![0.0; COLS];
                for (r, square) in squares.iter().enumerate() {
                    panel::unpack_rows(encoding, COLS, view.bytes, r, &mut row);
                    let error = dot(&row, &rounded) - dot(&weights[r * COLS..(r + 1) * COLS], &x);
                    let spreads = error.abs() / square.sqrt();
                    (sum, worst, count) = (sum + spreads * spreads, worst.max(spreads), count + 1.0);
                }
            }
            let typical = f64::sqrt(sum / count);
            assert!((least..most).contains(&typical) && worst < 6.0, "{encoding}: {typical} spreads, at most {worst}");
        }
    }

    #[test]
    fn values_in_f32_have_none() {
        let (file, _) = file(Encoding::F32);
        let x = [0.5; COLS];
        assert_eq!(linear(&file, "lm_head.weight", &x, &Noise::None), Noise::None);
        assert_eq!(linear(&file, "lm_head.weight", &x, &Noise::Unknown), Noise::Unknown);
        assert_eq!(embed(&file, &x, COLS), Noise::None);
        // The noise of the input is passed on.
        let Noise::Each(squares) = linear(&file, "lm_head.weight", &x, &Noise::Each(vec![1.0; COLS])) else { panic!() };
        let mut row = vec![0.0; COLS];
        let view = file.tensor("lm_head.weight").unwrap();
        panel::unpack_rows(Encoding::F32, COLS, view.bytes, 7, &mut row);
        assert!((squares[7] - dot(&row, &row)).abs() < 1e-9);
    }
}
