//! How far a component may be from the reference because weights, and in q8 activations, are rounded.
//!
//! Where a value is rounded to a multiple of a step, it is off by half a step at most and by step / sqrt(12) as a rule;
//! these errors are as good as independent. An output `y = sum w[k] x[k]` is then off by a spread whose square is
//!
//! ```text
//! sum over blocks of 32 columns of   step_w^2 / 12 * sum of x^2   +   (step_x^2 / 12 + what x is off itself) * sum of w^2
//! ```
//!
//! Steps are read off the file: in q8 a block's largest magnitude is 127 steps; in f16 the step of a block is at most
//! the unit in the last place of its largest; f32 has none. Rounding is bounded and even about zero, so that
//! [`SPREADS`] spreads are passed once in 2e13 values; a wrong weight, matrix or bias lies far beyond.

use nanoserve_format::q8::Q8_BLOCK;
use nanoserve_format::schema::EMBED;
use nanoserve_format::{Encoding, NsvFile, Shape, panel};

/// Spreads that rounding may be off: 2 exp(-8^2 / 2) is 3e-14.
pub const SPREADS: f64 = 8.0;

/// What rounding may have done to the values of a component.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// Nothing.
    None,
    /// The square of the spread of each value.
    Each(Vec<f64>),
    /// Rounded somewhere before, by nobody knows how much.
    Unknown,
}

impl Noise {
    /// What value `i` may be off.
    pub fn limit(&self, i: usize) -> f64 {
        match self {
            Noise::None => 0.0,
            Noise::Each(squares) => SPREADS * squares[i].sqrt(),
            Noise::Unknown => f64::INFINITY,
        }
    }

    /// Of values made of two values each.
    pub fn both(&self, other: &Noise) -> Noise {
        match (self, other) {
            (Noise::Unknown, _) | (_, Noise::Unknown) => Noise::Unknown,
            (Noise::None, other) => other.clone(),
            (this, Noise::None) => this.clone(),
            (Noise::Each(a), Noise::Each(b)) => Noise::Each(a.iter().zip(b).map(|(a, b)| a + b).collect()),
        }
    }

    /// Of heads that were turned: either of a pair gets from both.
    pub fn turned(&self, head_dim: usize) -> Noise {
        let Noise::Each(squares) = self else { return self.clone() };
        let pair = |i: usize| if i % head_dim < head_dim / 2 { i + head_dim / 2 } else { i - head_dim / 2 };
        Noise::Each((0..squares.len()).map(|i| squares[i] + squares[pair(i)]).collect())
    }

    /// Of `silu(gate) * up`; the slope of silu is below 1.1.
    pub fn gated(gate: (&[f32], &Noise), up: (&[f32], &Noise)) -> Noise {
        let ((g, g_noise), (u, u_noise)) = (gate, up);
        match (g_noise, u_noise) {
            (Noise::Unknown, _) | (_, Noise::Unknown) => return Noise::Unknown,
            (Noise::None, Noise::None) => return Noise::None,
            _ => {}
        }
        let spread = |i: usize| {
            let (g, u) = (f64::from(g[i]), f64::from(u[i]));
            let (dg, du) = (1.1 * g_noise.limit(i) / SPREADS, u_noise.limit(i) / SPREADS);
            // The last part counts where both are off far.
            dg * u.abs() + (g / (1.0 + (-g).exp())).abs() * du + SPREADS * dg * du
        };
        Noise::Each((0..g.len()).map(|i| spread(i).powi(2)).collect())
    }
}

/// The step of weights of a block whose largest magnitude is known.
fn step(encoding: Encoding, largest: f32) -> f64 {
    match encoding {
        Encoding::F32 => 0.0,
        Encoding::F16 if largest == 0.0 => 2f64.powi(-24),
        Encoding::F16 => 2f64.powf((f64::from(largest).log2().floor() - 10.0).max(-24.0)),
        Encoding::Q8 => f64::from(largest) / 127.0,
    }
}

fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn squares(block: &[f32]) -> f64 {
    block.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// Of rows of the embedding, as they were decoded; each is `width` wide.
pub fn embed(file: &NsvFile, rows: &[f32], width: usize) -> Noise {
    let encoding = file.tensor(EMBED).map_or(Encoding::F32, |view| view.encoding);
    if encoding == Encoding::F32 {
        return Noise::None;
    }
    // One value, off by half a step at most, and a little for the rounding of the scale itself.
    let spread = |block: &[f32]| (0.501 * step(encoding, largest(block)) / SPREADS).powi(2);
    let blocks = rows.chunks(width).flat_map(|row| row.chunks(Q8_BLOCK));
    Noise::Each(blocks.flat_map(|block| std::iter::repeat_n(spread(block), block.len())).collect())
}

/// Of a matrix times rows `x`, which may be off themselves.
pub fn linear(file: &NsvFile, weight: &str, x: &[f32], x_noise: &Noise) -> Noise {
    let view = file.tensor(weight).expect("a matrix of the schema");
    let Shape::Matrix(rows, cols) = view.shape else { unreachable!("{weight} is a matrix") };
    if *x_noise == Noise::Unknown || (view.encoding == Encoding::F32 && *x_noise == Noise::None) {
        return x_noise.clone();
    }
    // Of each token and block: the sum of x^2, and the square of the spread of one x.
    let blocks = cols.div_ceil(Q8_BLOCK);
    let mut inputs = Vec::with_capacity(x.len() / cols * blocks);
    for (t, row) in x.chunks_exact(cols).enumerate() {
        for (b, block) in row.chunks(Q8_BLOCK).enumerate() {
            let rounded = if view.encoding == Encoding::Q8 { f64::from(largest(block)) / 127.0 } else { 0.0 };
            let at = t * cols + b * Q8_BLOCK;
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
        let of = |block: &[f32]| (step(view.encoding, largest(block)).powi(2) / 12.0, squares(block));
        let own: Vec<(f64, f64)> = weights.chunks(Q8_BLOCK).map(of).collect();
        for (t, inputs) in inputs.chunks_exact(blocks).enumerate() {
            out[t * rows + r] = own.iter().zip(inputs).map(|(w, x)| w.0 * x.0 + w.1 * x.1).sum();
        }
    }
    Noise::Each(out)
}
