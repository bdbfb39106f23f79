//! Explains attention that differs although queries, keys and values are equal: by its window, its softcap or its
//! scale.
//!
//! For each candidate setting, some heads of some tokens are computed again in f64.

use super::explain::Blamed;
use super::reference::Case;
use super::switches::number;

/// The most heads, over all tokens, that are examined.
const SOME: usize = 48;

/// A candidate for the settings of a layer's attention.
#[derive(Clone, Copy)]
struct How {
    scale: f64,
    softcap: Option<f64>,
    /// Number of positions that a token sees; larger than the context if it sees all.
    window: usize,
}

/// The attention of one head of one token: `[head_dim]`.
fn attend(case: &Case, how: How, t: usize, head: usize) -> Vec<f64> {
    let spec = case.spec();
    let (dim, group) = (spec.head_dim, spec.n_heads / spec.n_kv_heads);
    let row = |slot: &str, width: usize, t: usize, head: usize| {
        let rows = &case.slots[slot].rows;
        let first = t * width + head * dim;
        rows[first..first + dim].iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()
    };
    let q = row("attn.q", spec.q_size(), t, head);
    let seen = (t + 1).saturating_sub(how.window)..t + 1;
    let score = |p: usize| {
        let k = row("attn.k", spec.kv_size(), p, head / group);
        let score = how.scale * q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>();
        how.softcap.map_or(score, |cap| cap * (score / cap).tanh())
    };
    let scores: Vec<f64> = seen.clone().map(score).collect();
    let most = scores.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
    let weights: Vec<f64> = scores.iter().map(|x| (x - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0.0; dim];
    for (p, weight) in seen.zip(&weights) {
        let v = row("attn.v", spec.kv_size(), p, head / group);
        out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / total * v);
    }
    out
}

/// A sample of a list, evenly spaced.
fn some<T: Copy>(all: &[T]) -> Vec<T> {
    all.iter().step_by(all.len().div_ceil(SOME).max(1)).copied().collect()
}

/// Finds the setting that gives the reference's values from the same queries, keys and values.
pub fn explain(case: &Case) -> Option<Blamed> {
    let (spec, layer) = (case.spec(), case.component.layer);
    let (dim, tokens) = (spec.head_dim, case.tokens());
    let is_off = |(t, head): (usize, usize)| (0..dim).any(|d| case.off(t * case.width + head * dim + d));
    let heads = (0..tokens).flat_map(|t| (0..spec.n_heads).map(move |head| (t, head)));
    let (off, right): (Vec<_>, Vec<_>) = heads.partition(|&place| is_off(place));
    let first_off = off.first()?.0;
    let places = [some(&off), some(&right)].concat();
    let differences = |how: How| {
        places.iter().flat_map(move |&(t, head)| {
            let first = t * case.width + head * dim;
            let rows = attend(case, how, t, head).into_iter().enumerate();
            rows.map(move |(d, x)| (first + d, x - f64::from(case.expected[first + d])))
        })
    };
    let gives = |how: How| differences(how).all(|(i, d)| d.abs() <= 2.0 * case.limit(i));
    let error = |how: How| differences(how).map(|(_, d)| d * d).sum::<f64>();
    let size = spec.window_of(layer).map_or(usize::MAX, |window| window.size);
    let scale = spec.attn_scale.unwrap_or(1.0 / (dim as f64).sqrt());
    let ours = How { scale, softcap: spec.attn_softcap, window: size };

    // Up to the first token that is off, both windows cover all positions. So the smaller window ends there.
    let smaller = Some(first_off).filter(|&window| window > 0 && window < size);
    let larger = (size < tokens).then(|| size + 1..=tokens).into_iter().flatten();
    if let Some(window) = smaller.into_iter().chain(larger).find(|&window| gives(How { window, ..ours })) {
        let seen = |window: usize| if window >= tokens { "all".to_string() } else { format!("{window} positions") };
        let own = spec.window.as_ref().is_some_and(|own| own.size == window);
        let blame = if size == usize::MAX || window >= tokens || own { "window.layers" } else { "window.size" };
        return Some((blame.into(), format!("a token sees {} here and {} there", seen(size), seen(window))));
    }
    let blamed = |name: &str, here: String, there: f64| {
        (name.to_string(), format!("it is {here} here and about {there:.4} there"))
    };
    if ours.softcap.is_some() && gives(How { softcap: None, ..ours }) {
        return Some(("attn_softcap".into(), "there is none there".into()));
    }
    let capped = |cap: f64| How { softcap: Some(cap), ..ours };
    if let Some(cap) = number(1e-2, 1e4, |cap| error(capped(cap)), |cap| gives(capped(cap))) {
        return Some(blamed("attn_softcap", ours.softcap.map_or("none".into(), |cap| cap.to_string()), cap));
    }
    let scaled = |factor: f64| How { scale: scale * factor, ..ours };
    let factor = number(1e-2, 1e2, |factor| error(scaled(factor)), |factor| gives(scaled(factor)))?;
    Some(blamed("attn_scale", format!("{scale:.4}"), scale * factor))
}
