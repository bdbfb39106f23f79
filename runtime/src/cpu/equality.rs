//! Compares every table of kernels of this machine with the scalar one, bit for bit.
//!
//! Sizes are chosen around the edges of lanes, blocks, panels and tiles. Outputs begin as NaN, so that missing writes
//! show.

use super::isa::{
    AttendJob, BlockScale, BytesTile, FloatTile, Kernels, MAX_TOKENS, MatrixRun, MatrixTile, PAIR_ROWS, available,
};
use super::scalar;
use half::f16;
use nanoserve_format::codes::{PanelMut, Scales};
use nanoserve_format::{Codes, Encoding, InputForm, PANEL_ROWS, SplitMix64, panel};

/// Uniform in -1..1.
struct Random(SplitMix64);

impl Random {
    fn next(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

fn others() -> Vec<&'static Kernels> {
    let others: Vec<_> = available().into_iter().filter(|k| k.name != "scalar").collect();
    eprintln!("kernels compared with scalar: {others:?}");
    others
}

#[track_caller]
fn same(a: &[f32], b: &[f32], what: &str) {
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}, value {i}: {a} and {b}");
    }
    assert_eq!(a.len(), b.len());
}

/// Two packed panels of random weights.
fn panels(r: &mut Random, encoding: Encoding, cols: usize) -> [Vec<u8>; 2] {
    std::array::from_fn(|i| {
        let rows = r.values((PANEL_ROWS - 5 * i) * cols, 0.1);
        let mut out = vec![0; encoding.panel_bytes(cols).unwrap()];
        panel::pack(encoding, cols, &rows, &mut out).unwrap();
        out
    })
}

const EMPTY: MatrixTile = [[f32::NAN; PAIR_ROWS]; MAX_TOKENS];

/// Owns the input of a matrix kernel, in either form.
struct Inputs {
    tokens: usize,
    words: Vec<i32>,
    scales: Vec<BlockScale>,
    values: Vec<f32>,
}

impl Inputs {
    fn random(r: &mut Random, form: InputForm, cols: usize, tokens: usize) -> Inputs {
        let (mut words, mut scales, mut values) = (vec![], vec![], vec![]);
        match form {
            InputForm::Float => values = r.values(tokens * cols, 1.0),
            InputForm::Bytes32 => {
                let columns = scalar::bytes_columns(cols);
                let mut word = |_| i32::from_le_bytes(std::array::from_fn(|_| (r.next() * 127.4) as i8 as u8));
                words = (0..tokens * columns / 4).map(&mut word).collect();
                let correction = |i: usize, groups: usize| {
                    let (block, t) = (i / tokens, i % tokens);
                    let bytes = (0..groups).flat_map(|g| words[(block * 8 + g) * tokens + t].to_le_bytes());
                    -128 * bytes.map(|b| i32::from(b as i8)).sum::<i32>()
                };
                scales = (0..tokens * columns / 32)
                    .map(|i| {
                        let (scale, correction, first) = (r.next() * 0.01, correction(i, 8), correction(i, 4));
                        BlockScale { scale, correction, first, sum: (correction / -128) as f32 * scale }
                    })
                    .collect();
            }
        }
        Inputs { tokens, words, scales, values }
    }

    fn bytes(&self) -> BytesTile<'_> {
        BytesTile { words: &self.words, scales: &self.scales, tokens: self.tokens }
    }

    fn run(&self, kernels: &Kernels, encoding: Encoding, panels: [&[u8]; 2]) -> MatrixTile {
        let (mut out, tokens) = (EMPTY, self.tokens);
        match kernels.matrix(encoding).run {
            MatrixRun::Float(run) => run(panels, FloatTile { values: &self.values, tokens }, &mut out),
            MatrixRun::Bytes32(run) => run(panels, self.bytes(), &mut out),
            MatrixRun::Codes(codes, run) => run(codes, panels, self.bytes(), &mut out),
        }
        out
    }
}

/// A kernel takes the input form of its encoding, for any number of tokens.
#[test]
fn kernels_take_what_their_encoding_says() {
    for kernels in available() {
        for encoding in Encoding::ALL {
            let kernel = kernels.matrix(encoding);
            assert_eq!(kernel.run.input(), encoding.input(), "{} {encoding}", kernels.name);
            assert!(kernel.tokens.last() == Some(&1) && kernel.tokens.iter().all(|n| *n <= MAX_TOKENS));
        }
    }
}

#[test]
fn matrices() {
    let mut r = Random(SplitMix64::new(1));
    for kernels in others() {
        for encoding in Encoding::ALL {
            for cols in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 200, 255, 256, 257, 512, 576, 700, 2048] {
                let bytes = encoding.panel_bytes(cols).unwrap();
                // Kernels may read whole values, so the copies must be aligned like the map.
                let aligned = panels(&mut r, encoding, cols).map(|w| bytemuck::pod_collect_to_vec::<u8, [u64; 1]>(&w));
                let weights = aligned.each_ref().map(|w| &bytemuck::cast_slice::<_, u8>(w)[..bytes]);
                for &tokens in kernels.matrix(encoding).tokens {
                    let x = Inputs::random(&mut r, encoding.input(), cols, tokens);
                    let (a, b) = (x.run(kernels, encoding, weights), x.run(&scalar::KERNELS, encoding, weights));
                    let what = format!("{} {encoding} {cols} columns, {tokens} tokens", kernels.name);
                    same(a[..tokens].as_flattened(), b[..tokens].as_flattened(), &what);
                }
            }
        }
    }
}

/// The largest magnitudes: saturation would show.
#[test]
fn matrix_q8_at_its_limits() {
    for kernels in others() {
        for (w, x) in [(127i8, 127i8), (-127, 127), (127, -127), (-127, -127)] {
            let mut weights = vec![w as u8; 1088];
            weights[..64].copy_from_slice(bytemuck::cast_slice(&[f16::ONE; 32]));
            let words = [i32::from_le_bytes([x as u8; 4]); 16];
            let x = i32::from(x);
            let scales =
                [BlockScale { scale: 1.0, correction: -128 * 32 * x, first: -128 * 16 * x, sum: 32.0 * x as f32 }; 2];
            let input = Inputs { tokens: 1, words: words.into(), scales: scales.into(), values: vec![] };
            let out = input.run(kernels, Encoding::Q8, [&weights; 2]);
            let expected = 64 * i32::from(w) * x;
            assert!(out[0].iter().all(|&y| y == expected as f32), "{} {w} x {x}: {:?}", kernels.name, out[0]);
        }
    }
}

/// The largest codes, scales and activations of either sign, in every form: what saturated or wrapped would show.
#[test]
fn matrix_codes_at_their_limits() {
    const COLUMNS: usize = 512;
    for codes in Codes::ALL {
        let (encoding, form) = (Encoding::Codes(codes), codes.form());
        for (code, sub) in [(0, 255), (form.largest_code(), 255), (form.largest_code(), 127), (0, 128)] {
            let mut bytes = vec![0u64; encoding.panel_bytes(COLUMNS).unwrap() / 8];
            let mut panel = PanelMut::new(form, bytemuck::cast_slice_mut(&mut bytes));
            for block in 0..COLUMNS / 32 {
                panel.set_codes(block, &[[code; PANEL_ROWS]; 32]);
                match form.scales {
                    Scales::Flat(_) => panel.set_flat(block, &[f16::ONE; PANEL_ROWS], &[f16::NEG_ONE; PANEL_ROWS]),
                    Scales::Nested(..) => {
                        panel.set_span(block, &[1.0; PANEL_ROWS], &[1.0; PANEL_ROWS]);
                        panel.set_sub(block, [&[sub; PANEL_ROWS]; 2]);
                    }
                }
            }
            let panels = [bytemuck::cast_slice(&bytes); 2];
            for x in [127i32, -127] {
                for &tokens in scalar::KERNELS.matrix(encoding).tokens.iter().chain(&[2, 3, 6]) {
                    let one = BlockScale {
                        scale: 1.0,
                        correction: -128 * 32 * x,
                        first: -128 * 16 * x,
                        sum: 32.0 * x as f32,
                    };
                    let words = vec![i32::from_le_bytes([x as i8 as u8; 4]); COLUMNS / 4 * tokens];
                    let input = Inputs { tokens, words, scales: vec![one; COLUMNS / 32 * tokens], values: vec![] };
                    let expected = input.run(&scalar::KERNELS, encoding, panels);
                    assert!(expected[0].iter().all(|y| y.is_finite()));
                    for kernels in others().into_iter().filter(|k| k.matrix(encoding).tokens.contains(&tokens)) {
                        let what = format!("{} {encoding} code {code}, scale {sub}, {x}", kernels.name);
                        same(
                            input.run(kernels, encoding, panels)[..tokens].as_flattened(),
                            expected[..tokens].as_flattened(),
                            &what,
                        );
                    }
                }
            }
        }
    }
}

const LENGTHS: [usize; 14] = [1, 2, 7, 15, 16, 17, 31, 32, 33, 64, 72, 100, 172, 576];

#[test]
fn quantize() {
    let mut r = Random(SplitMix64::new(3));
    for kernels in others() {
        for n in LENGTHS {
            for scale in [1.0, 1e-3, 1e-29, 1e-31, 1e-45, 0.0, 1e30] {
                let x = r.values(n, scale);
                let columns = scalar::bytes_columns(n);
                let run = |k: &Kernels| {
                    let mut bytes = vec![55; columns];
                    let mut scales =
                        vec![BlockScale { scale: f32::NAN, correction: 7, first: 7, sum: 7.0 }; columns / 32];
                    (k.quantize)(&x, &mut bytes, &mut scales);
                    (bytes, scales)
                };
                let ((a, a_scales), (b, b_scales)) = (run(kernels), run(&scalar::KERNELS));
                assert_eq!((a, a_scales), (b, b_scales), "{} {n} values of {scale:e}", kernels.name);
            }
        }
    }
}

/// Ties of both signs, and a block's largest value.
#[test]
fn quantize_rounds_to_even() {
    let mut x = [0.0; 64];
    x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
    for kernels in available() {
        let mut bytes = [0; 64];
        let mut scales = [BlockScale::default(); 2];
        (kernels.quantize)(&x, &mut bytes, &mut scales);
        assert_eq!(&bytes[..7], &[127, 0, 2, 2, 0, -2, 0], "{}", kernels.name);
        assert_eq!(scales[0], BlockScale { scale: 1.0, correction: -128 * 129, first: -128 * 129, sum: 129.0 });
        assert_eq!(scales[1], BlockScale::default());
    }
}

#[test]
fn rows() {
    let mut r = Random(SplitMix64::new(4));
    for kernels in others() {
        for n in LENGTHS {
            let (x, y) = (r.values(n, 3.0), r.values(n, 1.0));
            let (mut a, mut b) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            (kernels.rms_norm)(&x, &y, 1e-5, &mut a);
            (scalar::KERNELS.rms_norm)(&x, &y, 1e-5, &mut b);
            same(&a, &b, &format!("{} rms_norm of {n}", kernels.name));

            // Everything that changes a row in place, at magnitudes up to where the functions saturate.
            type Change = (&'static str, fn(&Kernels, &mut [f32], &[f32]));
            let changes: [Change; 5] = [
                ("add", |k, x, y| (k.add)(x, y)),
                ("silu_mul", |k, x, y| (k.silu_mul)(x, y)),
                ("gelu_mul", |k, x, y| (k.gelu_mul)(x, y)),
                ("scale", |k, x, y| (k.scale)(x, y[0])),
                ("softcap", |k, x, y| (k.softcap)(x, 1.0 + y[0].abs())),
            ];
            for (name, change) in changes {
                for scale in [1e-4, 1.0, 30.0, 100.0] {
                    let (mut a, mut b) = (x.iter().map(|x| x * scale).collect::<Vec<_>>(), vec![]);
                    b.clone_from(&a);
                    change(kernels, &mut a, &y);
                    change(&scalar::KERNELS, &mut b, &y);
                    same(&a, &b, &format!("{} {name} of {n}", kernels.name));
                }
            }

            let mut a = r.values(2 * n, 1.0);
            let mut b = a.clone();
            (kernels.rope)(&mut a, &x, &y);
            (scalar::KERNELS.rope)(&mut b, &x, &y);
            same(&a, &b, &format!("{} rope of {n} pairs", kernels.name));
        }
    }
}

#[test]
fn attention() {
    let mut r = Random(SplitMix64::new(5));
    for kernels in others() {
        for dim in [2usize, 12, 16, 24, 64, 80, 128] {
            for limits in [
                vec![1usize],
                vec![1, 1, 2, 2],
                vec![63, 64, 65],
                (1..=20).collect(),
                vec![200; 13],
                vec![150, 191, 192, 193],
            ] {
                let capacity = limits[limits.len() - 1].next_multiple_of(16);
                let stride = dim.next_multiple_of(16);
                let q = r.values(limits.len() * dim, 1.5);
                let (keys, values) = (r.values(capacity * dim, 1.0), r.values(capacity * stride, 1.0));
                let half = |x: &[f32]| x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
                let (keys_f16, values_f16) = (half(&keys), half(&values));
                for (wide, window, softcap) in [
                    (true, usize::MAX, None),
                    (false, usize::MAX, None),
                    (true, 1, None),
                    (false, 5, Some(2.0)),
                    (true, 33, None),
                    (true, usize::MAX, Some(0.5)),
                    (true, 64, Some(3.0)),
                    (false, 130, None),
                ] {
                    let run = |k: &Kernels| {
                        let mut out = vec![f32::NAN; limits.len() * dim];
                        let (ring, limits, q) = (capacity, &limits, &q);
                        let (keys, values): (&[u8], &[u8]) = if wide {
                            (bytemuck::cast_slice(&keys), bytemuck::cast_slice(&values))
                        } else {
                            (bytemuck::cast_slice(&keys_f16), bytemuck::cast_slice(&values_f16))
                        };
                        let out_rows = &mut out;
                        let job =
                            AttendJob { q, limits, window, softcap, keys, values, ring, head_dim: dim, out: out_rows };
                        if wide {
                            (k.attend_f32)(job)
                        } else {
                            (k.attend_f16)(job)
                        }
                        out
                    };
                    let what = format!("{} attention, head of {dim}, window {window}, {limits:?}", kernels.name);
                    same(&run(kernels), &run(&scalar::KERNELS), &what);
                }
            }
        }
    }
}
