//! The roofline: this machine's peak rates, measured in a few tenths of a second, to compare a model's speed with.
//!
//! Decode reads every weight once for each token: the rate at which the threads read the map bounds it. Prefill
//! multiplies every weight once for each token, but reads the weights once for many tokens: the rate of products bounds
//! it.

use crate::backend::KvType;
use crate::cpu::CpuBackend;
use crate::cpu::pool::Pool;
use crate::cuda::device::{Device, DeviceError};
use crate::cuda::{RATE, RATE_MACS, on_tensor_cores, tensor_rate};
use nanoserve_format::{Encoding, InputForm, Layout, ModelSpec, NsvFile, Shape};
use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

/// The most bytes of the map that are read.
const READ_BYTES: usize = 1 << 30;

/// Bytes that a thread reads at a time.
const PIECE: usize = 1 << 20;

/// Rounds of a rate's loop in one piece of work: some tens of microseconds.
const ROUNDS: usize = 10_000;

/// Pieces of work for each thread.
const PIECES: usize = 200;

/// Each limit is the best of this many tries.
const TRIES: usize = 3;

/// The peak rates of a pool of threads with one instruction set, or of a GPU.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// GB of the map that the threads read in a second. On a GPU, GB read and written by a copy.
    pub read_gb_s: f64,
    /// Billions of int8 multiply-accumulates in a second; None for the scalar kernels and for a GPU.
    pub dot_gmac_s: Option<f64>,
    /// Billions of f32 fused multiply-adds in a second; None for the scalar kernels and for a GPU.
    pub fma_gmac_s: Option<f64>,
    /// Billions of multiply-accumulates of f16 into f32 in a second on a GPU's tensor cores; None for a CPU.
    pub tensor_gmac_s: Option<f64>,
}

impl Limits {
    /// Measures a CPU, reading the map of `file`.
    pub fn measure(file: &NsvFile, backend: &CpuBackend) -> Limits {
        let (pool, rates) = (backend.pool(), backend.kernels().rates.as_ref());
        Limits {
            read_gb_s: best(|| read(rates.map_or(sum, |r| r.read), file, pool)),
            dot_gmac_s: rates.map(|r| best(|| multiply(r.dot, pool))),
            fma_gmac_s: rates.map(|r| best(|| multiply(r.fma, pool))),
            tensor_gmac_s: None,
        }
    }

    /// Measures a GPU: a copy within its memory, counting bytes read and written, and its tensor cores.
    ///
    /// # Errors
    /// When it has too little free memory, or fails.
    pub fn of_device<D: Device>(device: &D) -> Result<Limits, DeviceError> {
        let (read_gb_s, tensor_gmac_s) = (copy_gb_s(device)?, Some(tensor_gmac_s(device)?));
        Ok(Limits { read_gb_s, dot_gmac_s: None, fma_gmac_s: None, tensor_gmac_s })
    }

    /// The rate that bounds the matrix products of an encoding; None if it was not measured. A GPU multiplies f32
    /// without its tensor cores.
    pub fn gmac_s(&self, encoding: Encoding) -> Option<f64> {
        match (self.tensor_gmac_s, encoding.input()) {
            (Some(rate), _) => on_tensor_cores(encoding).then_some(rate),
            (None, InputForm::Bytes32) => self.dot_gmac_s,
            (None, InputForm::Float) => self.fma_gmac_s,
        }
    }
}

/// Bytes of one measured copy: far more than a device's caches hold.
const COPY_BYTES: usize = 1 << 29;

/// Copies in one try.
const COPIES: usize = 16;

/// GB that a device reads and writes in a second when it copies within its memory: the bound of decode there.
fn copy_gb_s<D: Device>(device: &D) -> Result<f64, DeviceError> {
    let bytes = COPY_BYTES.min((device.memory()?.free / 4) as usize).max(4096);
    let [from, to] = [device.allocate(bytes)?, device.allocate(bytes)?];
    device.copy_to(device.span(&from).part(0, 4096), &[1; 4096])?;
    let copy = || device.copy(device.span(&to), device.span(&from));
    Ok((2 * COPIES * bytes) as f64 / shortest(device, COPIES, copy)? / 1e9)
}

/// Rounds of chained products in one launch (some tenths of a millisecond), and launches in one try.
const CHAINED: usize = 2048;
const CHAINS: usize = 32;

/// Billions of multiply-accumulates of f16 into f32 that a device's tensor cores do in a second: the bound of prefill.
/// The kernel uses `mma.sync` and two blocks on each processor, like the matmul kernels.
fn tensor_gmac_s<D: Device>(device: &D) -> Result<f64, DeviceError> {
    let blocks = 2 * device.processors() as usize;
    let sums = device.allocate(4 * blocks * RATE as usize)?;
    let chain = || device.launch(&tensor_rate(blocks, CHAINED, device.span(&sums)));
    Ok((CHAINS * CHAINED * blocks * RATE_MACS) as f64 / shortest(device, CHAINS, chain)? / 1e9)
}

/// The time in seconds of `calls` queued calls: the shortest of some tries.
fn shortest<D: Device>(
    device: &D,
    calls: usize,
    call: impl Fn() -> Result<(), DeviceError>,
) -> Result<f64, DeviceError> {
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        device.synchronise()?;
        let start = Instant::now();
        (0..calls).try_for_each(|_| call())?;
        device.synchronise()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

/// The least work for a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Multiply-accumulates for one prompt token, by the encoding of the layers' matrices. The head is not included: it
    /// runs only for the last token.
    pub prompt_macs: Vec<(Encoding, u64)>,
    /// Bytes of weights that a generated token reads: all weights except the embedding, of which it reads one row. A
    /// tied embedding counts, because it is the head too.
    pub read_bytes: u64,
}

/// Bytes of keys and values that a token reads in all layers: the mean over tokens at these positions.
pub fn attended_bytes(spec: &ModelSpec, kv_type: KvType, positions: Range<usize>) -> f64 {
    let row = (2 * spec.n_kv_heads * spec.head_dim * kv_type.bytes()) as f64;
    let seen = |layer, position: usize| spec.window_of(layer).map_or(usize::MAX, |w| w.size).min(position + 1) as f64;
    let all: f64 =
        (0..spec.n_layers).flat_map(|l| positions.clone().map(move |p| (l, p))).map(|(l, p)| seen(l, p)).sum();
    row * all / positions.len().max(1) as f64
}

impl Work {
    /// The work of a model, from its file's layout.
    pub fn of(layout: &Layout) -> Work {
        let (embedding, rest) = layout.tensors.split_first().expect("a model has an embedding");
        let head_apart = layout.tensors.last().is_some_and(|t| t.alias_of.is_none());
        let unread = if head_apart { embedding.range.len() as u64 } else { 0 };
        let layers = || rest.iter().filter(|t| t.name.starts_with("layers."));
        let macs = |encoding| {
            let own = layers().filter(|t| t.encoding == encoding).map(|t| match t.shape {
                Shape::Matrix(rows, cols) => rows as u64 * cols as u64,
                Shape::Vector(_) => 0,
            });
            own.sum()
        };
        let prompt_macs = Encoding::ALL.map(|encoding| (encoding, macs(encoding))).into_iter();
        let prompt_macs = prompt_macs.filter(|(_, macs)| *macs > 0).collect();
        Work { prompt_macs, read_bytes: layout.weight_bytes() - unread }
    }
}

impl Limits {
    /// The least time in seconds for the products of one prompt token; None if a rate is unknown.
    pub fn prompt_s(&self, work: &Work) -> Option<f64> {
        work.prompt_macs.iter().map(|(encoding, macs)| Some(*macs as f64 / 1e9 / self.gmac_s(*encoding)?)).sum()
    }
}

/// The rate of `work` in billions per second, the best of some tries. `work` returns what it has done.
fn best(mut work: impl FnMut() -> usize) -> f64 {
    let rates = (0..TRIES).map(|_| {
        let start = Instant::now();
        let done = work();
        done as f64 / start.elapsed().as_secs_f64() / 1e9
    });
    rates.fold(0.0, f64::max)
}

/// Reads the map's tensors, at most the first GiB, and returns the number of bytes.
fn read(read: fn(&[u8]), file: &NsvFile, pool: &Pool) -> usize {
    let bytes = &file.bytes()[file.layout().tensors[0].range.start..];
    let bytes = &bytes[..bytes.len().min(READ_BYTES)];
    pool.each(bytes.len().div_ceil(PIECE), |i| {
        let piece = &bytes[i * PIECE..bytes.len().min((i + 1) * PIECE)];
        read(piece);
    });
    bytes.len()
}

/// Reads a piece with plain code: sums its words in as many lanes as a cache line has words.
fn sum(piece: &[u8]) {
    let mut lanes = [0u64; 8];
    for line in piece.as_chunks::<64>().0 {
        for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    black_box(lanes);
}

/// Runs a rate's loop on every thread and returns the number of multiply-accumulates.
fn multiply(rate: fn(usize) -> usize, pool: &Pool) -> usize {
    let pieces = PIECES * pool.threads();
    let one = rate(1);
    pool.each(pieces, |_| {
        black_box(rate(black_box(ROUNDS)));
    });
    pieces * ROUNDS * one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa;
    use nanoserve_format::Window;

    #[test]
    fn keys_and_values_are_counted_by_layer_and_position() {
        let base = ModelSpec { n_layers: 3, n_kv_heads: 2, head_dim: 8, ..ModelSpec::default() };
        // At positions 4 and 5 a token sees 5 and 6.
        assert_eq!(attended_bytes(&base, KvType::F32, 4..6), (3 * 2 * 2 * 8 * 4) as f64 * 5.5);
        let window = Some(Window { size: 3, layers: vec![1], rope: None });
        let spec = ModelSpec { window, ..base };
        assert_eq!(attended_bytes(&spec, KvType::F16, 4..6), (2 * 2 * 8 * 2) as f64 * (2.0 * 5.5 + 3.0));
        assert_eq!(attended_bytes(&spec, KvType::F16, 4..4), 0.0);
    }

    #[test]
    fn rates_count_what_they_do() {
        for kernels in isa::available() {
            let Some(rates) = &kernels.rates else { continue };
            for rate in [rates.dot, rates.fma] {
                assert!(rate(1) > 0);
                assert_eq!(rate(7), 7 * rate(1));
            }
            (rates.read)(&[1; 1000]);
        }
        sum(&[1; 1000]);
    }
}
