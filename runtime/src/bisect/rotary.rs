//! Queries and keys that are off: by their angles, or already before they were turned.
//!
//! At position 0 nothing turns, and turning changes no pair's length: where position 0 is right and only angles are
//! wrong, it is RoPE. From a position to the next the angles give the reference's frequencies, and these its numbers.

use super::Listed;
use super::explain::Blamed;
use super::linear::{self, Matrix};
use super::reference::Case;
use crate::rope::{RopeTable, frequencies};
use nanoserve_format::{Rope, RopeScaling};
use std::f64::consts::PI;

/// Explains a component after RoPE; `judged` tells whether the reference has, and passed, what went in.
pub fn explain(case: &Case, judged: bool, plain: &str, matrix: &Matrix) -> Blamed {
    let starts_right = case.tokens() > 1 && (0..case.width).all(|i| !case.off(i));
    if let Some(theirs) = turned(case).filter(|_| starts_right) {
        return angles(case, &theirs);
    }
    if judged {
        let rows = case.rows();
        return ("rope".into(), format!("equal {plain}, and pairs of another length; rows {} differ", Listed(&rows)));
    }
    linear::explain(case, matrix, &back(case, case.got), &back(case, case.expected))
}

/// Rows before they were turned.
fn back(case: &Case, rows: &[f32]) -> Vec<f32> {
    let mut out = rows.to_vec();
    turn(case, &case.file.spec().rope, &mut out, -1.0);
    out
}

/// Turns every head of every row by its position, or back.
fn turn(case: &Case, rope: &Rope, rows: &mut [f32], way: f32) {
    let mut table = RopeTable::new(rope, case.file.spec().head_dim, case.tokens());
    table.extend(case.tokens());
    for (t, row) in rows.chunks_exact_mut(case.width).enumerate() {
        let (cos, sin) = table.at(t);
        for head in row.chunks_exact_mut(2 * cos.len()) {
            let (low, high) = head.split_at_mut(cos.len());
            for (((x, y), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let sin = way * sin;
                (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
            }
        }
    }
}

/// The reference's frequencies, when its pairs are as long as ours at every position.
fn turned(case: &Case) -> Option<Vec<f64>> {
    let spec = case.file.spec();
    let (dim, half) = (spec.head_dim, spec.head_dim / 2);
    let own = frequencies(&spec.rope, dim, case.tokens());
    let length = |rows: &[f32], i: usize| f64::from(rows[i]).hypot(f64::from(rows[i + half]));
    let as_long = |i: usize| {
        let limit = 2.0 * (case.limit(i) + case.limit(i + half));
        (length(case.got, i) - length(case.expected, i)).abs() <= limit
    };
    let firsts = |t: usize, j: usize| (t * case.width + j..(t + 1) * case.width).step_by(dim);
    if !(0..case.tokens()).all(|t| (0..half).all(|j| firsts(t, j).all(as_long))) {
        return None;
    }
    let theirs = |j: usize| {
        let mut more = 0.0;
        for t in 1..case.tokens() {
            // All heads turn alike: the angle from our pairs to theirs, as one product of complex numbers.
            let (mut re, mut im) = (0.0, 0.0);
            for i in firsts(t, j) {
                let at = |rows: &[f32]| (f64::from(rows[i]), f64::from(rows[i + half]));
                let ((a, b), (c, d)) = (at(case.got), at(case.expected));
                (re, im) = (re + a * c + b * d, im + a * d - b * c);
            }
            // Whole turns follow from the positions before.
            let (angle, guess) = (im.atan2(re), more * t as f64);
            more = (angle + 2.0 * PI * ((guess - angle) / (2.0 * PI)).round()) / t as f64;
        }
        f64::from(own[j]) + more
    };
    Some((0..half).map(theirs).collect())
}

/// Which number of the description would give the reference's values.
fn angles(case: &Case, theirs: &[f64]) -> Blamed {
    let spec = case.file.spec();
    let plain = back(case, case.got);
    let gives = |rope: &Rope| {
        let mut rows = plain.clone();
        turn(case, rope, &mut rows, 1.0);
        let near = |(i, x): (usize, &f32)| (f64::from(*x) - f64::from(case.expected[i])).abs() <= 2.0 * case.limit(i);
        rows.iter().enumerate().all(near)
    };
    let unscaled = Rope { theta: spec.rope.theta, rotary_dim: None, scaling: RopeScaling::Default {} };
    if unscaled != spec.rope && gives(&unscaled) {
        return ("rope.scaling".into(), "it turns as without any scaling there".into());
    }
    // Any pair but the first gives theta away, where it is not scaled, or by the factor alone.
    let factor = match spec.rope.scaling {
        RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } | RopeScaling::Yarn { factor, .. } => {
            factor
        }
        _ => 1.0,
    };
    for (j, frequency) in theirs.iter().enumerate().skip(1) {
        for unscaled in [*frequency, frequency * factor] {
            let theta = unscaled.powf(-(spec.head_dim as f64) / (2 * j) as f64);
            // Whoever chose it chose a round number; measured it is not round.
            let unit = 10f64.powf(theta.log10().floor() - 2.0);
            let fits = |theta: &f64| theta.is_finite() && gives(&Rope { theta: *theta, ..spec.rope.clone() });
            if let Some(theta) = [(theta / unit).round() * unit, theta].into_iter().find(fits) {
                return ("rope.theta".into(), format!("it is {} here and about {theta:.0} there", spec.rope.theta));
            }
        }
    }
    let mut pairs: Vec<usize> = case.rows().iter().map(|row| row % theirs.len()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let ratio = theirs[pairs[0]] / f64::from(frequencies(&spec.rope, spec.head_dim, case.tokens())[pairs[0]]);
    let what = format!("pairs {} turn otherwise, the fastest of them {ratio:.3} times as fast there", Listed(&pairs));
    if (ratio - 1.0).abs() < 1e-6 { ("rope".into(), what) } else { ("rope.scaling".into(), what) }
}
