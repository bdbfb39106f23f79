//! Finds numbers and switches of the description that differ, by computing what another value would make of equal
//! inputs.

use super::explain::Blamed;
use super::reference::Case;

/// The fewest vectors from which a norm can be recognised: with fewer, some weight always fits.
const MIN_PARTS: usize = 4;

/// Steps of the search for a number, and of its refinement.
const STEPS: usize = 48;

/// True if `expected` may be a norm of `x` with any weight, over `unit` values at a time. `limit` says how far a value
/// may be off.
pub fn is_norm(x: &[f32], expected: &[f32], unit: usize, limit: impl Fn(usize) -> f64) -> bool {
    let roots = x.chunks_exact(unit).map(|x| {
        let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / unit as f64;
        1.0 / square.sqrt()
    });
    let roots: Vec<f64> = roots.collect();
    let normed = |i: usize| f64::from(x[i]) * roots[i / unit];
    let column = |c: usize| {
        let (mut xy, mut xx) = (0.0, 0.0);
        for i in (c..x.len()).step_by(unit) {
            (xy, xx) = (xy + normed(i) * f64::from(expected[i]), xx + normed(i).powi(2));
        }
        // The effect of eps is tolerated here: it shows in the norm itself if there is one.
        (c..x.len()).step_by(unit).all(|i| {
            let near = limit(i) + 1e-3 * f64::from(expected[i]).abs();
            (f64::from(expected[i]) - xy / xx * normed(i)).abs() <= near
        })
    };
    roots.len() >= MIN_PARTS && (0..unit).all(column)
}

/// The number between `low` and `high` with the least `error`; a round number if that fits.
pub fn number(low: f64, high: f64, error: impl Fn(f64) -> f64, fits: impl Fn(f64) -> bool) -> Option<f64> {
    let at = |i: f64| low * (high / low).powf(i / STEPS as f64);
    let best = (0..=STEPS).min_by(|&a, &b| error(at(a as f64)).total_cmp(&error(at(b as f64))))? as f64;
    let (mut a, mut b) = (best - 1.0, best + 1.0);
    for _ in 0..STEPS {
        let (c, d) = (a + (b - a) * 0.381_966, b - (b - a) * 0.381_966);
        if error(at(c)) < error(at(d)) { b = d } else { a = c }
    }
    round(at((a + b) / 2.0), fits)
}

/// Rounds a measured number if the round one fits, because the true one was probably round.
fn round(found: f64, fits: impl Fn(f64) -> bool) -> Option<f64> {
    let unit = 10f64.powf(found.abs().log10().floor() - 2.0);
    [(found / unit).round() * unit, found].into_iter().find(|&x| fits(x))
}

/// The finding that a number of the description differs.
fn other(name: &str, here: f64, there: f64) -> Blamed {
    (name.into(), format!("it is {here} here and about {there:.4} there"))
}

/// Checks whether all values are off by one factor: `embed_scale`.
pub fn embed_scale(case: &Case) -> Option<Blamed> {
    let here = case.spec().embed_scale;
    let fits = |there: f64| {
        (0..case.got.len()).all(|i| case.close(i, case.got[i].into(), f64::from(case.expected[i]) / there * here))
    };
    round(here / case.factor(0, case.got.len()), fits).map(|there| other("embed_scale", here, there))
}

/// Explains a residual sum of equal parts: another multiplier, or a post-norm that only one side has.
pub fn residual(case: &Case, a: &str, b: &str) -> Option<Blamed> {
    let (spec, a, b) = (case.spec(), &case.slots[a], &case.slots[b].rows);
    let here = spec.residual_scale;
    let added: Vec<f32> = case.expected.iter().zip(a.rows.iter()).map(|(x, a)| x - a).collect();
    // A difference of two f32 is rounded like the sum was, hence twice.
    let limit = |i: usize| 2.0 * case.limit(i);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in b.iter().zip(&added) {
        (xy, xx) = (xy + f64::from(*x) * f64::from(*y), xx + f64::from(*x).powi(2));
    }
    let added_is = |rows: &[f32], scale: f64| {
        (0..rows.len()).all(|i| (f64::from(added[i]) - scale * f64::from(rows[i])).abs() <= limit(i))
    };
    if let Some(there) = round(xy / xx, |scale| added_is(b, scale)) {
        return Some(other("residual_scale", here, there));
    }
    let plain = if case.component.slot == "mid" { "attn.out" } else { "mlp.out" };
    if spec.post_norm && added_is(&case.slots[plain].rows, here) {
        return Some(("post_norm".into(), "no norm stands behind the block there".into()));
    }
    let normed = !spec.post_norm && is_norm(b, &added, case.width, limit);
    normed.then(|| ("post_norm".into(), "a norm stands behind the block there, and none here".into()))
}

/// Explains logits that differ from equal inputs: by their divisor or their softcap. Otherwise `matrix` judges the
/// logits before either.
pub fn logits(case: &Case, matrix: impl Fn(&[f32], &[f32]) -> Blamed) -> Blamed {
    let spec = case.spec();
    let plain = |logit: f32| {
        let logit = f64::from(logit);
        let uncapped = spec.logit_softcap.map_or(logit, |cap| cap * (logit / cap).clamp(-0.999_999, 0.999_999).atanh());
        uncapped * spec.logit_divisor
    };
    let ours: Vec<f64> = case.got.iter().map(|x| plain(*x)).collect();
    let made = |divisor: f64, cap: Option<f64>, x: f64| cap.map_or(x / divisor, |cap| cap * (x / divisor / cap).tanh());
    let error = |divisor: f64, cap: Option<f64>| {
        let square = |(x, y): (&f64, &f32)| (made(divisor, cap, *x) - f64::from(*y)).powi(2);
        ours.iter().zip(case.expected).map(square).sum::<f64>()
    };
    let fits = |divisor: f64, cap: Option<f64>| {
        (0..ours.len())
            .all(|i| (made(divisor, cap, ours[i]) - f64::from(case.expected[i])).abs() <= 2.0 * case.limit(i))
    };
    let (here, divisor) = (spec.logit_softcap, spec.logit_divisor);
    if here.is_some() && fits(divisor, None) {
        return ("logit_softcap".into(), "there is none there".into());
    }
    let largest = ours.iter().fold(0f64, |m, x| m.max(x.abs())) / divisor;
    let (low, high) = (largest / 30.0, largest * 300.0);
    if let Some(cap) = number(low, high, |cap| error(divisor, Some(cap)), |cap| fits(divisor, Some(cap))) {
        let here = here.map_or("none".to_string(), |cap| cap.to_string());
        return ("logit_softcap".into(), format!("it is {here} here and about {cap:.4} there"));
    }
    if let Some(there) = number(1e-3, 1e3, |divisor| error(divisor, here), |divisor| fits(divisor, here)) {
        return other("logit_divisor", divisor, there);
    }
    let expected: Vec<f32> = case.expected.iter().map(|x| plain(*x) as f32).collect();
    let got: Vec<f32> = ours.iter().map(|x| *x as f32).collect();
    matrix(&got, &expected)
}
