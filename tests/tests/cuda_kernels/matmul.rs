//! Many tokens through a matrix, and the conversion of activations to f16.

use super::*;
use half::f16;

#[test]
fn activations_in_halves() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(31);
    for (rows, width, size) in [(3, 70usize, 1.0f32), (1, 64, 1e6), (5, 1000, 1e-8), (2, 5, 0.0), (2, 130, 1e30)] {
        let padded = width.next_multiple_of(64);
        let x = bell(&mut random, rows * width, size);
        for grouped in [0, 1] {
            let (x_at, hi, lo) =
                (gpu.put(&x), gpu.put(&vec![f16::NAN; rows * padded]), gpu.put(&vec![f16::NAN; rows * padded]));
            let scales = gpu.room(rows);
            let args = [at(&x_at), at(&hi), at(&lo), at(&scales), int(rows), int(width), int(padded), int(grouped)];
            gpu.run("to_f16", [rows, 1], 256, 32, &args, &[&hi, &lo, &scales]);
            let alone = gpu.put(&vec![f16::NAN; rows * padded]);
            let args = [at(&x_at), at(&alone), NULL, at(&scales), int(rows), int(width), int(padded), int(grouped)];
            gpu.run("to_f16", [rows, 1], 256, 32, &args, &[&alone, &scales]);
            let (hi, lo, scales) = (gpu.get::<f16>(&hi), gpu.get::<f16>(&lo), gpu.get::<f32>(&scales));
            assert_eq!(hi, gpu.get::<f16>(&alone));
            for row in 0..rows {
                let scale = scales[row];
                assert_eq!(scale.to_bits() << 9, 0, "{scale} is a power of two");
                let largest = x[row * width..(row + 1) * width].iter().fold(0f32, |m, x| m.max(x.abs()));
                assert!(
                    !(1e-9..=1e28).contains(&size) || (1.0..2.0).contains(&(largest / scale)),
                    "{largest} / {scale}"
                );
                for i in 0..padded {
                    let place = match grouped {
                        0 => i,
                        _ => i / 16 * 16 + i % 16 / 4 * 2 + i % 2 + i % 4 / 2 * 8,
                    };
                    let (hi, lo) = (hi[row * padded + place], lo[row * padded + place]);
                    let want = if i < width { x[row * width + i] / scale } else { 0.0 };
                    assert_eq!(hi, f16::from_f32(want), "row {row}, column {i}");
                    assert_eq!(lo, f16::from_f32(want - hi.to_f32()), "row {row}, column {i}");
                }
            }
        }
    }
}

/// (rows, columns, tokens): around tiles of 16, 64 and 128 and steps of 16, 32 and 64, and shorter than the pipeline.
const SHAPES: [(usize, usize, usize); 8] = [
    (16, 64, 2),
    (130, 200, 33),
    (128, 256, 128),
    (5, 33, 70),
    (300, 96, 5),
    (64, 320, 130),
    (17, 576, 65),
    (144, 1, 3),
];

#[test]
fn products() {
    let gpu = gpu!();
    let mut random = SplitMix64::new(32);
    for (i, (rows, cols, tokens)) in SHAPES.into_iter().enumerate() {
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Q8] {
            let (panels, w) = matrix(&mut random, encoding, rows, cols);
            // One token far larger than the others, another all zero.
            let mut x = bell(&mut random, tokens * cols, 1.0);
            x[..cols].iter_mut().for_each(|x| *x *= 3e5);
            x[cols..2 * cols].fill(0.0);
            let (bias, before) = (bell(&mut random, rows, 1.0), bell(&mut random, tokens * rows, 1.0));
            let (biased, residual) = (i % 2 == 0, i % 3 == 0);
            let (w_at, x_at, bias_at) = (gpu.put(&panels), gpu.put(&x), gpu.put(&bias));
            let nothing = vec![f32::NAN; tokens * rows];
            let out = gpu.put(if residual { &before } else { &nothing });
            let check = |got: &[f32]| {
                for t in 0..tokens {
                    let x = widened(&x[t * cols..(t + 1) * cols]);
                    let mut want = product(&w, &x, biased.then_some(&bias[..]));
                    if residual {
                        want.iter_mut()
                            .zip(&before[t * rows..])
                            .for_each(|(y, before)| *y = f64::from(*before) + 0.5 * *y);
                    }
                    // The tolerance follows from the token's magnitude: q8 rounds activations and weights to f16, 2^-12
                    // each at most on average.
                    let size = 0.05 * x.iter().map(|x| x * x).sum::<f64>().sqrt();
                    let relative = if encoding == Encoding::Q8 { 1.5e-3 } else { 4e-6 };
                    let what = format!("{encoding} {rows} x {cols}, token {t} of {tokens}");
                    close(&what, &got[t * rows..(t + 1) * rows], &want, relative * size + 1e-6, 1e-6);
                }
            };
            let bias_arg = if biased { at(&bias_at) } else { NULL };
            let rest = [if residual { at(&out) } else { NULL }, float(0.5)];
            if encoding == Encoding::F32 {
                let args = [&[at(&w_at), at(&x_at), bias_arg, at(&out), int(rows), int(cols), int(tokens)], &rest[..]]
                    .concat();
                gpu.run("matmul_f32", [rows.div_ceil(64), tokens.div_ceil(64)], 256, 8448, &args, &[&out]);
            } else {
                let (padded, q8) = (cols.next_multiple_of(64), encoding == Encoding::Q8);
                let [hi, lo] = [(); 2].map(|()| gpu.put(&vec![f16::NAN; tokens * padded]));
                let scales = gpu.room(tokens);
                let lo_arg = if q8 { NULL } else { at(&lo) };
                let args = [
                    at(&x_at),
                    at(&hi),
                    lo_arg,
                    at(&scales),
                    int(tokens),
                    int(cols),
                    int(padded),
                    int(usize::from(q8)),
                ];
                gpu.run("to_f16", [tokens, 1], 256, 32, &args, &[&hi, &lo, &scales]);
                let first =
                    [at(&w_at), at(&hi), lo_arg, at(&scales), bias_arg, at(&out), int(rows), int(cols), int(padded)];
                let args = [&first[..], &[int(tokens)], &rest[..]].concat();
                let (kernel, shared) = if q8 { ("matmul_q8", 100_352) } else { ("matmul_f16", 98_304) };
                gpu.run(kernel, [rows.div_ceil(128), tokens.div_ceil(128)], 128, shared, &args, &[&out]);
                check(&gpu.get(&out));
                // The narrow kernel must be right for any number of tokens.
                gpu.set(&out, bytemuck::cast_slice(if residual { &before } else { &nothing }));
                let (kernel, shared) = if q8 { ("matmul_narrow_q8", 37_632) } else { ("matmul_narrow_f16", 73_728) };
                gpu.run(kernel, [rows.div_ceil(32), tokens.div_ceil(32)], 128, shared, &args, &[&out]);
            }
            check(&gpu.get(&out));
        }
    }
}
