//! Attention over the KV cache: which thread takes which heads and tokens.

use super::cache::KvCache;
use super::disjoint::Disjoint;
use super::isa::{AttendJob, Kernels, RowsView};
use super::pool::Pool;
use crate::backend::{Attending, Attention, KvType, WINDOW_STEP};

/// Query rows in one task: enough to reuse a block of keys while it is in L1.
const TASK_ROWS: usize = 48;

/// For each span, stores the keys and values of its tokens in layer `layer` of its cache and computes the attention of
/// its queries, which belong to its last tokens, into `out`. `q`, `k`, `v` and `out` hold the rows of one span after
/// the other.
///
/// If a ring buffer wraps, a few tokens are stored and attend before the next ones are stored, because those overwrite
/// what the first ones see. All other spans attend together, so that threads share the heads and tokens of all.
pub fn store_and_attend(
    on: (&Kernels, &Pool),
    [q, k, v]: [RowsView; 3],
    spans: &mut [Attending<KvCache>],
    layer: usize,
    how: &Attention,
    out: &mut [f32],
) {
    let (mut first_token, mut first_query) = (0, 0);
    let mut jobs = Vec::with_capacity(spans.len());
    let out = Disjoint::new(out);
    for Attending { cache, first, tokens, queries } in spans {
        let own = first_token..first_token + *tokens;
        let (k, v) = (k.part(own.clone()), v.part(own));
        let q = q.part(first_query..first_query + *queries);
        let out_at = first_query * q.width;
        (first_token, first_query) = (first_token + *tokens, first_query + *queries);
        // Leading tokens that are only stored.
        let only_stored = *tokens - *queries;
        let wraps = *first + *tokens > cache.shape().positions[layer];
        if !wraps {
            cache.store(on.1, layer, k, v, *first);
            jobs.push(Job { q, cache, first: *first + only_stored, out_at });
            continue;
        }
        for start in (0..*tokens).step_by(WINDOW_STEP) {
            let end = (*tokens).min(start + WINDOW_STEP);
            cache.store(on.1, layer, k.part(start..end), v.part(start..end), *first + start);
            let from = start.max(only_stored);
            if from < end {
                let q = q.part(from - only_stored..end - only_stored);
                let out_at = out_at + (from - only_stored) * q.width;
                attend(on, &[Job { q, cache, first: *first + from, out_at }], layer, how, &out);
            }
        }
    }
    attend(on, &jobs, layer, how, &out);
}

/// The queries of one span (`[tokens, n_heads * head_dim]`) and where their output begins. Token `t` is at position
/// `first + t`.
struct Job<'a> {
    q: RowsView<'a>,
    cache: &'a KvCache,
    first: usize,
    out_at: usize,
}

/// Causal attention of all jobs.
fn attend((kernels, pool): (&Kernels, &Pool), jobs: &[Job], layer: usize, how: &Attention, out: &Disjoint<f32>) {
    // Tokens in one task of a job; below, the number of tasks before each job's.
    let step = |job: &Job| {
        let group = job.q.width / job.cache.shape().head_dim / job.cache.shape().n_kv_heads;
        (TASK_ROWS / group).max(1)
    };
    let mut tasks = 0;
    let firsts: Vec<usize> = jobs
        .iter()
        .map(|job| {
            let first = tasks;
            tasks += job.cache.shape().n_kv_heads * job.q.rows().div_ceil(step(job));
            first
        })
        .collect();
    // A thread's share is a run of tokens, as in the matrix products. Late tokens see more positions and take longer:
    // threads with early tokens finish first and help.
    pool.each(tasks, |task| {
        let own = firsts.partition_point(|first| *first <= task) - 1;
        attend_task(kernels, &jobs[own], (task - firsts[own], step(&jobs[own])), layer, how, out);
    });
}

/// Attention of one KV head and `step` tokens of a job.
fn attend_task(
    kernels: &Kernels,
    job: &Job,
    (task, step): (usize, usize),
    layer: usize,
    how: &Attention,
    out: &Disjoint<f32>,
) {
    let shape = job.cache.shape();
    let (dim, tokens, width) = (shape.head_dim, job.q.rows(), job.q.width);
    let (group, ring) = (width / dim / shape.n_kv_heads, shape.positions[layer]);
    let kernel = match shape.kv_type {
        KvType::F32 => kernels.attend_f32,
        KvType::F16 => kernels.attend_f16,
    };
    let (window, softcap) = (how.window.unwrap_or(usize::MAX), how.softcap);
    let (head, start) = (task % shape.n_kv_heads, task / shape.n_kv_heads * step);
    let n = step.min(tokens - start);
    // A token's queries that share a KV head stand side by side: [n, group * dim].
    let at = |t: usize| (start + t) * width + head * group * dim;
    let mut rows = Vec::with_capacity(n * group * dim);
    let mut limits = Vec::with_capacity(n * group);
    for t in 0..n {
        rows.extend(job.q.data[at(t)..at(t) + group * dim].iter().map(|x| x * how.scale));
        limits.extend(std::iter::repeat_n(job.first + start + t + 1, group));
    }
    let mut result = vec![0.0; rows.len()];
    let (keys, values) = job.cache.head(layer, head);
    let (q, limits, out_rows) = (&rows[..], &limits[..], &mut result[..]);
    kernel(AttendJob { q, limits, window, softcap, keys, values, ring, head_dim: dim, out: out_rows });
    for (t, result) in result.chunks_exact(group * dim).enumerate() {
        // SAFETY: each job has its own rows of the output; a task writes only its own tokens' rows, for its own head;
        // and this loop visits each token once.
        unsafe { out.part(job.out_at + at(t), group * dim) }.copy_from_slice(result);
    }
}
