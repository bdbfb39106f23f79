//! Explains queries and keys that are off: because of their angles, a norm, or something before either.
//!
//! Position 0 does not turn, and turning changes no pair's length. So if position 0 is right and only angles are wrong,
//! RoPE is at fault. The change of the angles between positions gives the reference's frequencies, and these give its
//! numbers.

use super::Listed;
use super::explain::Blamed;
use super::linear::{self, Matrix};
use super::reference::Case;
use super::switches::is_norm;
use crate::backend::rope::{RopeTable, attention_factor, frequencies};
use nanoserve_format::{QkNorm, Rope, RopeScaling};
use std::f64::consts::PI;

/// Explains a component after RoPE. `unseen` lists the components between that the reference does not have.
pub fn explain(case: &Case, unseen: &[&String], plain: &str, matrix: &Matrix) -> Option<Blamed> {
    if let Some(blamed) = switches(case, plain) {
        return Some(blamed);
    }
    let starts_right = case.tokens() > 1 && (0..case.width).all(|i| !case.off(i));
    if let Some(own) = layer_rope(case)
        && let Some(theirs) = turned(case, own).filter(|_| starts_right)
    {
        return Some(angles(case, own, &theirs));
    }
    if unseen.is_empty() {
        let rows = case.rows();
        return Some((
            "rope".into(),
            format!("equal {plain}, and pairs of another length; rows {} differ", Listed(&rows)),
        ));
    }
    let unturned = |rows: &[f32]| turn_back(case, rows);
    (case.spec().qk_norm == QkNorm::None)
        .then(|| linear::explain(case, matrix, &unturned(case.got), &unturned(case.expected)))
}

/// The layer's rotary embedding.
fn layer_rope<'c>(case: &'c Case) -> Option<&'c Rope> {
    case.spec().rope_of(case.component.layer)
}

/// How far value `i` may be off once it is turned back: its own limit plus that of the other value of its pair.
fn limit(case: &Case, i: usize) -> f64 {
    let dim = case.spec().head_dim;
    let turning = layer_rope(case).map_or(0, |rope| rope.rotary_dim(dim));
    match i % dim {
        j if j < turning / 2 => case.limit(i) + case.limit(i + turning / 2),
        j if j < turning => case.limit(i) + case.limit(i - turning / 2),
        _ => case.limit(i),
    }
}

/// True if turning `rows` with `rope` gives the reference's rows.
fn gives(case: &Case, rows: &[f32], rope: Option<&Rope>) -> bool {
    let mut rows = rows.to_vec();
    turn(case, rope, &mut rows, 1.0);
    let near = |(i, x): (usize, &f32)| (f64::from(*x) - f64::from(case.expected[i])).abs() <= 2.0 * case.limit(i);
    rows.iter().enumerate().all(near)
}

/// Checks for a rotation that differs as a whole, or a norm before it on one side only.
fn switches(case: &Case, plain: &str) -> Option<Blamed> {
    let (spec, input, own) = (case.spec(), &case.slots[plain].rows, layer_rope(case));
    let blamed = |blame: &str, what: &str| Some((blame.to_string(), what.to_string()));
    if case.tokens() > 1 && own.is_some() && gives(case, input, None) {
        return blamed("no_rope_layers", "it does not turn there");
    }
    if own.is_none() && gives(case, input, Some(&spec.rope)) {
        return blamed("no_rope_layers", "it turns there");
    }
    let local = spec.window.as_ref().and_then(|window| window.rope.as_ref());
    let (other, as_what) = match own {
        Some(own) if Some(own) == local => (Some(&spec.rope), "it turns as in layers without a window there"),
        _ => (local, "it turns as in layers with a window there"),
    };
    if other.is_some() && gives(case, input, other) {
        return blamed("window.rope", as_what);
    }
    if let Some(own) = own {
        let here = own.rotary_dim(spec.head_dim);
        let turning = |dim: usize| Rope { rotary_dim: Some(dim), ..own.clone() };
        let alike = |dim: &usize| !matches!(own.scaling, RopeScaling::LongRope { .. }) && *dim != here;
        let mut dims = (2..=spec.head_dim).step_by(2).filter(alike);
        if let Some(there) = dims.find(|&dim| gives(case, input, Some(&turning(dim)))) {
            return blamed("rope.rotary_dim", &format!("{here} elements of a head turn here, {there} there"));
        }
    }
    let factor = case.factor(0, case.got.len());
    let longer = |i: usize| case.close(i, case.got[i].into(), factor * f64::from(case.expected[i]));
    if own.is_some_and(|own| attention_factor(own) != 1.0) && (0..case.got.len()).all(longer) {
        return blamed("rope.scaling", &format!("cosines and sines are {:.4} times as large there", 1.0 / factor));
    }
    let unturned = turn_back(case, case.expected);
    match spec.qk_norm {
        QkNorm::None => {
            let normed = |unit: usize| is_norm(input, &unturned, unit, |i| 2.0 * limit(case, i));
            let norm = normed(spec.head_dim) || normed(case.width);
            norm.then(|| ("qk_norm".into(), "it is normed before it is turned there, and not here".into()))
        }
        _ => {
            let plain = format!("{}_plain", case.component.slot);
            let none = case.slots.get(plain.as_str()).is_some_and(|slot| gives(case, &slot.rows, own));
            none.then(|| ("qk_norm".into(), "it is turned without a norm there".into()))
        }
    }
}

/// Undoes RoPE: the rows before they were turned.
fn turn_back(case: &Case, rows: &[f32]) -> Vec<f32> {
    let mut out = rows.to_vec();
    turn(case, layer_rope(case), &mut out, -1.0);
    out
}

/// Turns every head of every row by its position, or back if `way` is -1.
fn turn(case: &Case, rope: Option<&Rope>, rows: &mut [f32], way: f32) {
    let Some(rope) = rope else { return };
    let mut table = RopeTable::new(rope, case.spec().head_dim, case.tokens());
    table.extend(case.tokens());
    for (t, row) in rows.chunks_exact_mut(case.width).enumerate() {
        let (cos, sin) = table.at(t);
        for head in row.chunks_exact_mut(case.spec().head_dim) {
            let (low, high) = head[..2 * cos.len()].split_at_mut(cos.len());
            for (((x, y), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                // Turning back must also divide by the square of the table's factor: cos^2 + sin^2.
                let length = if way < 0.0 { cos * cos + sin * sin } else { 1.0 };
                let sin = way * sin;
                (*x, *y) = ((*x * cos - *y * sin) / length, (*y * cos + *x * sin) / length);
            }
        }
    }
}

/// The reference's frequencies, if its pairs are as long as ours at every position.
fn turned(case: &Case, rope: &Rope) -> Option<Vec<f64>> {
    let dim = case.spec().head_dim;
    let half = rope.rotary_dim(dim) / 2;
    let own = frequencies(rope, dim, case.tokens());
    let length = |rows: &[f32], i: usize| f64::from(rows[i]).hypot(f64::from(rows[i + half]));
    let as_long = |i: usize| {
        let limit = 2.0 * (case.limit(i) + case.limit(i + half));
        (length(case.got, i) - length(case.expected, i)).abs() <= limit
    };
    let firsts = |t: usize, j: usize| (t * case.width + j..(t + 1) * case.width).step_by(dim);
    let still = |i: &usize| i % dim >= 2 * half;
    if (0..case.got.len()).filter(still).any(|i| case.off(i))
        || !(0..case.tokens()).all(|t| (0..half).all(|j| firsts(t, j).all(as_long)))
    {
        return None;
    }
    let theirs = |j: usize| {
        let mut more = 0.0;
        for t in 1..case.tokens() {
            // All heads turn alike. The angle from our pairs to theirs is that of a sum of complex products over the
            // heads.
            let (mut re, mut im) = (0.0, 0.0);
            for i in firsts(t, j) {
                let at = |rows: &[f32]| (f64::from(rows[i]), f64::from(rows[i + half]));
                let ((a, b), (c, d)) = (at(case.got), at(case.expected));
                (re, im) = (re + a * c + b * d, im + a * d - b * c);
            }
            // The number of whole turns follows from the previous positions.
            let (angle, guess) = (im.atan2(re), more * t as f64);
            more = (angle + 2.0 * PI * ((guess - angle) / (2.0 * PI)).round()) / t as f64;
        }
        f64::from(own[j]) + more
    };
    Some((0..half).map(theirs).collect())
}

/// Finds the number of the description that would give the reference's values.
fn angles(case: &Case, own: &Rope, theirs: &[f64]) -> Blamed {
    let plain = turn_back(case, case.got);
    let gives = |rope: &Rope| gives(case, &plain, Some(rope));
    let local = case.spec().window.as_ref().and_then(|window| window.rope.as_ref()) == Some(own);
    let name = |number: &str| if local { format!("window.rope.{number}") } else { format!("rope.{number}") };
    let unscaled = Rope { scaling: RopeScaling::Default {}, ..own.clone() };
    if unscaled != *own && gives(&unscaled) {
        return (name("scaling"), "it turns as without any scaling there".into());
    }
    // Any pair except the first determines theta if its frequency is not scaled, or scaled only by the factor.
    let factor = match own.scaling {
        RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } | RopeScaling::Yarn { factor, .. } => {
            factor
        }
        _ => 1.0,
    };
    for (j, frequency) in theirs.iter().enumerate().skip(1) {
        for unscaled in [*frequency, frequency * factor] {
            let theta = unscaled.powf(-(theirs.len() as f64) / j as f64);
            // The true theta is probably a round number; the measured one is not.
            let unit = 10f64.powf(theta.log10().floor() - 2.0);
            let fits = |theta: &f64| theta.is_finite() && gives(&Rope { theta: *theta, ..own.clone() });
            if let Some(theta) = [(theta / unit).round() * unit, theta].into_iter().find(fits) {
                return (name("theta"), format!("it is {} here and about {theta:.0} there", own.theta));
            }
        }
    }
    let dim = case.spec().head_dim;
    let mut pairs: Vec<usize> = case.rows().iter().map(|row| row % dim % theirs.len()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let ratio = theirs[pairs[0]] / f64::from(frequencies(own, dim, case.tokens())[pairs[0]]);
    let what = format!("pairs {} turn otherwise, the fastest of them {ratio:.3} times as fast there", Listed(&pairs));
    if (ratio - 1.0).abs() < 1e-6 { ("rope".into(), what) } else { (name("scaling"), what) }
}
