//! One token through matrices, with the operations fused to them.

use super::*;
use nanoserve_runtime::cuda::device::Parts;

/// Encodings with the number of columns that a warp takes in one step.
const ENCODINGS: [(Encoding, usize); 3] = [(Encoding::F32, 32), (Encoding::F16, 64), (Encoding::Q8, 128)];

/// Shared memory of a launch, after the table in the comment above the kernels.
fn shared(encoding: Encoding, step: usize, cols: usize, norm: bool) -> usize {
    let padded = cols.next_multiple_of(step);
    let bytes = if encoding == Encoding::Q8 { padded + padded / 8 } else { 0 };
    3120 + 4 * padded * if norm { 2 } else { 1 } + bytes
}

/// The row that a matrix is multiplied by: for q8, each block of 32 is rounded to bytes as docs/arithmetic.md says.
fn rounded_input(encoding: Encoding, x: Vec<f64>) -> Vec<f64> {
    if encoding != Encoding::Q8 {
        return x;
    }
    let rounded = |block: &[f64]| -> Vec<f64> {
        let largest = block.iter().fold(0f64, |m, x| m.max(x.abs()));
        block.iter().map(|x| (x * (127.0 / largest)).round_ties_even() * (largest / 127.0)).collect()
    };
    x.chunks(32).flat_map(rounded).collect()
}

/// How far f32 sums of such products may be off.
fn tolerance(x: &[f64]) -> f64 {
    1e-5 * 0.05 * (x.iter().map(|x| x * x).sum::<f64>()).sqrt() + 1e-6
}

#[test]
fn parts_with_norm_bias_and_residual() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(11);
    for (encoding, step) in ENCODINGS {
        let kernel = match encoding {
            Encoding::F32 => "matvec_f32",
            Encoding::F16 => "matvec_f16",
            Encoding::Q8 => "matvec_q8",
            Encoding::Codes(_) => unreachable!("GPUs have no kernels for codes"),
        };
        let shapes: [(&[usize], usize); 6] =
            [(&[16], 64), (&[33, 16, 17], 576), (&[100, 7], 70), (&[5], 1), (&[20], 3000), (&[48], 1664)];
        for (i, (rows, cols)) in shapes.into_iter().enumerate() {
            let (x, weight) = (bell(&mut random, cols, 2.0), bell(&mut random, cols, 1.0));
            for normed_input in [false, true] {
                let input = rounded_input(encoding, if normed_input { normed(&x, &weight, 1e-5) } else { widened(&x) });
                let (x_at, weight_at) = (gpu.put(&x), gpu.put(&weight));
                let made: Vec<_> =
                    rows.iter().map(|&n| (matrix(&mut random, encoding, n, cols), bell(&mut random, n, 1.0))).collect();
                let memory: Vec<_> =
                    made.iter().map(|((panels, _), bias)| (gpu.put(panels), gpu.put(bias), gpu.put(bias))).collect();
                // With one matrix there may be a residual, in place: `out` first holds the bias.
                let residual = rows.len() == 1 && i % 2 == 0;
                let mut parts = Parts { n: rows.len() as i32, ..Parts::default() };
                for (p, (w, bias, out)) in memory.iter().enumerate() {
                    parts.w[p] = w.span.address;
                    parts.bias[p] = if p == 1 { 0 } else { bias.span.address };
                    parts.out[p] = out.span.address;
                    parts.rows[p] = rows[p] as i32;
                }
                let args = [
                    Arg::Parts(parts),
                    at(&x_at),
                    if normed_input { at(&weight_at) } else { NULL },
                    float(1e-5),
                    int(cols),
                    if residual { at(&memory[0].2) } else { NULL },
                    float(0.5),
                ];
                // As many blocks as panels, or fewer, which then take several panels each.
                let panels: usize = rows.iter().map(|n| n.div_ceil(16)).sum();
                let panels = if i % 2 == 0 { panels } else { panels.div_ceil(3) };
                let outs: Vec<&Memory> = memory.iter().map(|m| &m.2).collect();
                gpu.run(kernel, [panels, 1], 384, shared(encoding, step, cols, normed_input), &args, &outs);
                for (p, ((_, values), bias)) in made.iter().enumerate() {
                    let mut want = product(values, &input, (p != 1).then_some(&bias[..]));
                    if residual {
                        want.iter_mut().zip(bias).for_each(|(y, before)| *y = f64::from(*before) + 0.5 * *y);
                    }
                    let what = format!("{kernel} {rows:?} x {cols}, norm {normed_input}");
                    close(&what, &gpu.get(outs[p]), &want, tolerance(&input), 1e-5);
                }
            }
        }
    }
}

#[test]
fn gates() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(12);
    for (encoding, step) in ENCODINGS {
        for (rows, cols, biased) in [(33, 576, false), (16, 130, true), (7, 1700, true)] {
            let (x, weight) = (bell(&mut random, cols, 2.0), bell(&mut random, cols, 1.0));
            let input = rounded_input(encoding, normed(&x, &weight, 1e-6));
            let [gate, up] = [(); 2].map(|()| matrix(&mut random, encoding, rows, cols));
            let [gate_bias, up_bias] = [(); 2].map(|()| bell(&mut random, rows, 1.0));
            let bias = |bias: &Vec<f32>| if biased { bias.clone() } else { vec![0.0; rows] };
            let g = product(&gate.1, &input, Some(&bias(&gate_bias)));
            let u = product(&up.1, &input, Some(&bias(&up_bias)));
            let (gate_at, up_at, x_at, weight_at) = (gpu.put(&gate.0), gpu.put(&up.0), gpu.put(&x), gpu.put(&weight));
            let (gate_bias, up_bias) = (gpu.put(&gate_bias), gpu.put(&up_bias));
            let or_null = |memory| if biased { at(memory) } else { NULL };
            for (activation, activate) in [("silu", silu as fn(f64) -> f64), ("gelu", gelu)] {
                let kernel = match (activation, encoding) {
                    ("silu", Encoding::F32) => "matvec_gated_silu_f32",
                    ("silu", Encoding::F16) => "matvec_gated_silu_f16",
                    ("silu", Encoding::Q8) => "matvec_gated_silu_q8",
                    (_, Encoding::F32) => "matvec_gated_gelu_f32",
                    (_, Encoding::F16) => "matvec_gated_gelu_f16",
                    (_, Encoding::Q8) => "matvec_gated_gelu_q8",
                    (_, Encoding::Codes(_)) => unreachable!("GPUs have no kernels for codes"),
                };
                let out = gpu.room(rows);
                let args = [
                    at(&gate_at),
                    at(&up_at),
                    or_null(&gate_bias),
                    or_null(&up_bias),
                    at(&x_at),
                    at(&weight_at),
                    float(1e-6),
                    int(rows),
                    int(cols),
                    at(&out),
                ];
                gpu.run(kernel, [rows.div_ceil(32), 1], 384, shared(encoding, step, cols, true), &args, &[&out]);
                let want: Vec<f64> = g.iter().zip(&u).map(|(g, u)| activate(*g) * u).collect();
                // Both factors may be off; neither is much larger than 3.
                close(&format!("{kernel} {rows} x {cols}"), &gpu.get(&out), &want, 6.0 * tolerance(&input), 1e-5);
            }
        }
    }
}
