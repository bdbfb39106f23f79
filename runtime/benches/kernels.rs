//! Every kernel of every instruction set this machine has: multiply-accumulates or bytes a second, data in cache.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nanoserve_format::{Encoding, PANEL_ROWS, panel};
use nanoserve_runtime::cpu::isa::{
    AttendJob, BlockScale, BytesTile, FloatTile, MAX_TOKENS, MatrixRun, MatrixTile, PAIR_ROWS, available,
};
use nanoserve_runtime::cpu::pool::Pool;
use std::hint::black_box;

/// Columns of the matrices: the width of a 1B model.
const COLS: usize = 2048;

/// Multiply-accumulates, shown as elements a second.
fn macs(n: usize) -> Throughput {
    Throughput::Elements(n as u64)
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
}

/// Two panels, aligned as the map is.
fn panels(encoding: Encoding) -> [Vec<u64>; 2] {
    let mut out = vec![0; encoding.panel_bytes(COLS).expect("a small matrix")];
    panel::pack(encoding, COLS, &values(PANEL_ROWS * COLS), &mut out).expect("values near 1");
    let words = bytemuck::pod_collect_to_vec(&out);
    [words.clone(), words]
}

fn matrices(c: &mut Criterion) {
    let mut group = c.benchmark_group("matrix");
    for encoding in Encoding::ALL {
        let words = panels(encoding);
        let weights = [0, 1].map(|i| bytemuck::cast_slice::<u64, u8>(&words[i]));
        for kernels in available() {
            let kernel = kernels.matrix(encoding);
            for &tokens in [kernel.tokens[0], 1].iter() {
                group.throughput(macs(tokens * PAIR_ROWS * COLS));
                let id = BenchmarkId::new(format!("{encoding}/{}", kernels.name), tokens);
                let mut out: MatrixTile = [[0.0; PAIR_ROWS]; MAX_TOKENS];
                let words = vec![0x0102_fd04; tokens * COLS / 4];
                let scales = vec![BlockScale { scale: 0.01, correction: 0, first: 0, sum: 0.0 }; tokens * COLS / 32];
                let floats = values(tokens * COLS);
                group.bench_function(id, |b| {
                    b.iter(|| match kernel.run {
                        MatrixRun::Bytes32(run) => {
                            run(black_box(weights), BytesTile { words: &words, scales: &scales, tokens }, &mut out);
                        }
                        MatrixRun::Codes(form, run) => {
                            run(
                                form,
                                black_box(weights),
                                BytesTile { words: &words, scales: &scales, tokens },
                                &mut out,
                            );
                        }
                        MatrixRun::Float(run) => {
                            run(black_box(weights), FloatTile { values: &floats, tokens }, &mut out);
                        }
                    });
                });
            }
        }
    }
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    let (x, y) = (values(COLS), values(COLS));
    group.throughput(Throughput::Bytes(4 * COLS as u64));
    for kernels in available() {
        let mut out = vec![0.0; COLS];
        let id = |what: &str| BenchmarkId::new(what, kernels.name);
        group.bench_function(id("rms_norm"), |b| b.iter(|| (kernels.rms_norm)(black_box(&x), &y, 1e-5, &mut out)));
        group.bench_function(id("silu_mul"), |b| {
            b.iter(|| {
                // A fresh gate each time: one that is halved for ever ends in subnormals, which are slow.
                out.copy_from_slice(&x);
                (kernels.silu_mul)(black_box(&mut out), &y);
            });
        });
        group.bench_function(id("add"), |b| b.iter(|| (kernels.add)(black_box(&mut out), &y)));
        group.bench_function(id("rope"), |b| b.iter(|| (kernels.rope)(black_box(&mut out[..64]), &x[..32], &y[..32])));
        let (mut bytes, mut scales) = (vec![0; COLS], vec![BlockScale::default(); COLS / 32]);
        group.bench_function(id("quantize"), |b| {
            b.iter(|| (kernels.quantize)(black_box(&x), &mut bytes, &mut scales));
        });
    }
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let (dim, positions) = (64, 1024);
    let (keys, rest) = (values(positions * dim), values(positions * dim));
    for kernels in available() {
        for rows in [4, 48] {
            let (q, limits, ring) = (values(rows * dim), vec![positions; rows], positions);
            let mut out = vec![0.0; rows * dim];
            group.throughput(macs(2 * rows * dim * positions));
            group.bench_function(BenchmarkId::new(kernels.name, rows), |b| {
                b.iter(|| {
                    let (keys, values) = (bytemuck::cast_slice(&keys), bytemuck::cast_slice(&rest));
                    let (window, softcap) = (usize::MAX, None);
                    let (q, limits, out) = (&q, &limits, &mut out);
                    let job = AttendJob { q, limits, window, softcap, keys, values, ring, head_dim: dim, out };
                    (kernels.attend_f32)(black_box(job));
                });
            });
        }
    }
}

/// What an empty parallel region costs: ours, and rayon's from inside and from outside its pool.
fn regions(c: &mut Criterion) {
    let mut group = c.benchmark_group("region");
    let threads = nanoserve_runtime::cpu::threads::default_threads();
    let ours = Pool::new(threads).expect("threads");
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    group.bench_function(BenchmarkId::new("ours", threads), |b| {
        b.iter(|| {
            ours.each(threads, |i| {
                black_box(i);
            })
        })
    });
    group.bench_function(BenchmarkId::new("rayon from inside", threads), |b| {
        rayon.install(|| {
            b.iter(|| {
                rayon.broadcast(|i| {
                    black_box(i.index());
                })
            })
        });
    });
    group.bench_function(BenchmarkId::new("rayon from outside", threads), |b| {
        b.iter(|| {
            rayon.broadcast(|i| {
                black_box(i.index());
            })
        });
    });
}

criterion_group!(benches, matrices, rows, attention, regions);
criterion_main!(benches);
