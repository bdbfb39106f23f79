//! Attention over the cache: which thread takes which heads and tokens.

use super::cache::KvCache;
use super::disjoint::Disjoint;
use super::isa::{AttendJob, Kernels, Rows};
use super::pool::Pool;
use crate::backend::KvType;

/// Query rows of one task: enough to reuse a block of keys while it is in L1.
const TASK_ROWS: usize = 48;

/// Causal attention of `q` (`[tokens, n_heads * head_dim]`, token `t` at position `first + t`) into `out`.
pub fn attend(kernels: &Kernels, pool: &Pool, q: Rows, cache: &KvCache, layer: usize, first: usize, out: &mut [f32]) {
    let shape = cache.shape();
    let (dim, tokens, width) = (shape.head_dim, q.rows(), q.width);
    let group = width / dim / shape.n_kv_heads;
    let scale = 1.0 / (dim as f32).sqrt();
    let step = (TASK_ROWS / group).max(1);
    let out = Disjoint::new(out);
    let kernel = match shape.kv_type {
        KvType::F32 => kernels.attend_f32,
        KvType::F16 => kernels.attend_f16,
    };
    // Late tokens see more positions and take longer: they go first, so that none is left over at the end.
    let steps = tokens.div_ceil(step);
    pool.each(shape.n_kv_heads * steps, |task| {
        let (head, start) = (task % shape.n_kv_heads, (steps - 1 - task / shape.n_kv_heads) * step);
        let n = step.min(tokens - start);
        // The queries of a token that share a key head stand side by side: [n, group * dim].
        let at = |t: usize| (start + t) * width + head * group * dim;
        let mut rows = Vec::with_capacity(n * group * dim);
        let mut limits = Vec::with_capacity(n * group);
        for t in 0..n {
            rows.extend(q.data[at(t)..at(t) + group * dim].iter().map(|x| x * scale));
            limits.extend(std::iter::repeat_n(first + start + t + 1, group));
        }
        let mut result = vec![0.0; rows.len()];
        let (keys, values) = cache.head(layer, head);
        kernel(AttendJob { q: &rows, limits: &limits, keys, values, head_dim: dim, out: &mut result });
        for (t, result) in result.chunks_exact(group * dim).enumerate() {
            // SAFETY: a task has its tokens' rows of its head alone, and here each token comes once.
            unsafe { out.part(at(t), group * dim) }.copy_from_slice(result);
        }
    });
}
