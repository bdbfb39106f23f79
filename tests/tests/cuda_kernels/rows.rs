//! Embedding, norms, gates, sums, RoPE, the KV cache: every kernel that is not a matrix product.

use super::*;
use half::f16;

#[test]
fn embedding() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(1);
    for (encoding, kernel) in [(Encoding::F32, "embed_f32"), (Encoding::F16, "embed_f16"), (Encoding::Q8, "embed_q8")] {
        for (vocab, hidden) in [(37, 70), (64, 300), (17, 64)] {
            let (panels, values) = matrix(&mut random, encoding, vocab, hidden);
            let ids: Vec<u32> = (0..19).map(|_| random.below(vocab) as u32).collect();
            let (table, ids_at, out) = (gpu.put(&panels), gpu.put(&ids), gpu.room(ids.len() * hidden));
            let args = [at(&table), at(&ids_at), at(&out), int(ids.len()), int(hidden), float(3.0)];
            gpu.run(kernel, [ids.len(), 1], 256, 0, &args, &[&out]);
            let want: Vec<f32> =
                ids.iter().flat_map(|&id| &values[id as usize * hidden..][..hidden]).map(|x| x * 3.0).collect();
            assert_eq!(gpu.get::<f32>(&out), want, "{kernel} {vocab} {hidden}");
        }
    }
}

/// Blocks of the norms' kernels.
fn norm_blocks(rows: usize, width: usize) -> usize {
    if width <= 512 { rows.div_ceil(8) } else { rows }
}

#[test]
fn norms() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(2);
    for (rows, width) in [(1, 64), (13, 80), (8, 512), (3, 513), (5, 2050), (1, 8)] {
        let (x, y) = (bell(&mut random, rows * width, 3.0), bell(&mut random, rows * width, 0.5));
        let weight = bell(&mut random, width, 1.0);
        let (x_at, y_at, weight_at) = (gpu.put(&x), gpu.put(&y), gpu.put(&weight));
        let grid = [norm_blocks(rows, width), 1];
        let want: Vec<f64> = y.chunks(width).flat_map(|row| normed(row, &weight, 1e-5)).collect();

        let args = [at(&x_at), at(&y_at), at(&weight_at), int(rows), int(width), float(1e-5), float(0.25)];
        gpu.run("norm_add", grid, 256, 32, &args, &[&x_at]);
        let sums: Vec<f64> = x.iter().zip(&want).map(|(x, y)| f64::from(*x) + 0.25 * y).collect();
        close("norm_add", &gpu.get(&x_at), &sums, 1e-5, 1e-5);

        let out = gpu.room(rows * width);
        for out in [&out, &y_at] {
            let args = [at(&y_at), at(&weight_at), at(out), int(rows), int(width), float(1e-5)];
            gpu.run("rms_norm", grid, 256, 32, &args, &[out]);
            close("rms_norm", &gpu.get(out), &want, 1e-6, 1e-5);
        }
    }
}

#[test]
fn elementwise() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(3);
    // The last case has fewer blocks than the values need, so threads stride.
    for (n, blocks) in [(1, 1), (255, 1), (257, 2), (3000, 12), (3000, 2)] {
        let (x, y) = (bell(&mut random, n, 4.0), bell(&mut random, n, 1.0));
        let both = || x.iter().zip(&y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let (x_at, y_at, out) = (gpu.put(&x), gpu.put(&y), gpu.room(n));
        let run = |kernel, args: &[Arg], out: &Memory| {
            gpu.run(kernel, [blocks, 1], 256, 0, args, &[out]);
            gpu.get::<f32>(out)
        };
        let got = run("gate_silu", &[at(&x_at), at(&y_at), at(&out), long(n)], &out);
        close("gate_silu", &got, &both().map(|(x, y)| silu(x) * y).collect::<Vec<_>>(), 1e-6, 1e-5);
        let got = run("gate_gelu_tanh", &[at(&x_at), at(&y_at), at(&out), long(n)], &out);
        close("gate_gelu_tanh", &got, &both().map(|(x, y)| gelu(x) * y).collect::<Vec<_>>(), 1e-6, 1e-5);
        let got = run("add", &[at(&x_at), at(&y_at), long(n), float(0.5)], &x_at);
        close("add", &got, &both().map(|(x, y)| x + 0.5 * y).collect::<Vec<_>>(), 1e-6, 1e-6);
        let scaled = gpu.put(&x);
        let got = run("scale", &[at(&scaled), long(n), float(-2.0)], &scaled);
        assert_eq!(got, x.iter().map(|x| x * -2.0).collect::<Vec<_>>());
        let got = run("softcap", &[at(&y_at), long(n), float(0.7)], &y_at);
        close("softcap", &got, &both().map(|(_, y)| 0.7 * (y / 0.7f32 as f64).tanh()).collect::<Vec<_>>(), 1e-6, 1e-5);
    }
}

#[test]
fn rotation() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(4);
    for (rows, heads, dim, rotary, first, offset) in
        [(5, 3, 64, 64, 7u32, 0i32), (1, 9, 80, 20, 11, 2), (4, 2, 6, 6, 9, -4)]
    {
        let (x, angles) = (bell(&mut random, rows * heads * dim, 1.0), bell(&mut random, 40 * rotary / 2, 2.0));
        let cosines: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sines: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let (x_at, cos, sin, step) = (gpu.put(&x), gpu.put(&cosines), gpu.put(&sines), gpu.put(&[first, rows as u32]));
        let args =
            [at(&x_at), at(&cos), at(&sin), at(&step), Arg::Int(offset), int(rows), int(heads), int(dim), int(rotary)];
        gpu.run("rope", [(rows * heads * rotary / 2).div_ceil(256), 1], 256, 0, &args, &[&x_at]);
        let mut want = widened(&x);
        for (i, head) in want.chunks_mut(dim).enumerate() {
            let row = (first as i32 + offset) as usize + i / heads;
            for j in 0..rotary / 2 {
                let (c, s) = (f64::from(cosines[row * rotary / 2 + j]), f64::from(sines[row * rotary / 2 + j]));
                let (a, b) = (head[j], head[j + rotary / 2]);
                (head[j], head[j + rotary / 2]) = (a * c - b * s, b * c + a * s);
            }
        }
        close("rope", &gpu.get(&x_at), &want, 1e-6, 1e-6);
    }
}

#[test]
fn storing() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(5);
    // A ring that wraps, and one that does not.
    for (rows, heads, dim, positions, first) in [(5, 2, 20, 16, 13u32), (3, 1, 64, 64, 2)] {
        let (k, v) = (bell(&mut random, rows * heads * dim, 1.0), bell(&mut random, rows * heads * dim, 1.0));
        let (k_at, v_at, step) = (gpu.put(&k), gpu.put(&v), gpu.put(&[first, 0u32]));
        let n = heads * positions * dim;
        let rest = [int(rows), int(heads), int(dim), int(positions)];
        let find = |of: &[f32], i: usize| {
            let (head, position, d) = (i / (positions * dim), i / dim % positions, i % dim);
            let row = (0..rows).find(|row| (first as usize + 1 + row) % positions == position);
            row.map(|row| of[(row * heads + head) * dim + d])
        };
        let (wide_k, wide_v) = (gpu.put(&vec![9.0f32; n]), gpu.put(&vec![9.0f32; n]));
        let args = [&[at(&k_at), at(&v_at), at(&wide_k), at(&wide_v), at(&step), int(1)], &rest[..]].concat();
        gpu.run("kv_store_f32", [1, 1], 256, 0, &args, &[&wide_k, &wide_v]);
        let (half_k, half_v) = (gpu.put(&vec![f16::ONE; n]), gpu.put(&vec![f16::ONE; n]));
        let args = [&[at(&k_at), at(&v_at), at(&half_k), at(&half_v), at(&step), int(1)], &rest[..]].concat();
        gpu.run("kv_store_f16", [2, 1], 256, 0, &args, &[&half_k, &half_v]);
        for (of, wide, half) in [(&k, &wide_k, &half_k), (&v, &wide_v, &half_v)] {
            for (i, got) in gpu.get::<f32>(wide).into_iter().enumerate() {
                assert_eq!(got, find(of, i).unwrap_or(9.0));
            }
            for (i, got) in gpu.get::<f16>(half).into_iter().enumerate() {
                assert_eq!(got, find(of, i).map_or(f16::ONE, f16::from_f32));
            }
        }
    }
}
