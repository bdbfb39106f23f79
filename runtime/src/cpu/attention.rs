//! Attention over the cache: which thread takes which heads and tokens.

use super::cache::KvCache;
use super::disjoint::Disjoint;
use super::isa::{AttendJob, Kernels, RowsView};
use super::pool::Pool;
use crate::backend::{Attention, KvType, WINDOW_STEP};

/// Query rows of one task: enough to reuse a block of keys while it is in L1.
const TASK_ROWS: usize = 48;

/// Stores keys and values of tokens from position `first` on, and attends `q`, the queries of the last of them, into `out`.
///
/// In a ring a few tokens are stored and attend before the next are stored, which overwrite what these see.
pub fn store_and_attend(
    on: (&Kernels, &Pool),
    [q, k, v]: [RowsView; 3],
    (cache, layer): (&mut KvCache, usize),
    first: usize,
    how: &Attention,
    out: &mut [f32],
) {
    let tokens = k.rows();
    // Tokens in front that are stored alone.
    let alone = tokens - q.rows();
    let wraps = first + tokens > cache.shape().positions[layer];
    let step = if wraps { WINDOW_STEP } else { tokens };
    for start in (0..tokens).step_by(step) {
        let end = tokens.min(start + step);
        cache.store(on.1, layer, k.part(start..end), v.part(start..end), first + start);
        let from = start.max(alone);
        if from < end {
            let out = &mut out[(from - alone) * q.width..(end - alone) * q.width];
            attend(on, q.part(from - alone..end - alone), (cache, layer), first + from, how, out);
        }
    }
}

/// Causal attention of `q` (`[tokens, n_heads * head_dim]`, token `t` at position `first + t`) into `out`.
fn attend(
    (kernels, pool): (&Kernels, &Pool),
    q: RowsView,
    (cache, layer): (&KvCache, usize),
    first: usize,
    how: &Attention,
    out: &mut [f32],
) {
    let shape = cache.shape();
    let (dim, tokens, width) = (shape.head_dim, q.rows(), q.width);
    let (group, ring) = (width / dim / shape.n_kv_heads, shape.positions[layer]);
    let step = (TASK_ROWS / group).max(1);
    let out = Disjoint::new(out);
    let kernel = match shape.kv_type {
        KvType::F32 => kernels.attend_f32,
        KvType::F16 => kernels.attend_f16,
    };
    let (window, softcap) = (how.window.unwrap_or(usize::MAX), how.softcap);
    // A thread's share is a run of tokens, as of the matrices. Late tokens see more positions and take longer: who has early ones
    // helps with them.
    pool.each(shape.n_kv_heads * tokens.div_ceil(step), |task| {
        let (head, start) = (task % shape.n_kv_heads, task / shape.n_kv_heads * step);
        let n = step.min(tokens - start);
        // The queries of a token that share a key head stand side by side: [n, group * dim].
        let at = |t: usize| (start + t) * width + head * group * dim;
        let mut rows = Vec::with_capacity(n * group * dim);
        let mut limits = Vec::with_capacity(n * group);
        for t in 0..n {
            rows.extend(q.data[at(t)..at(t) + group * dim].iter().map(|x| x * how.scale));
            limits.extend(std::iter::repeat_n(first + start + t + 1, group));
        }
        let mut result = vec![0.0; rows.len()];
        let (keys, values) = cache.head(layer, head);
        let (q, limits, out_rows) = (&rows[..], &limits[..], &mut result[..]);
        kernel(AttendJob { q, limits, window, softcap, keys, values, ring, head_dim: dim, out: out_rows });
        for (t, result) in result.chunks_exact(group * dim).enumerate() {
            // SAFETY: a task has its tokens' rows of its head alone, and here each token comes once.
            unsafe { out.part(at(t), group * dim) }.copy_from_slice(result);
        }
    });
}
