//! What is wrong with a matrix: it is another one, its bias, or some of its weights.

use super::Listed;
use super::component::Component;
use super::explain::{Blamed, weight_of};
use super::reference::Case;
use nanoserve_format::{Shape, panel};

/// Components of one layer that could be taken for each other.
const ALIKE: [&[&str]; 3] =
    [&["attn.q_plain", "attn.k_plain", "attn.v"], &["attn.q", "attn.k"], &["mlp.gate", "mlp.up"]];

/// Rows of this many tokens say which column of a matrix they differ with.
const MIN_TOKENS: usize = 4;

/// A matrix with its bias, by names, and where its input is.
pub struct Matrix<'a> {
    /// The weight's name.
    pub weight: &'a str,
    /// The bias's name, whether or not the model has it; empty where no model has.
    pub bias: &'a str,
    /// The slot of its input.
    pub input: &'a str,
}

/// Explains outputs `got` where the reference has `expected`, both before RoPE.
pub fn explain(case: &Case, m: &Matrix, got: &[f32], expected: &[f32]) -> Blamed {
    let entry = case.file.layout().tensor(m.weight).expect("a matrix of the schema");
    let weight = entry.alias_of.as_deref().unwrap_or(m.weight);
    if let Some(other) = swapped(case) {
        let component = Component::of(&other);
        let theirs = weight_of(&component).expect("what is alike is made by matrices");
        return (format!("{weight}, swapped with {theirs}"), format!("it gives the reference's {other}"));
    }
    let difference: Vec<f64> = got.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    if !m.bias.is_empty() && constant(case, &difference) {
        let here = if case.file.tensor(m.bias).is_some() { "another" } else { "none" };
        let what = format!("the difference is the same at every position: {here} here; rows {}", Listed(&case.rows()));
        return (m.bias.into(), what);
    }
    let rows = case.rows();
    let one = rows.first().filter(|_| rows.len() <= case.width.div_ceil(4)).and_then(|&row| {
        let column = column(case, m, &difference, row)?;
        Some(format!(
            "; in row {row} as column {column} would make it, whose weight is {:e}",
            value(case, m, row, column)
        ))
    });
    (weight.into(), format!("rows {} of {} differ{}", Listed(&rows), case.width, one.unwrap_or_default()))
}

/// The other component of the reference that ours is.
fn swapped(case: &Case) -> Option<String> {
    let alike = ALIKE.iter().find(|alike| alike.contains(&case.component.slot))?;
    let others = alike.iter().filter(|slot| **slot != case.component.slot);
    let named = others.map(|slot| format!("{}{slot}", case.component.prefix));
    named.into_iter().find(|name| {
        let Some(other) = case.reference.activations.get(name) else { return false };
        let near = |i: usize| (f64::from(case.got[i]) - f64::from(other[i])).abs() <= 2.0 * case.limit(i);
        other.len() == case.got.len() && (0..other.len()).all(near)
    })
}

/// Whether the difference is the same at every position.
fn constant(case: &Case, difference: &[f64]) -> bool {
    let tokens = case.tokens();
    let mean = |row: usize| difference.iter().skip(row).step_by(case.width).sum::<f64>() / tokens as f64;
    let means: Vec<f64> = (0..case.width).map(mean).collect();
    let near = |(i, d): (usize, &f64)| (d - means[i % case.width]).abs() <= 2.0 * case.limit(i);
    tokens > 1 && difference.iter().enumerate().all(near)
}

/// The column of the matrix whose input goes with the difference of a row, position by position.
fn column(case: &Case, m: &Matrix, difference: &[f64], row: usize) -> Option<usize> {
    let x = &case.slots[m.input].rows;
    let (tokens, cols) = (case.tokens(), x.len() / case.tokens());
    let d: Vec<f64> = (0..tokens).map(|t| difference[t * case.width + row]).collect();
    let goes_with = |column: &usize| {
        let (mut dx, mut dd, mut xx) = (0.0, 0.0, 0.0);
        for (t, d) in d.iter().enumerate() {
            let x = f64::from(x[t * cols + column]);
            (dx, dd, xx) = (dx + d * x, dd + d * d, xx + x * x);
        }
        dx * dx > 0.98 * dd * xx
    };
    (0..cols).find(goes_with).filter(|_| tokens >= MIN_TOKENS)
}

/// A weight of the file.
fn value(case: &Case, m: &Matrix, row: usize, column: usize) -> f32 {
    let view = case.file.tensor(m.weight).expect("a matrix of the schema");
    let Shape::Matrix(_, cols) = view.shape else { unreachable!("{} is a matrix", m.weight) };
    let mut out = vec![0.0; cols];
    panel::unpack_rows(view.encoding, cols, view.bytes, row, &mut out);
    out[column]
}
