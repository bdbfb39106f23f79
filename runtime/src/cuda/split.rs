//! A model whose first layers run on the CPU and the last on a GPU. Running all on either one is the extreme case.
//!
//! A weight is where its layer is, and an operation runs where its weight is. Its input rows are brought there: the
//! residual stream crosses once in a step, after the last CPU layer. An operation without a weight runs where its rows
//! are. The head, often the largest matrix, is on the GPU if any layer is.

use super::device::{Device, DeviceError};
use super::memory::{cache_bytes, holds};
use super::{CudaBackend, DeviceBuffer, DeviceCache, DeviceWeight};
use crate::backend::room::{self, Room};
use crate::backend::{Attending, Attention, Backend, BackendKind, Choice, Ids, KvShape, Linear, Turn};
use crate::cpu::{Buffer, CpuBackend, CpuWeight, KvCache};
use crate::error::{MemoryUse, Result};
use nanoserve_format::{Activation, NsvFile, Shape};
use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// Where a model's layers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On the CPU.
    #[default]
    Cpu,
    /// The last n layers, and what comes after them, on the GPU; None means all layers.
    Gpu(Option<usize>),
    /// All on the GPU if there is one with enough memory, otherwise on the CPU.
    Auto,
}

/// A CPU and, if it has layers, a GPU.
#[derive(Debug)]
pub struct Split<D: Device> {
    cpu: CpuBackend,
    /// The GPU and the first layer that it has.
    gpu: Option<(CudaBackend<D>, usize)>,
}

/// A weight on the side of its layer.
#[derive(Clone, Debug)]
pub enum SplitWeight {
    /// In the mapped file.
    Cpu(CpuWeight),
    /// In the GPU's memory.
    Gpu(DeviceWeight),
}

/// Rows on the side where the last operation left them.
#[derive(Debug)]
pub struct SplitBuffer<M> {
    rows: std::cell::RefCell<Sides<M>>,
}

#[derive(Debug)]
struct Sides<M> {
    cpu: Buffer,
    gpu: DeviceBuffer<M>,
    on_gpu: bool,
}

/// Keys and values, each on the side of its layer.
#[derive(Debug)]
pub struct SplitCache<M> {
    cpu: KvCache,
    gpu: Option<DeviceCache<M>>,
}

impl SplitWeight {
    fn on_gpu(&self) -> bool {
        matches!(self, SplitWeight::Gpu(_))
    }

    fn cpu(&self) -> CpuWeight {
        let SplitWeight::Cpu(weight) = self else { unreachable!("a layer is on one side") };
        weight.clone()
    }

    fn gpu(&self) -> DeviceWeight {
        let SplitWeight::Gpu(weight) = self else { unreachable!("a layer is on one side") };
        *weight
    }
}

/// A matrix with its bias, as one side has them.
fn on_side<W>(linear: &Linear<SplitWeight>, side: fn(&SplitWeight) -> W) -> Linear<W> {
    Linear { weight: side(&linear.weight), bias: linear.bias.as_ref().map(side) }
}

impl<M> SplitCache<M> {
    /// The GPU's part. Called only if the GPU has layers.
    fn gpu(&mut self) -> &mut DeviceCache<M> {
        self.gpu.as_mut().expect("rows are on the GPU")
    }
}

/// A span with one side's part of the cache.
fn on_part<'s, C, P>(span: &'s mut Attending<'_, C>, part: impl FnOnce(&'s mut C) -> &'s mut P) -> Attending<'s, P> {
    let Attending { first, tokens, queries, .. } = *span;
    Attending { cache: part(span.cache), first, tokens, queries }
}

impl<D: Device + Debug> Split<D> {
    /// All on the CPU.
    pub fn cpu(cpu: CpuBackend) -> Self {
        Split { cpu, gpu: None }
    }

    /// The layers from `first_layer` on, and what comes after them, on the GPU.
    pub fn new(cpu: CpuBackend, device: D, first_layer: usize) -> Self {
        Split { cpu, gpu: Some((CudaBackend::new(device, first_layer), first_layer)) }
    }

    /// Like [`Split::new`], if the device could be opened.
    ///
    /// # Errors
    /// The reason why it could not.
    pub fn opened(cpu: CpuBackend, device: Result<D, DeviceError>, first_layer: usize) -> Result<Self> {
        Ok(Self::new(cpu, device?, first_layer))
    }

    /// The CPU.
    pub fn on_cpu(&self) -> &CpuBackend {
        &self.cpu
    }

    /// The GPU, if it has layers.
    pub fn on_gpu(&self) -> Option<&CudaBackend<D>> {
        self.gpu.as_ref().map(|(gpu, _)| gpu)
    }

    /// The GPU. Called only if it has layers.
    fn gpu(&mut self) -> &mut CudaBackend<D> {
        &mut self.gpu.as_mut().expect("rows are on the GPU").0
    }

    /// Moves rows to one side if they are on the other.
    fn bring(&mut self, x: &SplitBuffer<D::Memory>, to_gpu: bool) {
        let sides = &mut *x.rows.borrow_mut();
        if sides.on_gpu == to_gpu {
            return;
        }
        if to_gpu {
            let rows = self.cpu.read(&sides.cpu);
            self.gpu().write(&mut sides.gpu, &rows);
        } else {
            let rows = self.gpu().read(&sides.gpu);
            self.cpu.write(&mut sides.cpu, &rows);
        }
        sides.on_gpu = to_gpu;
    }
}

impl<D: Device + Debug> Backend for Split<D> {
    type Weight = SplitWeight;
    type Buffer = SplitBuffer<D::Memory>;
    type Cache = SplitCache<D::Memory>;

    fn weight(&mut self, file: &Arc<NsvFile>, name: &str, expected: Shape) -> Result<SplitWeight> {
        match &mut self.gpu {
            Some((gpu, first)) if holds(*first, name) => gpu.weight(file, name, expected).map(SplitWeight::Gpu),
            _ => self.cpu.weight(file, name, expected).map(SplitWeight::Cpu),
        }
    }

    fn buffer(&mut self, width: usize) -> Self::Buffer {
        let sides = Sides { cpu: self.cpu.buffer(width), gpu: DeviceBuffer::new(width), on_gpu: false };
        SplitBuffer { rows: sides.into() }
    }

    fn set_width(&mut self, buffer: &mut Self::Buffer, width: usize) {
        let sides = buffer.rows.get_mut();
        self.cpu.set_width(&mut sides.cpu, width);
        sides.gpu.set_width(width);
    }

    fn cache(&mut self, shape: KvShape, promised: u64) -> Result<Self::Cache> {
        let Some((gpu, first)) = &mut self.gpu else {
            return Ok(SplitCache { cpu: self.cpu.cache(shape, promised)?, gpu: None });
        };
        let on_cpu = KvShape { positions: shape.positions[..*first].to_vec(), ..shape.clone() };
        if *first > 0 {
            // If one side has all layers, `Engine::sequence` has already checked its memory.
            room::admit(on_cpu.bytes(), Room::now(promised), || MemoryUse::CacheOnCpu)?;
            room::admit(cache_bytes(&shape, *first).into(), gpu.room(0), || MemoryUse::CacheOnGpu)?;
        }
        Ok(SplitCache { cpu: self.cpu.cache(on_cpu, promised)?, gpu: Some(gpu.cache(shape, promised)?) })
    }

    fn cache_bytes<'a>(&'a self, cache: &'a Self::Cache, len: usize) -> Result<Vec<Cow<'a, [u8]>>> {
        let mut parts = self.cpu.cache_bytes(&cache.cpu, len)?;
        if let (Some((gpu, _)), Some(cache)) = (&self.gpu, &cache.gpu) {
            parts.extend(gpu.cache_bytes(cache, len)?);
        }
        Ok(parts)
    }

    fn set_cache_bytes(&mut self, cache: &mut Self::Cache, len: usize, bytes: &[u8]) -> bool {
        let on_gpu = cache.gpu.as_ref().map_or(0, |cache| cache.part_bytes(len));
        let Some((cpu, gpu)) = bytes.len().checked_sub(on_gpu).map(|at| bytes.split_at(at)) else { return false };
        self.cpu.set_cache_bytes(&mut cache.cpu, len, cpu)
            && match (&mut self.gpu, &mut cache.gpu) {
                (Some((backend, _)), Some(cache)) => backend.set_cache_bytes(cache, len, gpu),
                _ => true,
            }
    }

    fn kind(&self) -> BackendKind {
        self.gpu.as_ref().map_or(BackendKind::Cpu, |(_, first)| BackendKind::Cuda(*first))
    }

    fn chunk(&self) -> usize {
        match &self.gpu {
            Some((gpu, 0)) => gpu.chunk(),
            _ => self.cpu.chunk(),
        }
    }

    fn mixes(&self) -> bool {
        self.gpu.is_none()
    }

    fn untouched(&self, cache: &Self::Cache, len: usize) -> u64 {
        self.cpu.untouched(&cache.cpu, len)
    }

    fn room(&self, promised: u64) -> Option<Room> {
        match &self.gpu {
            Some((gpu, 0)) => gpu.room(promised),
            // Each side's part is checked by itself when the cache is made.
            Some(_) => None,
            None => self.cpu.room(promised),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.gpu.as_mut().map_or(Ok(()), |(gpu, _)| gpu.finish())
    }

    fn read<'a>(&mut self, buffer: &'a Self::Buffer) -> Cow<'a, [f32]> {
        let sides = buffer.rows.borrow();
        let rows = if sides.on_gpu { self.gpu().read(&sides.gpu) } else { self.cpu.read(&sides.cpu) };
        Cow::Owned(rows.into_owned())
    }

    fn top(&mut self, logits: &Self::Buffer, k: usize) -> Option<Vec<(u32, f32)>> {
        let sides = logits.rows.borrow();
        if sides.on_gpu { self.gpu().top(&sides.gpu, k) } else { None }
    }

    fn choose(&mut self, logits: &Self::Buffer) -> Option<Choice> {
        match &mut self.gpu {
            Some((gpu, 0)) => gpu.choose(&logits.rows.borrow().gpu),
            // The next step begins on the CPU, which would need to know the token.
            _ => None,
        }
    }

    fn chosen(&mut self, choice: Choice) -> Result<(u32, f32)> {
        self.gpu().chosen(choice)
    }

    fn write(&mut self, buffer: &mut Self::Buffer, rows: &[f32]) {
        let sides = buffer.rows.get_mut();
        if sides.on_gpu {
            self.gpu().write(&mut sides.gpu, rows);
        } else {
            self.cpu.write(&mut sides.cpu, rows);
        }
    }

    fn embed(&mut self, table: &SplitWeight, ids: Ids, out: &mut Self::Buffer) {
        let out = out.rows.get_mut();
        out.on_gpu = table.on_gpu();
        match table {
            SplitWeight::Cpu(table) => self.cpu.embed(table, ids, &mut out.cpu),
            SplitWeight::Gpu(table) => self.gpu().embed(table, ids, &mut out.gpu),
        }
    }

    fn rms_norm(&mut self, x: &Self::Buffer, weight: &SplitWeight, eps: f32, out: &mut Self::Buffer) {
        let on_gpu = weight.on_gpu();
        self.bring(x, on_gpu);
        let (x, out) = (x.rows.borrow(), out.rows.get_mut());
        out.on_gpu = on_gpu;
        match weight {
            SplitWeight::Cpu(weight) => self.cpu.rms_norm(&x.cpu, weight, eps, &mut out.cpu),
            SplitWeight::Gpu(weight) => self.gpu().rms_norm(&x.gpu, weight, eps, &mut out.gpu),
        }
    }

    fn linear(&mut self, x: &Self::Buffer, parts: &mut [(&Linear<SplitWeight>, &mut Self::Buffer)]) {
        let on_gpu = parts.iter().any(|(linear, _)| linear.weight.on_gpu());
        self.bring(x, on_gpu);
        let x = x.rows.borrow();
        let (linears, mut outs): (Vec<_>, Vec<_>) =
            parts.iter_mut().map(|(linear, out)| (*linear, out.rows.get_mut())).unzip();
        outs.iter_mut().for_each(|out| out.on_gpu = on_gpu);
        if on_gpu {
            let linears: Vec<_> = linears.into_iter().map(|linear| on_side(linear, SplitWeight::gpu)).collect();
            let mut parts: Vec<_> = linears.iter().zip(outs.into_iter().map(|out| &mut out.gpu)).collect();
            self.gpu().linear(&x.gpu, &mut parts);
        } else {
            let linears: Vec<_> = linears.into_iter().map(|linear| on_side(linear, SplitWeight::cpu)).collect();
            let mut parts: Vec<_> = linears.iter().zip(outs.into_iter().map(|out| &mut out.cpu)).collect();
            self.cpu.linear(&x.cpu, &mut parts);
        }
    }

    fn norm_parts(&mut self, x: &mut Self::Buffer, weight: &SplitWeight, eps: f32) {
        let x = x.rows.get_mut();
        match weight {
            SplitWeight::Cpu(weight) => self.cpu.norm_parts(&mut x.cpu, weight, eps),
            SplitWeight::Gpu(weight) => self.gpu().norm_parts(&mut x.gpu, weight, eps),
        }
    }

    fn rope(&mut self, x: &mut Self::Buffer, head_dim: usize, turns: &[Turn]) {
        let x = x.rows.get_mut();
        match x.on_gpu {
            false => self.cpu.rope(&mut x.cpu, head_dim, turns),
            true => self.gpu().rope(&mut x.gpu, head_dim, turns),
        }
    }

    fn attention(
        &mut self,
        qkv: [&Self::Buffer; 3],
        spans: &mut [Attending<Self::Cache>],
        layer: usize,
        how: &Attention,
        out: &mut Self::Buffer,
    ) {
        let [q, k, v] = qkv.map(|x| x.rows.borrow());
        let out = out.rows.get_mut();
        out.on_gpu = k.on_gpu;
        if k.on_gpu {
            let mut spans: Vec<_> = spans.iter_mut().map(|span| on_part(span, SplitCache::gpu)).collect();
            self.gpu().attention([&q.gpu, &k.gpu, &v.gpu], &mut spans, layer, how, &mut out.gpu);
        } else {
            let mut spans: Vec<_> = spans.iter_mut().map(|span| on_part(span, |cache| &mut cache.cpu)).collect();
            self.cpu.attention([&q.cpu, &k.cpu, &v.cpu], &mut spans, layer, how, &mut out.cpu);
        }
    }

    fn gated(
        &mut self,
        x: &Self::Buffer,
        parts: [&Linear<SplitWeight>; 2],
        activation: Activation,
        out: &mut Self::Buffer,
    ) {
        let on_gpu = parts[0].weight.on_gpu();
        self.bring(x, on_gpu);
        let (x, out) = (x.rows.borrow(), out.rows.get_mut());
        out.on_gpu = on_gpu;
        if on_gpu {
            let parts = parts.map(|linear| on_side(linear, SplitWeight::gpu));
            self.gpu().gated(&x.gpu, parts.each_ref(), activation, &mut out.gpu);
        } else {
            let parts = parts.map(|linear| on_side(linear, SplitWeight::cpu));
            self.cpu.gated(&x.cpu, parts.each_ref(), activation, &mut out.cpu);
        }
    }

    fn scale(&mut self, x: &mut Self::Buffer, factor: f32) {
        let x = x.rows.get_mut();
        match x.on_gpu {
            false => self.cpu.scale(&mut x.cpu, factor),
            true => self.gpu().scale(&mut x.gpu, factor),
        }
    }

    fn softcap(&mut self, x: &mut Self::Buffer, cap: f32) {
        let x = x.rows.get_mut();
        match x.on_gpu {
            false => self.cpu.softcap(&mut x.cpu, cap),
            true => self.gpu().softcap(&mut x.gpu, cap),
        }
    }

    fn add(&mut self, x: &mut Self::Buffer, y: &Self::Buffer) {
        let on_gpu = y.rows.borrow().on_gpu;
        self.bring(x, on_gpu);
        let (x, y) = (x.rows.get_mut(), y.rows.borrow());
        match on_gpu {
            false => self.cpu.add(&mut x.cpu, &y.cpu),
            true => self.gpu().add(&mut x.gpu, &y.gpu),
        }
    }

    fn keep(&mut self, x: &mut Self::Buffer, rows: &[Range<usize>]) {
        let x = x.rows.get_mut();
        match x.on_gpu {
            false => self.cpu.keep(&mut x.cpu, rows),
            true => self.gpu().keep(&mut x.gpu, rows),
        }
    }
}
