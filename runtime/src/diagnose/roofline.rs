//! What this machine can do at best, measured in a few tenths of a second: how far a model's speed is from it.
//!
//! Generation reads every weight once a token: it is bound by how fast the threads can read the map. A prompt multiplies
//! every weight once a token, many tokens to each time the weights are read: it is bound by the rate of products.

use crate::backend::KvType;
use crate::cpu::CpuBackend;
use crate::cpu::pool::Pool;
use crate::cuda::device::{Device, DeviceError};
use crate::cuda::{RATE, RATE_MACS, tensor_rate};
use nanoserve_format::{Encoding, Layout, ModelSpec, NsvFile, Shape};
use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

/// Bytes of the map that are read, at most.
const READ_BYTES: usize = 1 << 30;

/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;

/// Rounds of a rate's loop that a thread takes at a time: some tens of microseconds.
const ROUNDS: usize = 10_000;

/// Pieces of a rate's loop for each thread.
const PIECES: usize = 200;

/// Each limit is the best of so many tries.
const TRIES: usize = 3;

/// The limits of some threads with one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the map that the threads read in a second, in GB.
    pub read_gb_s: f64,
    /// Int8 multiply-accumulates a second, in billions; None for the plain kernels.
    pub dot_gmac_s: Option<f64>,
    /// Fused multiply-adds of f32 a second, in billions; None for the plain kernels.
    pub fma_gmac_s: Option<f64>,
    /// Multiply-accumulates of f16 into f32 on a GPU's tensor cores a second, in billions.
    pub tensor_gmac_s: Option<f64>,
}

impl Limits {
    /// Measures them, over the map of `file`.
    pub fn measure(file: &NsvFile, backend: &CpuBackend) -> Limits {
        let (pool, rates) = (backend.pool(), backend.kernels().rates.as_ref());
        Limits {
            read_gb_s: best(|| read(rates.map_or(sum, |r| r.read), file, pool)),
            dot_gmac_s: rates.map(|r| best(|| multiply(r.dot, pool))),
            fma_gmac_s: rates.map(|r| best(|| multiply(r.fma, pool))),
            tensor_gmac_s: None,
        }
    }

    /// Measures those of a GPU: the copy of its own memory, bytes read and written, and its tensor cores.
    ///
    /// # Errors
    /// When it has no memory for it, or fails.
    pub fn of_device<D: Device>(device: &D) -> Result<Limits, DeviceError> {
        let (read_gb_s, tensor_gmac_s) = (copy_gb_s(device)?, Some(tensor_gmac_s(device)?));
        Ok(Limits { read_gb_s, dot_gmac_s: None, fma_gmac_s: None, tensor_gmac_s })
    }

    /// The rate of the products that matrices of an encoding are made of. A GPU multiplies f32 without its tensor cores.
    pub fn gmac_s(&self, encoding: Encoding) -> Option<f64> {
        match (encoding, self.tensor_gmac_s) {
            (Encoding::F16 | Encoding::Q8, Some(rate)) => Some(rate),
            (Encoding::Q8, None) => self.dot_gmac_s,
            _ => self.fma_gmac_s,
        }
    }
}

/// Bytes that a device's copy is measured over: far more than its caches hold.
const COPY_BYTES: usize = 1 << 29;

/// Copies in one try.
const COPIES: usize = 16;

/// Bytes that a device reads and writes in a second when it copies its own memory, in GB: what generation there is bound by.
fn copy_gb_s<D: Device>(device: &D) -> Result<f64, DeviceError> {
    let bytes = COPY_BYTES.min((device.memory()?.free / 4) as usize).max(4096);
    let [from, to] = [device.allocate(bytes)?, device.allocate(bytes)?];
    device.copy_to(device.span(&from).part(0, 4096), &[1; 4096])?;
    let copy = || device.copy(device.span(&to), device.span(&from));
    Ok((2 * COPIES * bytes) as f64 / shortest(device, COPIES, copy)? / 1e9)
}

/// Rounds of chains of products in one launch: some tenths of a millisecond. Launches in one try.
const CHAINED: usize = 2048;
const CHAINS: usize = 32;

/// Multiply-accumulates of f16 into f32 that a device's tensor cores do in a second, in billions: what a prompt is bound by. By
/// `mma.sync`, as the kernels of matrices have them; two blocks on each processor, as there.
fn tensor_gmac_s<D: Device>(device: &D) -> Result<f64, DeviceError> {
    let blocks = 2 * device.processors() as usize;
    let sums = device.allocate(4 * blocks * RATE as usize)?;
    let chain = || device.launch(&tensor_rate(blocks, CHAINED, device.span(&sums)));
    Ok((CHAINS * CHAINED * blocks * RATE_MACS) as f64 / shortest(device, CHAINS, chain)? / 1e9)
}

/// Seconds of the shortest of some tries of so many calls, each of which is queued.
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

/// What a token costs at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Multiply-accumulates of a prompt's token: the layers' matrices. The head runs for the last token alone.
    pub prompt_macs: u64,
    /// Bytes of weights that a generated token reads: all but the embedding, of which it reads one row, unless that is
    /// the head too.
    pub read_bytes: u64,
}

/// Bytes of keys and values that a token reads in all layers, on average over tokens at these positions.
pub fn attended_bytes(spec: &ModelSpec, kv_type: KvType, positions: Range<usize>) -> f64 {
    let row = (2 * spec.n_kv_heads * spec.head_dim * kv_type.bytes()) as f64;
    let seen = |layer, position: usize| spec.window_of(layer).map_or(usize::MAX, |w| w.size).min(position + 1) as f64;
    let all: f64 =
        (0..spec.n_layers).flat_map(|l| positions.clone().map(move |p| (l, p))).map(|(l, p)| seen(l, p)).sum();
    row * all / positions.len().max(1) as f64
}

impl Work {
    /// Of a model, from its directory.
    pub fn of(layout: &Layout) -> Work {
        let (embedding, rest) = layout.tensors.split_first().expect("a model has an embedding");
        let head_apart = layout.tensors.last().is_some_and(|t| t.alias_of.is_none());
        let unread = if head_apart { embedding.range.len() as u64 } else { 0 };
        let layers = rest.iter().filter(|t| t.name.starts_with("layers."));
        let macs = layers.map(|t| match t.shape {
            Shape::Matrix(rows, cols) => rows as u64 * cols as u64,
            Shape::Vector(_) => 0,
        });
        let prompt_macs = macs.sum();
        Work { prompt_macs, read_bytes: layout.weight_bytes() - unread }
    }
}

/// Billions a second, the best of some tries.
fn best(mut work: impl FnMut() -> usize) -> f64 {
    let rates = (0..TRIES).map(|_| {
        let start = Instant::now();
        let done = work();
        done as f64 / start.elapsed().as_secs_f64() / 1e9
    });
    rates.fold(0.0, f64::max)
}

/// Reads the map's tensors, or the first GiB of them; how many bytes.
fn read(read: fn(&[u8]), file: &NsvFile, pool: &Pool) -> usize {
    let bytes = &file.bytes()[file.layout().tensors[0].range.start..];
    let bytes = &bytes[..bytes.len().min(READ_BYTES)];
    pool.each(bytes.len().div_ceil(PIECE), |i| {
        let piece = &bytes[i * PIECE..bytes.len().min((i + 1) * PIECE)];
        read(piece);
    });
    bytes.len()
}

/// Reads a piece in plain code: the sum of its words, in as many lanes as a cache line has.
fn sum(piece: &[u8]) {
    let mut lanes = [0u64; 8];
    for line in piece.as_chunks::<64>().0 {
        for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    black_box(lanes);
}

/// Runs a rate's loop on every thread; how many multiply-accumulates.
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
