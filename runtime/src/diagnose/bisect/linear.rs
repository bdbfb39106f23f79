//! What is wrong with a matrix: it was swapped with another, its bias differs, or some of its weights.

use super::Listed;
use super::component::Component;
use super::explain::Blamed;
use super::noise::SPREADS;
use super::reference::Case;
use nanoserve_format::{Shape, panel};

/// Components of a layer that could be confused with each other.
const ALIKE: [&[&str]; 3] =
    [&["attn.q_plain", "attn.k_plain", "attn.v"], &["attn.q", "attn.k"], &["mlp.gate", "mlp.up"]];

/// The fewest tokens from which the differing column of a row can be found.
const MIN_TOKENS: usize = 4;

/// The most rows that are examined to tell a bias from weights.
const SOME_ROWS: usize = 16;

/// A matrix with its bias, by name, and its input.
pub struct Matrix<'a> {
    /// The weight's name.
    pub weight: &'a str,
    /// The bias's name, whether or not the model has one; empty if no model has one.
    pub bias: &'a str,
    /// The slot of its input.
    pub input: &'a str,
}

/// Explains outputs `got` that should be `expected`, both before RoPE.
pub fn explain(case: &Case, m: &Matrix, got: &[f32], expected: &[f32]) -> Blamed {
    certain(case, m, got, expected).unwrap_or_else(|| weights(case, m, got, expected))
}

/// Finds faults that look like no other: another matrix's values, or the same difference at every position.
pub fn certain(case: &Case, m: &Matrix, got: &[f32], expected: &[f32]) -> Option<Blamed> {
    if let Some(other) = swapped(case) {
        let component = Component::of(case.spec(), &other).ok();
        let theirs = component.as_ref().and_then(Component::weight).unwrap_or(&other);
        return Some((format!("{}, swapped with {theirs}", m.weight), format!("it gives the reference's {other}")));
    }
    if m.bias.is_empty() || !constant(case, m, &difference(got, expected)) {
        return None;
    }
    let here = if case.file.tensor(m.bias).is_some() { "another" } else { "none" };
    let what = format!("the difference is the same at every position: {here} here; rows {}", Listed(&case.rows()));
    Some((m.bias.into(), what))
}

/// Names the rows whose weights differ, and a single differing column if one explains the difference.
fn weights(case: &Case, m: &Matrix, got: &[f32], expected: &[f32]) -> Blamed {
    let entry = case.file.layout().tensor(m.weight).expect("a matrix of the schema");
    let weight = entry.alias_of.as_deref().unwrap_or(m.weight);
    let rows = case.rows();
    let one = rows.first().filter(|_| 4 * rows.len() <= case.width).and_then(|&row| {
        let d = of_row(case, &difference(got, expected), row);
        let (column, _) = best_column(case, m, &d).filter(|(_, left)| explained(case, row, &d, *left))?;
        let value = value(case, m, row, column);
        Some(format!("; in row {row} as column {column} would make it, whose weight is {value:e}"))
    });
    (weight.into(), format!("rows {} of {} differ{}", Listed(&rows), case.width, one.unwrap_or_default()))
}

fn difference(got: &[f32], expected: &[f32]) -> Vec<f64> {
    got.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
}

/// The other component of the reference that equals ours.
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

/// The differences of one row, position by position.
fn of_row(case: &Case, difference: &[f64], row: usize) -> Vec<f64> {
    difference.iter().skip(row).step_by(case.width).copied().collect()
}

/// True if the difference is the same at every position and a bias explains it better than any single weight.
fn constant(case: &Case, m: &Matrix, difference: &[f64]) -> bool {
    let spread = |row: usize| {
        let d = of_row(case, difference, row);
        let mean = d.iter().sum::<f64>() / d.len() as f64;
        d.into_iter().map(move |d| d - mean).collect::<Vec<f64>>()
    };
    let small = |row: usize| {
        let left = spread(row);
        left.iter().enumerate().all(|(t, d)| d.abs() <= 2.0 * case.limit(t * case.width + row))
    };
    if case.tokens() == 1 || !(0..case.width).all(small) {
        return false;
    }
    let (mut by_bias, mut by_weight) = (0.0, 0.0);
    for row in case.rows().into_iter().take(SOME_ROWS) {
        by_bias += squares(&spread(row));
        by_weight += best_column(case, m, &of_row(case, difference, row)).map_or(f64::INFINITY, |(_, left)| left);
    }
    by_bias <= by_weight
}

fn squares(values: &[f64]) -> f64 {
    values.iter().map(|d| d * d).sum()
}

/// The column of the matrix whose input best explains a row's differences, and the sum of squares that remains.
fn best_column(case: &Case, m: &Matrix, d: &[f64]) -> Option<(usize, f64)> {
    let x = &case.slots[m.input].rows;
    let cols = x.len() / d.len();
    let left = |column: usize| {
        let (mut dx, mut xx) = (0.0, 0.0);
        for (d, x) in d.iter().zip(x.iter().skip(column).step_by(cols)) {
            let x = f64::from(*x);
            (dx, xx) = (dx + d * x, xx + x * x);
        }
        (column, squares(d) - if xx > 0.0 { dx * dx / xx } else { 0.0 })
    };
    (0..cols).map(left).filter(|_| d.len() >= MIN_TOKENS).min_by(|a, b| a.1.total_cmp(&b.1))
}

/// True if what remains of a row's differences is small compared with them, apart from rounding.
fn explained(case: &Case, row: usize, d: &[f64], left: f64) -> bool {
    let rounding: f64 = (0..d.len()).map(|t| (case.noise.limit(t * case.width + row) / SPREADS).powi(2)).sum();
    left <= 0.02 * squares(d) + 2.0 * rounding && left <= 0.5 * squares(d)
}

/// A weight of the file.
fn value(case: &Case, m: &Matrix, row: usize, column: usize) -> f32 {
    let view = case.file.tensor(m.weight).expect("a matrix of the schema");
    let Shape::Matrix(_, cols) = view.shape else { unreachable!("{} is a matrix", m.weight) };
    let mut out = vec![0.0; cols];
    panel::unpack_rows(view.encoding, cols, view.bytes, row, &mut out);
    out[column]
}
