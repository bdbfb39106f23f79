//! Fuses operations that a device runs better as one.
//!
//! ```text
//! embed, scale                                              embed with scale
//! linear (same x), linear (same x)                          one linear with the parts of both, three at most
//! linear, (scale,) add                                      linear into the residual
//! norm, (scale,) add                                        norm_add
//! one token: (norm_parts x 2,) (rope x 2,) attend           decode
//! one token: norm, linear or gated, ...                     each with the norm
//! ```
//!
//! A fused operation does not write its intermediate rows. So operations are fused only if nothing else in the queue
//! reads those rows before they are filled again. Rows that are still left out at the end of a queue are reported and
//! must not be read.

use super::ops::{Angles, DeviceOp, DeviceRows, Norm, Projection, filled};

/// A queue after fusing.
#[derive(Debug, Default, PartialEq)]
pub struct Fused {
    /// The operations to run.
    pub ops: Vec<DeviceOp>,
    /// Rows that the original queue would have filled but this one does not.
    pub left_out: Vec<DeviceRows>,
}

/// Fuses what can be fused in a queue of operations from the forward pass.
pub fn fuse(ops: &[DeviceOp]) -> Fused {
    let mut fused = Fused { ops: Vec::new(), left_out: Vec::new() };
    let mut rest = ops;
    while let Some(op) = rest.first() {
        let (op, taken, left_out) = join(op, rest, &mut fused.ops);
        rest = &rest[taken..];
        // Rows filled again are valid again; rows left out before may be left out once more.
        filled(&mut fused.left_out, &op);
        fused.left_out.extend(left_out);
        fused.ops.push(op);
    }
    norms_into_matrices(&mut fused);
    fused.left_out.sort_by_key(|rows| rows.address);
    fused.left_out.dedup();
    fused
}

/// The operation that replaces the first ones of `rest`, how many it replaces, and the rows it leaves out. It may also
/// take operations off the end of `before`.
fn join(first: &DeviceOp, rest: &[DeviceOp], before: &mut Vec<DeviceOp>) -> (DeviceOp, usize, Vec<DeviceRows>) {
    match (first, rest) {
        (DeviceOp::Embed { table, out, scale }, [_, DeviceOp::Scale { x, factor }, ..]) if x == out => {
            (DeviceOp::Embed { table: *table, out: *out, scale: scale * factor }, 2, vec![])
        }
        (DeviceOp::Linear { x, norm, parts, residual: None }, _) => {
            if let ([part], Some((stream, factor, taken))) = (&parts[..], added(rest, |p| p.out, parts)) {
                let parts = vec![Projection { out: stream, ..*part }];
                let op = DeviceOp::Linear { x: *x, norm: *norm, parts, residual: Some(factor) };
                return (op, taken, vec![part.out]);
            }
            let mut parts = parts.clone();
            if let Some(DeviceOp::Linear { x: x_before, norm: None, parts: before_parts, residual: None }) =
                before.last()
                && x_before == x
                && norm.is_none()
                && before_parts.len() + parts.len() <= 3
            {
                let mut all = before_parts.clone();
                all.append(&mut parts);
                before.pop();
                parts = all;
            }
            (DeviceOp::Linear { x: *x, norm: *norm, parts, residual: None }, 1, vec![])
        }
        (DeviceOp::Norm { x: y, norm, out }, _) => match added(rest, |out| *out, &[*out]) {
            Some((x, factor, taken)) if !x.overlaps(*y) => {
                (DeviceOp::NormAdd { x, y: *y, norm: *norm, factor }, taken, vec![*out])
            }
            _ => (first.clone(), 1, vec![]),
        },
        (DeviceOp::Attend(attend), _) if super::launch::decodes(attend) => {
            let free = |rows: DeviceRows| rows_are_free(&rest[1..], rows);
            let (mut op, mut left_out) = (DeviceOp::Decode { attend: *attend, angles: None, norms: None }, vec![]);
            if free(attend.q) && free(attend.k) {
                let (angles, norms) = heads(before, attend.q, attend.k, attend.cache.head_dim, attend.offset);
                if angles.is_some() || norms.is_some() {
                    left_out = vec![attend.q, attend.k];
                }
                op = DeviceOp::Decode { attend: *attend, angles, norms };
            }
            (op, 1, left_out)
        }
        _ => (first.clone(), 1, vec![]),
    }
}

/// If the rows that `rest[0]` makes are only added to other rows, perhaps scaled: those other rows, the factor, and the
/// number of operations.
fn added<T>(rest: &[DeviceOp], out: impl Fn(&T) -> DeviceRows, made: &[T]) -> Option<(DeviceRows, f32, usize)> {
    let [made] = made else { return None };
    let made = out(made);
    let (factor, taken) = match rest.get(1) {
        Some(DeviceOp::Scale { x, factor }) if *x == made => (*factor, 3),
        _ => (1.0, 2),
    };
    match rest.get(taken - 1) {
        Some(DeviceOp::Add { x, y }) if *y == made && !x.overlaps(made) && rows_are_free(&rest[taken..], made) => {
            Some((*x, factor, taken))
        }
        _ => None,
    }
}

/// Takes RoPE and head norms of `q` and `k` off the end of `before`.
#[allow(clippy::type_complexity, reason = "the two things it takes")]
fn heads(
    before: &mut Vec<DeviceOp>,
    q: DeviceRows,
    k: DeviceRows,
    head_dim: usize,
    at: i32,
) -> (Option<Angles>, Option<[Norm; 2]>) {
    let (mut angles, mut norms) = (None, None);
    if let [
        ..,
        DeviceOp::Rope { x: a, angles: of_q, offset: i, .. },
        DeviceOp::Rope { x: b, angles: of_k, offset: j, .. },
    ] = before[..]
        && (a, b, of_q, i, j) == (q, k, of_k, at, at)
    {
        angles = Some(of_q);
        before.truncate(before.len() - 2);
    }
    if let [.., DeviceOp::NormParts { x: a, norm: of_q, width: i }, DeviceOp::NormParts { x: b, norm: of_k, width: j }] =
        before[..]
        && (a, b, i, j) == (q, k, head_dim, head_dim)
        && of_q.eps == of_k.eps
    {
        norms = Some([of_q, of_k]);
        before.truncate(before.len() - 2);
    }
    (angles, norms)
}

/// True if nothing in `rest` reads these rows before they are filled again.
fn rows_are_free(rest: &[DeviceOp], rows: DeviceRows) -> bool {
    let mut left = vec![rows];
    for op in rest {
        if left.iter().any(|left| op.reads().iter().any(|read| read.overlaps(*left))) {
            return false;
        }
        filled(&mut left, op);
        if left.is_empty() {
            return true;
        }
    }
    true
}

/// Merges the norm of one row into the matrix products that read it, if nothing else reads it.
fn norms_into_matrices(fused: &mut Fused) {
    let mut at = 0;
    while at < fused.ops.len() {
        let DeviceOp::Norm { x, norm, out } = fused.ops[at] else {
            at += 1;
            continue;
        };
        let (mut uses, mut again, mut only) = (Vec::new(), false, x.rows == 1 && !x.overlaps(out));
        let mut changed = false;
        for (j, op) in fused.ops.iter().enumerate().skip(at + 1) {
            if op.reads().iter().any(|read| read.overlaps(out)) {
                let reader = matches!(op, DeviceOp::Linear { x, norm: None, .. } | DeviceOp::Gated { x, norm: None, .. } if *x == out);
                // A block that still computes the norm must not see what other blocks have written.
                let apart = !op.writes().iter().any(|written| written.overlaps(out) || written.overlaps(x));
                only &= reader && apart && !changed;
                uses.push(j);
            }
            changed |= op.writes().iter().any(|written| written.overlaps(x));
            again = op.writes().iter().any(|written| out.without(*written).is_none());
            if again {
                break;
            }
        }
        if !only || uses.is_empty() {
            at += 1;
            continue;
        }
        for j in uses {
            if let DeviceOp::Linear { x: input, norm: n, .. } | DeviceOp::Gated { x: input, norm: n, .. } =
                &mut fused.ops[j]
            {
                (*input, *n) = (x, Some(norm));
            }
        }
        fused.ops.remove(at);
        if !again {
            fused.left_out.push(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::Span;
    use super::super::ops::Matrix;
    use super::*;
    use nanoserve_format::Encoding;

    /// Buffer `i`, with `rows` rows of 8 values.
    fn rows(i: u64, rows: usize) -> DeviceRows {
        DeviceRows { address: 0x1000 * (i + 1), rows, width: 8 }
    }

    fn linear(x: DeviceRows, out: DeviceRows) -> DeviceOp {
        let panels = Span { address: 0x9_0000, bytes: 512 };
        let matrix = Matrix { panels, encoding: Encoding::F32, rows: 8, cols: 8 };
        DeviceOp::Linear { x, norm: None, parts: vec![Projection { matrix, bias: Span::NONE, out }], residual: None }
    }

    fn norm(x: DeviceRows, out: DeviceRows) -> DeviceOp {
        DeviceOp::Norm { x, norm: Norm { weight: Span { address: 0x8_0000, bytes: 32 }, eps: 1e-5 }, out }
    }

    fn kinds(fused: &Fused) -> Vec<&'static str> {
        let kind = |op: &DeviceOp| match op {
            DeviceOp::Linear { norm: Some(_), residual: None, .. } => "norm+linear",
            DeviceOp::Linear { norm: None, residual: Some(_), .. } => "linear+add",
            DeviceOp::Linear { norm: None, residual: None, .. } => "linear",
            DeviceOp::Norm { .. } => "norm",
            DeviceOp::NormAdd { .. } => "norm_add",
            DeviceOp::Scale { .. } => "scale",
            DeviceOp::Add { .. } => "add",
            _ => "another",
        };
        fused.ops.iter().map(kind).collect()
    }

    #[test]
    fn what_others_read_is_not_left_out() {
        let [x, n, out, y] = [0, 1, 2, 3].map(|i| rows(i, 1));
        // Nothing else reads the norm: it goes into the matrix, and its rows are reported.
        let fused = fuse(&[norm(x, n), linear(n, out)]);
        assert_eq!((kinds(&fused), fused.left_out), (vec!["norm+linear"], vec![n]));
        // The rows are filled again: they are not reported.
        let fused = fuse(&[norm(x, n), linear(n, out), norm(y, n), DeviceOp::Scale { x: n, factor: 2.0 }]);
        assert_eq!((kinds(&fused), fused.left_out), (vec!["norm+linear", "norm", "scale"], vec![]));
        // Something else reads the norm, or its input changes before the matrix reads it.
        let read = [norm(x, n), linear(n, out), DeviceOp::Add { x: y, y: n }];
        assert_eq!(kinds(&fuse(&read)), ["norm", "linear", "add"]);
        let changed = [norm(x, n), DeviceOp::Scale { x, factor: 2.0 }, linear(n, out)];
        assert_eq!(kinds(&fuse(&changed)), ["norm", "scale", "linear"]);
        // A matrix that writes where the norm reads: blocks do not all run at the same time.
        assert_eq!(kinds(&fuse(&[norm(x, n), linear(n, x)])), ["norm", "linear"]);
        // More than one row goes through other kernels.
        let [x, n, out] = [0, 1, 2].map(|i| rows(i, 2));
        assert_eq!(kinds(&fuse(&[norm(x, n), linear(n, out)])), ["norm", "linear"]);
    }

    #[test]
    fn a_residual_takes_its_factor_along() {
        let [x, out, y] = [0, 1, 2].map(|i| rows(i, 3));
        let fused = fuse(&[linear(y, out), DeviceOp::Scale { x: out, factor: 0.5 }, DeviceOp::Add { x, y: out }]);
        let [DeviceOp::Linear { parts, residual, .. }] = &fused.ops[..] else { panic!("{fused:?}") };
        assert_eq!((parts[0].out, *residual, &fused.left_out[..]), (x, Some(0.5), &[out][..]));
        // The matrix's rows are read once more.
        let again = [linear(y, out), DeviceOp::Add { x, y: out }, DeviceOp::Add { x: y, y: out }];
        assert_eq!(kinds(&fuse(&again)), ["linear", "add", "add"]);
        assert_eq!(kinds(&fuse(&[norm(y, out), DeviceOp::Add { x, y: out }])), ["norm_add"]);
        // Fewer rows are filled afterwards: the rest stays left out.
        let one = rows(1, 1);
        let fused = fuse(&[linear(y, out), DeviceOp::Add { x, y: out }, linear(rows(2, 1), one)]);
        assert_eq!(fused.left_out, [DeviceRows { address: one.address + 32, rows: 1, width: 16 }]);
    }
}
