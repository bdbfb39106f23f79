//! The CPU backend: splits every operation over threads and calls one instruction set's kernels. It knows no model.
//!
//! Threads and lanes divide rows and heads among them, never a sum, so the bits do not depend on their number.

#[allow(unsafe_code)]
mod attention;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avxvnni;
mod cache;
#[allow(unsafe_code)]
mod disjoint;
#[cfg(test)]
mod equality;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod generic;
#[allow(unsafe_code)]
mod input;
pub mod isa;
mod lines;
pub mod math;
#[allow(unsafe_code)]
mod matrix;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
#[allow(unsafe_code)]
pub mod pool;
pub mod scalar;
pub mod threads;

pub use cache::KvCache;

use crate::backend::room::saturated;
use crate::backend::{Attending, Attention, Backend, Ids, KvShape, Linear, Turn};
use crate::error::{Result, RuntimeError};
use disjoint::each_row;
use input::Input;
use isa::{Kernels, RowsView};
use lines::Values;
use matrix::{Output, halves, multiply};
use nanoserve_format::{Activation, Encoding, NsvFile, PANEL_ROWS, Shape, panel};
use pool::Pool;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The CPU: a pool of threads and one table of kernels.
#[derive(Debug)]
pub struct CpuBackend {
    kernels: &'static Kernels,
    pool: Arc<Pool>,
    input: Input,
    /// `[tokens, intermediate_size]`: up, used if gate and up have different encodings.
    up: Values,
}

/// A tensor in the mapped file.
#[derive(Clone, Debug)]
pub struct CpuWeight {
    file: Arc<NsvFile>,
    range: Range<usize>,
    shape: Shape,
    encoding: Encoding,
}

impl CpuWeight {
    fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// The values of a vector.
    fn vector(&self) -> &[f32] {
        bytemuck::cast_slice(self.bytes())
    }

    /// Rows of a matrix, or values of a vector.
    fn rows(&self) -> usize {
        match self.shape {
            Shape::Vector(rows) | Shape::Matrix(rows, _) => rows,
        }
    }

    /// Bytes of one of its panels.
    fn panel_bytes(&self) -> usize {
        self.range.len() / self.shape.pieces()
    }

    /// The bytes of one panel.
    fn panel(&self, panel: usize) -> &[u8] {
        let bytes = self.panel_bytes();
        &self.bytes()[panel * bytes..][..bytes]
    }

    /// Number of panels.
    fn panels(&self) -> usize {
        self.shape.pieces()
    }
}

/// Rows of activations, `[rows, width]`.
#[derive(Clone, Debug)]
pub struct Buffer {
    data: Values,
    width: usize,
}

impl Buffer {
    fn rows(&self) -> RowsView<'_> {
        RowsView { data: &self.data, width: self.width }
    }

    fn resize(&mut self, rows: usize) -> &mut [f32] {
        self.data.resize(rows * self.width)
    }
}

impl CpuBackend {
    /// A backend of `kernels` on the threads of `pool`.
    pub fn new(kernels: &'static Kernels, pool: Arc<Pool>) -> Self {
        CpuBackend { kernels, pool, input: Input::default(), up: Values::default() }
    }

    /// The kernels it runs.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The threads it runs on.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Multiplies the rows of `x` by every matrix of `parts`, each into its output `[tokens, rows of the matrix]`.
    fn products(&mut self, x: RowsView, parts: Vec<(&Linear<CpuWeight>, &mut [f32])>) {
        self.input.fill(self.kernels, &self.pool, x, parts.iter().map(|(l, _)| l.weight.encoding));
        let (mut outputs, mut linears, mut pair) = (Vec::new(), Vec::new(), 0);
        for (linear, out) in parts {
            let (output, next) = Output::new(out, linear.weight.rows(), pair);
            outputs.push(output);
            linears.push(linear);
            pair = next;
        }
        let panels = |part: usize, pair: usize| halves(&linears[part].weight, pair);
        multiply(self.kernels, &self.pool, &self.input, &outputs, panels, |part, row, tile, out| {
            out.copy_from_slice(&tile[..out.len()]);
            self.add_bias(&linears[part].bias, row, out);
        });
    }

    /// The gated product if gate and up have different encodings: no kernel computes those together, so both go through
    /// memory. The values are the same.
    fn gated_apart(
        &mut self,
        x: RowsView,
        [gate, up]: [&Linear<CpuWeight>; 2],
        activate: fn(&mut [f32], &[f32]),
        out: &mut Buffer,
    ) {
        let (rows, width, mut up_rows) = (x.rows(), out.width, std::mem::take(&mut self.up));
        let (gates, ups) = (out.resize(rows), up_rows.resize(rows * width));
        self.products(x, vec![(gate, &mut *gates), (up, &mut *ups)]);
        each_row(&self.pool, gates, width, |t, gate| activate(gate, &ups[t * width..][..width]));
        self.up = up_rows;
    }

    fn add_bias(&self, bias: &Option<CpuWeight>, row: usize, out: &mut [f32]) {
        if let Some(bias) = bias {
            (self.kernels.add)(out, &bias.vector()[row..row + out.len()]);
        }
    }
}

impl Backend for CpuBackend {
    type Weight = CpuWeight;
    type Buffer = Buffer;
    type Cache = KvCache;

    fn weight(&mut self, file: &Arc<NsvFile>, name: &str, expected: Shape) -> Result<CpuWeight> {
        let tensor = || name.to_string();
        let entry = file.layout().tensor(name).ok_or_else(|| RuntimeError::MissingTensor { tensor: tensor() })?;
        let (shape, encoding) = (entry.shape, entry.encoding);
        if shape != expected {
            return Err(RuntimeError::TensorShape { tensor: tensor(), got: shape, expected });
        }
        // Kernels read f32. A map is page-aligned and offsets are multiples of 64, so this check holds wherever mmap
        // works.
        let weight = CpuWeight { file: file.clone(), range: entry.range.clone(), shape, encoding };
        if !weight.bytes().as_ptr().addr().is_multiple_of(align_of::<f32>()) {
            return Err(RuntimeError::TensorAlignment { tensor: tensor(), encoding, expected: align_of::<f32>() });
        }
        Ok(weight)
    }

    fn buffer(&mut self, width: usize) -> Buffer {
        Buffer { data: Values::default(), width }
    }

    fn set_width(&mut self, buffer: &mut Buffer, width: usize) {
        buffer.width = width;
    }

    fn cache(&mut self, shape: KvShape, _: u64) -> Result<KvCache> {
        KvCache::new(shape)
    }

    fn untouched(&self, cache: &KvCache, len: usize) -> u64 {
        saturated(cache.shape().bytes() - cache.shape().bytes_of(len))
    }

    fn cache_bytes<'a>(&'a self, cache: &'a KvCache, len: usize) -> Result<Vec<Cow<'a, [u8]>>> {
        Ok(cache.parts(len).into_iter().map(Cow::Borrowed).collect())
    }

    fn set_cache_bytes(&mut self, cache: &mut KvCache, len: usize, bytes: &[u8]) -> bool {
        cache.set_parts(len, bytes)
    }

    fn read<'a>(&mut self, buffer: &'a Buffer) -> Cow<'a, [f32]> {
        Cow::Borrowed(&buffer.data)
    }

    fn write(&mut self, buffer: &mut Buffer, rows: &[f32]) {
        // The number of rows may differ: with a split model, the rows may come from the other backend.
        buffer.data.resize(rows.len()).copy_from_slice(rows);
    }

    fn embed(&mut self, table: &CpuWeight, ids: Ids, out: &mut Buffer) {
        let Ids::Known(ids) = ids else { unreachable!("it chooses nothing") };
        let width = out.width;
        each_row(&self.pool, out.resize(ids.len()), width, |t, out| {
            panel::unpack_rows(table.encoding, width, table.bytes(), ids[t] as usize, out);
        });
    }

    fn rms_norm(&mut self, x: &Buffer, weight: &CpuWeight, eps: f32, out: &mut Buffer) {
        let (x, width) = (x.rows(), out.width);
        each_row(&self.pool, out.resize(x.rows()), width, |t, out| {
            (self.kernels.rms_norm)(x.row(t), weight.vector(), eps, out);
        });
    }

    fn norm_parts(&mut self, x: &mut Buffer, weight: &CpuWeight, eps: f32) {
        let (width, weight) = (x.width, weight.vector());
        each_row(&self.pool, &mut x.data, width, |_, row| {
            let input = row.to_vec();
            for (x, out) in input.chunks_exact(weight.len()).zip(row.chunks_exact_mut(weight.len())) {
                (self.kernels.rms_norm)(x, weight, eps, out);
            }
        });
    }

    fn linear(&mut self, x: &Buffer, parts: &mut [(&Linear<CpuWeight>, &mut Buffer)]) {
        let rows = x.rows().rows();
        let parts = parts.iter_mut().map(|(linear, out)| (*linear, out.resize(rows)));
        self.products(x.rows(), parts.collect());
    }

    fn gated(&mut self, x: &Buffer, [gate, up]: [&Linear<CpuWeight>; 2], activation: Activation, out: &mut Buffer) {
        let activate = match activation {
            Activation::Silu => self.kernels.silu_mul,
            Activation::GeluTanh => self.kernels.gelu_mul,
        };
        if gate.weight.encoding != up.weight.encoding {
            return self.gated_apart(x.rows(), [gate, up], activate, out);
        }
        self.input.fill(self.kernels, &self.pool, x.rows(), std::iter::once(gate.weight.encoding));
        let width = out.width;
        let output = Output::of_two(out.resize(x.rows().rows()), width);
        let panels = |_, panel| [(&gate.weight, panel), (&up.weight, panel)];
        multiply(self.kernels, &self.pool, &self.input, &[output], panels, |_, row, tile, out| {
            let mut up_values = [0.0; PANEL_ROWS];
            up_values.copy_from_slice(&tile[PANEL_ROWS..]);
            let up_values = &mut up_values[..out.len()];
            out.copy_from_slice(&tile[..out.len()]);
            self.add_bias(&gate.bias, row, out);
            self.add_bias(&up.bias, row, up_values);
            activate(out, up_values);
        });
    }

    fn rope(&mut self, x: &mut Buffer, head_dim: usize, turns: &[Turn]) {
        let width = x.width;
        let ends: Vec<usize> = turns
            .iter()
            .scan(0, |end, turn| {
                *end += turn.rows;
                Some(*end)
            })
            .collect();
        each_row(&self.pool, &mut x.data, width, |t, row| {
            let own = ends.partition_point(|end| *end <= t);
            let Turn { table, first, rows } = turns[own];
            let (cos, sin) = table.at(first + rows - (ends[own] - t));
            for head in row.chunks_exact_mut(head_dim) {
                (self.kernels.rope)(&mut head[..2 * cos.len()], cos, sin);
            }
        });
    }

    fn attention(
        &mut self,
        qkv: [&Buffer; 3],
        spans: &mut [Attending<KvCache>],
        layer: usize,
        how: &Attention,
        out: &mut Buffer,
    ) {
        let qkv = qkv.map(Buffer::rows);
        let out = out.resize(qkv[0].rows());
        attention::store_and_attend((self.kernels, &self.pool), qkv, spans, layer, how, out);
    }

    fn scale(&mut self, x: &mut Buffer, factor: f32) {
        let width = x.width;
        each_row(&self.pool, &mut x.data, width, |_, x| (self.kernels.scale)(x, factor));
    }

    fn softcap(&mut self, x: &mut Buffer, cap: f32) {
        let width = x.width;
        each_row(&self.pool, &mut x.data, width, |_, x| (self.kernels.softcap)(x, cap));
    }

    fn add(&mut self, x: &mut Buffer, y: &Buffer) {
        let (y, width) = (y.rows(), x.width);
        each_row(&self.pool, &mut x.data, width, |t, x| (self.kernels.add)(x, y.row(t)));
    }

    fn keep(&mut self, x: &mut Buffer, rows: &[Range<usize>]) {
        let width = x.width;
        x.data.keep(rows.iter().map(|rows| rows.start * width..rows.end * width));
    }
}
