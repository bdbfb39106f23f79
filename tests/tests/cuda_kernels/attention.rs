//! Attention in its three forms: plain, with tensor cores, and fused for one token.

use super::*;
use half::f16;

/// The KV cache of one layer after some steps, and the queries to it.
struct Case {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// Position of the first query row.
    first: usize,
    rows: usize,
    /// Number of positions that the cache holds.
    positions: usize,
    window: usize,
    cap: f32,
}

impl Case {
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Keys or values of every position up to the last row's: `[positions][kv_heads * dim]`.
    fn random(&self, random: &mut SplitMix64, deviation: f32) -> Vec<f32> {
        bell(random, (self.first + self.rows) * self.kv_heads * self.dim, deviation)
    }

    /// The cache that holds them; a ring holds the last ones. Places never written are NaN.
    fn cache(&self, values: &[f32]) -> Vec<f32> {
        let mut cache = vec![f32::NAN; self.kv_heads * self.positions * self.dim];
        for (p, row) in values.chunks(self.kv_heads * self.dim).enumerate() {
            for (head, from) in row.chunks(self.dim).enumerate() {
                let at = (head * self.positions + p % self.positions) * self.dim;
                cache[at..at + self.dim].copy_from_slice(from);
            }
        }
        cache
    }

    /// Attention by definition, for the row at `position`.
    fn plain(&self, q: &[f64], k: &[f32], v: &[f32], position: usize) -> Vec<f64> {
        let width = self.kv_heads * self.dim;
        let begin = if self.window > 0 { (position + 1).saturating_sub(self.window) } else { 0 };
        let mut out = Vec::new();
        for (head, q) in q.chunks(self.dim).enumerate() {
            let at = head / (self.heads / self.kv_heads) * self.dim;
            let head_at = |from: &[f32], p: usize| widened(&from[p * width + at..][..self.dim]);
            let scores: Vec<f64> = (begin..=position)
                .map(|p| {
                    let score: f64 =
                        q.iter().zip(head_at(k, p)).map(|(q, k)| q * k).sum::<f64>() * f64::from(self.scale());
                    let cap = f64::from(self.cap);
                    if cap > 0.0 { cap * (score / cap).tanh() } else { score }
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            out.extend((0..self.dim).map(|d| {
                let sum: f64 =
                    scores.iter().enumerate().map(|(i, s)| (s - largest).exp() * head_at(v, begin + i)[d]).sum();
                sum / total
            }));
        }
        out
    }
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| f16::from_f32(*x).to_f32()).collect()
}

fn halves(x: &[f32]) -> Vec<f16> {
    x.iter().map(|x| f16::from_f32(*x)).collect()
}

const fn case(
    heads: [usize; 2],
    dim: usize,
    first: usize,
    rows: usize,
    positions: usize,
    window: usize,
    cap: f32,
) -> Case {
    Case { heads: heads[0], kv_heads: heads[1], dim, first, rows, positions, window, cap }
}

const ROWS: [Case; 10] = [
    case([2, 1], 64, 0, 70, 80, 0, 0.0),
    case([2, 2], 64, 130, 1, 144, 0, 0.0),
    case([3, 1], 80, 33, 67, 112, 0, 0.0),
    case([2, 1], 96, 0, 5, 16, 0, 5.0),
    case([1, 1], 128, 100, 64, 176, 0, 0.0),
    case([2, 1], 256, 17, 65, 96, 0, 3.0),
    // Rings: window 40 keeps 40 - 1 + 70 or more, here 128, and wraps.
    case([2, 1], 64, 300, 70, 128, 40, 0.0),
    case([1, 1], 128, 190, 33, 128, 1, 0.0),
    case([9, 3], 64, 64, 3, 80, 65, 0.0),
    case([2, 1], 256, 250, 70, 192, 100, 0.0),
];

#[test]
fn many_rows() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(21);
    for c in &ROWS {
        let (k, v) = (c.random(&mut random, 2.0), c.random(&mut random, 1.0));
        let q = bell(&mut random, c.rows * c.heads * c.dim, 2.0);
        // The rows are the last ones of a step that begins before them.
        let (q_at, step) = (gpu.put(&q), gpu.put(&[c.first as u32 - c.first.min(3) as u32, 99]));
        let out = gpu.room(q.len());
        let rest = [
            at(&step),
            int(c.first.min(3)),
            int(c.rows),
            int(c.heads),
            int(c.kv_heads),
            int(c.dim),
            int(c.positions),
            int(c.window),
            float(c.scale()),
            float(c.cap),
        ];
        let what = format!("{:?} {} at {} {} of {}", [c.heads, c.kv_heads], c.dim, c.first, c.rows, c.positions);
        let want = |k: &[f32], v: &[f32]| -> Vec<f64> {
            let rows = q.chunks(c.heads * c.dim).enumerate();
            rows.flat_map(|(r, q)| c.plain(&widened(q), k, v, c.first + r)).collect()
        };

        let (wide_k, wide_v) = (gpu.put(&c.cache(&k)), gpu.put(&c.cache(&v)));
        let args = [&[at(&q_at), at(&wide_k), at(&wide_v), at(&out)], &rest[..]].concat();
        gpu.run("attention_f32", [c.rows, c.heads], 128, 4 * c.dim + 544, &args, &[&out]);
        close(&what, &gpu.get(&out), &want(&k, &v), 2e-5, 1e-5);

        let (half_k, half_v) = (gpu.put(&halves(&c.cache(&k))), gpu.put(&halves(&c.cache(&v))));
        let args = [&[at(&q_at), at(&half_k), at(&half_v), at(&out)], &rest[..]].concat();
        let want = want(&rounded(&k), &rounded(&v));
        gpu.run("attention_f16", [c.rows, c.heads], 128, 4 * c.dim + 544, &args, &[&out]);
        close(&what, &gpu.get(&out), &want, 2e-5, 1e-5);

        let (flash, tile) = match c.dim {
            64 => ("flash_f16_64", 64),
            80 => ("flash_f16_80", 64),
            96 => ("flash_f16_96", 64),
            128 => ("flash_f16_128", 32),
            _ => ("flash_f16_256", 32),
        };
        gpu.set(&out, &vec![0xff; 4 * q.len()]);
        let shared = 4 * (c.dim + 8) * (64 + 2 * tile);
        gpu.run(flash, [c.rows.div_ceil(64), c.heads], 128, shared, &args, &[&out]);
        close(&format!("flash {what}"), &gpu.get(&out), &want, 4e-5, 1e-5);
    }
}

/// One token: its norms, RoPE and store, and the merge over lanes, warps and blocks.
#[test]
fn one_token() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(22);
    let cases = [
        // Like Llama: several blocks have a part.
        (case([4, 1], 64, 600, 1, 608, 0, 0.0), 8, 64, false),
        (case([8, 2], 64, 0, 1, 16, 0, 0.0), 4, 64, false),
        // More splits than parts, norms, and heads that do not fill whole rounds.
        (case([9, 1], 128, 63, 1, 64, 0, 0.0), 4, 128, true),
        (case([14, 2], 64, 64, 1, 80, 0, 0.0), 3, 64, false),
        (case([3, 3], 80, 200, 1, 208, 0, 0.0), 2, 20, true),
        (case([2, 1], 96, 130, 1, 144, 0, 20.0), 1, 96, false),
        // A ring that wrapped, and one whose window has just begun to move.
        (case([8, 4], 256, 1000, 1, 384, 100, 50.0), 16, 256, true),
        (case([2, 2], 8, 37, 1, 304, 33, 0.0), 2, 0, false),
    ];
    for (c, splits, rotary, norms) in cases {
        let (width, last) = (c.kv_heads * c.dim, c.first);
        let (k, v) = (c.random(&mut random, 2.0), c.random(&mut random, 1.0));
        let q = bell(&mut random, c.heads * c.dim, 2.0);
        let (own_k, own_v) = (&k[last * width..], &v[last * width..]);
        let angles = bell(&mut random, c.first.div_ceil(1) * rotary / 2 + rotary / 2, 2.0);
        let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let (q_norm, k_norm) = (bell(&mut random, c.dim, 1.0), bell(&mut random, c.dim, 1.0));
        let eps = 1e-5f32;
        // A row's heads after norms and RoPE, as the kernel should compute them.
        let made = |row: &[f32], norm: &[f32]| -> Vec<f64> {
            let mut row = widened(row);
            for head in row.chunks_mut(c.dim) {
                if norms {
                    let narrow: Vec<f32> = head.iter().map(|x| *x as f32).collect();
                    head.copy_from_slice(&normed(&narrow, norm, eps));
                }
                for j in 0..rotary / 2 {
                    let at = last * rotary / 2 + j;
                    let (cos, sin) = (f64::from(cosines[at]), f64::from(sines[at]));
                    let (a, b) = (head[j], head[j + rotary / 2]);
                    (head[j], head[j + rotary / 2]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
            row
        };
        let (q_made, k_made) = (made(&q, &q_norm), made(own_k, &k_norm));
        let k_made: Vec<f32> = k_made.iter().map(|x| *x as f32).collect();
        let mut with_own = k.clone();
        with_own[last * width..].copy_from_slice(&k_made);

        let memory = [&q[..], own_k, own_v, &cosines, &sines, &q_norm, &k_norm].map(|values| gpu.put(values));
        let or_null = |there: bool, i: usize| if there { at(&memory[i]) } else { NULL };
        let group = c.heads / c.kv_heads;
        let partial = gpu.room(c.kv_heads * splits * group * (c.dim + 2));
        let (counter, step) = (gpu.put(&vec![0u32; c.kv_heads]), gpu.put(&[last as u32, 1]));
        let shared = 4 * (group * c.dim + 32 * (c.dim + 2) + 4);
        // Its own key and value are not in the cache yet.
        let before = |values: &[f32]| {
            let mut all = values.to_vec();
            all[last * width..].fill(f32::NAN);
            let mut cache = c.cache(&all);
            // In a ring that place holds an older position; NaN can stand for it.
            cache.iter_mut().for_each(|x| *x = if x.is_nan() { f32::NAN } else { *x });
            cache
        };
        for half in [false, true] {
            let (cache_k, cache_v) = match half {
                true => (gpu.put(&halves(&before(&k))), gpu.put(&halves(&before(&v)))),
                false => (gpu.put(&before(&k)), gpu.put(&before(&v))),
            };
            let out = gpu.room(q.len());
            let args = [
                at(&memory[0]),
                at(&memory[1]),
                at(&memory[2]),
                or_null(rotary > 0, 3),
                or_null(rotary > 0, 4),
                or_null(norms, 5),
                or_null(norms, 6),
                at(&cache_k),
                at(&cache_v),
                at(&out),
                at(&partial),
                at(&counter),
                at(&step),
                int(c.heads),
                int(c.kv_heads),
                int(c.dim),
                int(rotary),
                int(c.positions),
                int(c.window),
                int(splits),
                float(eps),
                float(c.scale()),
                float(c.cap),
            ];
            let kernel = if half { "decode_f16" } else { "decode_f32" };
            gpu.run(kernel, [c.kv_heads, splits], 256, shared, &args, &[&out, &cache_k, &cache_v, &partial, &counter]);
            let what = format!("{kernel} {:?} {} at {last}", [c.heads, c.kv_heads], c.dim);
            assert!(gpu.get::<u32>(&counter).iter().all(|n| *n == 0), "{what}: the counter");
            let (k, v) = if half { (rounded(&with_own), rounded(&v)) } else { (with_own.clone(), v.clone()) };
            close(&what, &gpu.get(&out), &c.plain(&q_made, &k, &v, last), if half { 4e-3 } else { 5e-5 }, 1e-4);
            // The cache now has the token's own key and value, and everything from before.
            let stored: Vec<f32> = match half {
                true => gpu.get::<f16>(&cache_k).into_iter().map(f16::to_f32).collect(),
                false => gpu.get(&cache_k),
            };
            let slack = if half { 1e-2 } else { 1e-4 };
            for (got, want) in stored.iter().zip(c.cache(&k)) {
                assert!(
                    (got - want).abs() <= slack || (got.is_nan() && want.is_nan()),
                    "{what}: key {got}, expected {want}"
                );
            }
        }
    }
}
