//! Measures a conversion, in bytes of a bf16 source a second: packing panels, hashing, and the demo from folder to
//! file.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nanoserve_converter::{Options, convert};
use nanoserve_format::{Encoding, PANEL_ROWS, panel};
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Columns of the matrices: the width of a 1B model.
const COLS: usize = 2048;
/// Bytes of a value in bf16.
const SOURCE_BYTES: usize = 2;

fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Bytes((SOURCE_BYTES * PANEL_ROWS * COLS) as u64));
    let values: Vec<f32> = (0..PANEL_ROWS * COLS).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    for encoding in Encoding::CHOICES {
        let mut out = vec![0; encoding.panel_bytes(COLS).expect("a small matrix")];
        group.bench_function(BenchmarkId::from_parameter(encoding), |b| {
            b.iter(|| panel::pack(encoding, COLS, black_box(&values), &mut out).expect("values near 1"));
        });
    }
}

fn hash(c: &mut Criterion) {
    let bytes = vec![0x5a; 8 << 20];
    let mut group = c.benchmark_group("blake3");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("one thread", |b| b.iter(|| blake3::hash(black_box(&bytes))));
}

fn demo(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the files");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo");
    let bytes = source.join("model.safetensors").metadata().expect("the demo's weights").len();
    let mut group = c.benchmark_group("demo");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    for encoding in Encoding::CHOICES {
        let output = folder.path().join("demo.nsv");
        let options = Options::new(&source, output, encoding);
        group.bench_function(BenchmarkId::from_parameter(encoding), |b| {
            b.iter(|| convert(&options, &(), &AtomicBool::new(false)).expect("the demo converts"));
        });
    }
}

criterion_group!(benches, pack, hash, demo);
criterion_main!(benches);
