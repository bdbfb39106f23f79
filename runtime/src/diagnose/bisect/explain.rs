//! Finds what is at fault in a component that differs, as far as the values tell.

use super::component::Op;
use super::linear::{self, Matrix};
use super::noise::activated;
use super::reference::Case;
use super::{Listed, attention, rotary, switches};
use nanoserve_format::schema::{EMBED, LM_HEAD};

/// What is at fault, and a sentence on what is known about it.
pub type Blamed = (String, String);

/// Looks for a fault that would make exactly this difference.
pub fn explain(case: &Case) -> Blamed {
    if let Op::Add { a, b } = &case.component.op
        && let Some(blamed) = switches::residual(case, a, b)
    {
        return blamed;
    }
    let unseen: Vec<&String> = case.component.inputs().iter().flat_map(|input| &case.slots[input].unseen).collect();
    match &case.component.op {
        Op::Embed => embed(case),
        // The matrix, the norm or the angles: the values tell which, even if the reference lacks the results in
        // between.
        Op::Rope { plain, weight, bias, input } => {
            let matrix = Matrix { weight, bias, input };
            let known = case.slots[*input].unseen.is_empty();
            let unclear = || anything(&unseen, &format!("{}{}", case.component.prefix, case.component.slot));
            rotary::explain(case, &unseen, plain, &matrix).filter(|_| known).unwrap_or_else(unclear)
        }
        Op::Linear { weight, bias, input } => {
            let matrix = Matrix { weight, bias, input };
            if unseen.is_empty() || few(case) {
                return linear::explain(case, &matrix, case.got, case.expected);
            }
            let certain = linear::certain(case, &matrix, case.got, case.expected);
            certain.unwrap_or_else(|| anything(&unseen, weight))
        }
        Op::Norm { weight, .. } if !unseen.is_empty() => anything(&unseen, weight),
        Op::Head if !unseen.is_empty() && !few(case) => anything(&unseen, LM_HEAD),
        Op::Head => switches::logits(case, |got, expected| {
            linear::explain(case, &Matrix { weight: LM_HEAD, bias: "", input: "final_norm" }, got, expected)
        }),
        _ if !unseen.is_empty() => anything(&unseen, &format!("{}{}", case.component.prefix, case.component.slot)),
        Op::Norm { weight, input } => norm(case, weight, input),
        Op::Gate { gate, up, .. } => gate_and_up(case, gate, up),
        Op::Attention => attention::explain(case).unwrap_or_else(|| {
            let mut heads: Vec<usize> = case.rows().iter().map(|r| r / case.spec().head_dim).collect();
            heads.dedup();
            let what = format!("from equal queries, keys and values; heads {} differ", Listed(&heads));
            ("attention".into(), what)
        }),
        Op::Add { .. } => ("residual sum".into(), format!("of equal parts; elements {} differ", Listed(&case.rows()))),
    }
}

/// Names everything that could be at fault, because the reference lacks the results in between.
fn anything(unseen: &[&String], own: &str) -> Blamed {
    let blame = match unseen {
        [one] => format!("{one} or {own}"),
        all => format!("anything from {} to {own}", all[0]),
    };
    let without = unseen.iter().take(3).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    (blame, format!("a reference with {without} would tell more"))
}

/// True if less than half of the outputs are off. Then their own rows are at fault, since an earlier fault reaches all
/// outputs.
fn few(case: &Case) -> bool {
    2 * case.rows().len() < case.width
}

fn embed(case: &Case) -> Blamed {
    if let Some(blamed) = switches::embed_scale(case) {
        return blamed;
    }
    let mut ids: Vec<usize> = (0..case.got.len())
        .filter(|&i| case.off(i))
        .map(|i| case.reference.input_ids[i / case.width] as usize)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    (EMBED.into(), format!("rows of tokens {} differ, in columns {}", Listed(&ids), Listed(&case.rows())))
}

/// A wrong eps multiplies each row by a factor that follows from the row's mean square; a wrong weight multiplies a
/// column.
fn norm(case: &Case, weight: &str, input: &str) -> Blamed {
    let (eps, unit) = (case.spec().norm_eps, case.unit());
    let factors: Vec<f64> = (0..case.got.len()).step_by(unit).map(|first| case.factor(first, unit)).collect();
    let one_factor = (0..case.got.len()).all(|i| {
        let scaled = f64::from(case.expected[i]) * factors[i / unit];
        case.close(i, case.got[i].into(), scaled)
    });
    let x = case.slots[input].rows.chunks_exact(unit);
    let squares: Vec<f64> = x.map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / unit as f64).collect();
    // factor^2 = (square + theirs) / (square + ours): the row with the smallest square is the most precise.
    let best = (0..squares.len()).min_by(|&a, &b| squares[a].total_cmp(&squares[b])).expect("a prompt has a token");
    let theirs = factors[best].powi(2) * (squares[best] + eps) - squares[best];
    let explained = |(square, factor): (&f64, &f64)| {
        let expected = ((square + theirs) / (square + eps)).sqrt();
        (factor - expected).abs() <= case.tolerance.rtol / 5.0 + 1e-3 * (expected - 1.0).abs()
    };
    if one_factor && theirs > -1e-3 * squares[best] && squares.iter().zip(&factors).all(explained) {
        let what =
            format!("each row is off by one factor: eps is {eps:e} here and about {:.1e} there", theirs.max(0.0));
        return ("norm_eps".into(), what);
    }
    let mut elements: Vec<usize> = case.rows().iter().map(|row| row % unit).collect();
    elements.sort_unstable();
    elements.dedup();
    match elements.as_slice() {
        [] => (weight.into(), "rows are off by a factor, which no eps explains".into()),
        rows => (weight.into(), format!("elements {} differ", Listed(rows))),
    }
}

fn gate_and_up(case: &Case, gate: &str, up: &str) -> Blamed {
    let (g, u) = (&case.slots["mlp.gate"], &case.slots["mlp.up"]);
    if g.unseen.is_empty() && u.unseen.is_empty() {
        return ("activation".into(), "both matrices give the reference's values, their product is another".into());
    }
    let swapped = |i: usize| activated(case.spec().activation, u.rows[i].into()) * f64::from(g.rows[i]);
    if (0..case.got.len()).all(|i| (swapped(i) - f64::from(case.expected[i])).abs() <= 2.0 * case.limit(i)) {
        return (format!("{gate}, swapped with {up}"), "each in the other's place gives the reference's values".into());
    }
    let mut named = vec![];
    named.extend((!g.unseen.is_empty()).then_some(gate));
    named.extend((!u.unseen.is_empty()).then_some(up));
    (named.join(" or "), format!("rows {} differ", Listed(&case.rows())))
}
