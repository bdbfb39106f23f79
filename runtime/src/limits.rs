//! What this machine can do at best, measured in a few tenths of a second: how far a model's speed is from it.
//!
//! Generation reads every weight once a token: it is bound by how fast the threads can read the map. A prompt multiplies
//! every weight once a token, many tokens to each time the weights are read: it is bound by the rate of products.

use crate::cpu::CpuBackend;
use crate::cpu::pool::Pool;
use crate::cuda::device::{Device, DeviceError};
use nanoserve_format::{Encoding, Layout, NsvFile, Shape};
use std::hint::black_box;
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
}

impl Limits {
    /// Measures them, over the map of `file`.
    pub fn measure(file: &NsvFile, backend: &CpuBackend) -> Limits {
        let (pool, rates) = (backend.pool(), backend.kernels().rates.as_ref());
        Limits {
            read_gb_s: best(|| read(rates.map_or(sum, |r| r.read), file, pool)),
            dot_gmac_s: rates.map(|r| best(|| multiply(r.dot, pool))),
            fma_gmac_s: rates.map(|r| best(|| multiply(r.fma, pool))),
        }
    }

    /// The rate of the products that matrices of an encoding are made of.
    pub fn gmac_s(&self, encoding: Encoding) -> Option<f64> {
        if encoding == Encoding::Q8 { self.dot_gmac_s } else { self.fma_gmac_s }
    }
}

/// Bytes that a device's copy is measured over: far more than its caches hold.
const COPY_BYTES: usize = 1 << 29;

/// Copies in one try.
const COPIES: usize = 16;

/// Bytes that a device reads and writes in a second when it copies its own memory, in GB: what generation there is bound by.
///
/// # Errors
/// When the device has no memory for it, or fails.
pub fn copy_gb_s<D: Device>(device: &D) -> Result<f64, DeviceError> {
    let bytes = COPY_BYTES.min((device.memory()?.free / 4) as usize).max(4096);
    let [from, to] = [device.allocate(bytes)?, device.allocate(bytes)?];
    device.copy_to(device.span(&from).part(0, 4096), &[1; 4096])?;
    let mut most = 0.0f64;
    for _ in 0..TRIES {
        device.synchronise()?;
        let start = Instant::now();
        for _ in 0..COPIES {
            device.copy(device.span(&to), device.span(&from))?;
        }
        device.synchronise()?;
        most = most.max((2 * COPIES * bytes) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    Ok(most)
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
