//! What lies in device memory: weights, buffers, keys and values, RoPE tables.
//!
//! Weights go from the mapped file to the device in one pass, in the file's own panels. There is one allocation for
//! all. Each tensor is copied once, in pieces: one piece is copied to pinned memory while the previous one is sent.
//! Tensors that share bytes in the file share them on the device.

use super::device::{Device, DeviceError, Span};
use super::encodings;
use super::ops::{Angles, DeviceRows, LayerCache, Matrix};
use crate::backend::KvShape;
use crate::backend::rope::RopeTable;
use crate::error::{Limit, MemoryUse, Result, RuntimeError};
use nanoserve_format::{Encoding, NsvFile, Shape, schema};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes copied at a time.
pub const PIECE: usize = 8 << 20;

/// Alignment of the parts of an allocation.
const ALIGNMENT: u64 = 256;

/// RoPE tables grow by multiples of this many positions.
const ANGLES: usize = 256;

/// Copies any number of bytes to the device, in pieces.
pub fn send<D: Device>(device: &D, to: Span, from: &[u8]) -> Result<(), DeviceError> {
    let pieces = from.chunks(PIECE).enumerate();
    pieces.into_iter().try_for_each(|(i, piece)| device.copy_to(to.part((i * PIECE) as u64, piece.len() as u64), piece))
}

/// Copies from the device.
pub fn read<D: Device>(device: &D, from: Span) -> Result<Vec<u8>, DeviceError> {
    let mut bytes = vec![0; from.bytes as usize];
    if !bytes.is_empty() {
        device.copy_from(from, &mut bytes)?;
    }
    Ok(bytes)
}

/// Memory that grows on demand without keeping its contents.
#[derive(Debug)]
pub struct Grown<M> {
    memory: Option<M>,
    span: Span,
}

impl<M> Default for Grown<M> {
    fn default() -> Self {
        Grown { memory: None, span: Span::NONE }
    }
}

impl<M> Grown<M> {
    /// All of it.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Grows to at least `bytes` bytes. Memory that this replaces goes to `retired`, because queued work may still use
    /// it.
    pub fn grow<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        bytes: usize,
        retired: &mut Vec<M>,
    ) -> Result<Span, DeviceError> {
        if bytes as u64 > self.span.bytes {
            let memory = device.allocate(bytes)?;
            self.span = device.span(&memory);
            retired.extend(self.memory.replace(memory));
        }
        Ok(self.span)
    }
}

/// Rows of activations on the device: `[rows, width]`.
#[derive(Debug)]
pub struct DeviceBuffer<M> {
    memory: Grown<M>,
    first: usize,
    rows: usize,
    width: usize,
}

impl<M> DeviceBuffer<M> {
    /// A buffer without rows or memory.
    pub(super) fn new(width: usize) -> Self {
        DeviceBuffer { memory: Grown::default(), first: 0, rows: 0, width }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Its rows in device memory.
    pub(super) fn rows(&self) -> DeviceRows {
        let address = self.memory.span().address + 4 * (self.first * self.width) as u64;
        DeviceRows { address, rows: self.rows, width: self.width }
    }

    /// Replaces its rows by `rows` rows with unspecified values.
    pub(super) fn resize<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        rows: usize,
        retired: &mut Vec<M>,
    ) -> Result<(), DeviceError> {
        (self.first, self.rows) = (0, rows);
        self.memory.grow(device, 4 * rows * self.width, retired).map(|_| ())
    }

    /// Keeps only some of its rows, without moving them.
    pub(super) fn keep(&mut self, rows: Range<usize>) {
        self.first += rows.start;
        self.rows = rows.len();
    }

    /// Sets the width of rows; if that changes it, the buffer has no rows afterwards.
    pub(super) fn set_width(&mut self, width: usize) {
        if width != self.width {
            (self.first, self.rows, self.width) = (0, 0, width);
        }
    }
}

/// A tensor on the device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceWeight {
    pub(super) span: Span,
    shape: Shape,
    encoding: Encoding,
}

impl DeviceWeight {
    /// The tensor as a matrix.
    ///
    /// # Panics
    /// When it is a vector.
    pub(super) fn matrix(&self) -> Matrix {
        let Shape::Matrix(rows, cols) = self.shape else { unreachable!("the schema binds matrices to matrices") };
        Matrix { panels: self.span, encoding: self.encoding, rows, cols }
    }
}

/// The weights that a device holds.
#[derive(Debug)]
pub struct Weights<M> {
    first_layer: usize,
    memory: Option<M>,
    all: Span,
    /// Bytes of `all` in use.
    taken: u64,
    /// Where each tensor is, by its offset in the file.
    there: HashMap<usize, Span>,
}

impl<M> Weights<M> {
    /// No weights yet, for the layers from `first_layer` on.
    pub fn new(first_layer: usize) -> Self {
        Weights { first_layer, memory: None, all: Span::NONE, taken: 0, there: HashMap::new() }
    }

    /// The first layer that the device holds.
    pub fn first_layer(&self) -> usize {
        self.first_layer
    }

    /// A tensor; copies it to the device if its bytes are not there yet.
    pub fn weight<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        file: &Arc<NsvFile>,
        name: &str,
        expected: Shape,
    ) -> Result<DeviceWeight> {
        let tensor = || name.to_string();
        let entry = file.layout().tensor(name).ok_or_else(|| RuntimeError::MissingTensor { tensor: tensor() })?;
        let (shape, encoding) = (entry.shape, entry.encoding);
        if shape != expected {
            return Err(RuntimeError::TensorShape { tensor: tensor(), got: shape, expected });
        }
        if self.memory.is_none() {
            self.allocate(device, file)?;
        }
        let span = match self.there.get(&entry.range.start) {
            Some(span) => *span,
            None => {
                let span = self.all.part(self.taken, entry.range.len() as u64);
                send(device, span, &file.bytes()[entry.range.clone()])?;
                self.taken += span.bytes.next_multiple_of(ALIGNMENT);
                self.there.insert(entry.range.start, span);
                span
            }
        };
        Ok(DeviceWeight { span, shape, encoding })
    }

    /// Allocates memory for all weights that the device will hold.
    fn allocate<D: Device<Memory = M>>(&mut self, device: &D, file: &NsvFile) -> Result<()> {
        if file.spec().head_dim > super::launch::WIDEST_HEAD {
            let (got, most) = (file.spec().head_dim, super::launch::WIDEST_HEAD);
            let cause = format!("heads of {got} are wider than its kernels can do ({most})");
            return Err(DeviceError::Missing { cause, remedy: None }.into());
        }
        let held = file.layout().tensors.iter().filter(|tensor| holds(self.first_layer, &tensor.name));
        if let Some(tensor) = held.into_iter().find(|tensor| encodings::find(tensor.encoding).is_none()) {
            return Err(DeviceError::Encoding { tensor: tensor.name.clone(), encoding: tensor.encoding }.into());
        }
        let (need, room) = (weight_bytes(file, self.first_layer), device.memory()?.free.saturating_sub(super::RESERVE));
        if need > room {
            let layers = file.spec().n_layers - self.first_layer;
            return Err(RuntimeError::Memory {
                what: MemoryUse::WeightsOnGpu { layers, of: file.spec().n_layers },
                need,
                room,
                limit: Limit::Device,
            });
        }
        let memory = device.allocate(need as usize)?;
        self.all = device.span(&memory);
        self.memory = Some(memory);
        Ok(())
    }
}

/// True if a device that runs the layers from `first_layer` on holds this tensor. It holds those layers and what comes
/// after them; if it runs all layers, also the embedding.
pub fn holds(first_layer: usize, name: &str) -> bool {
    match name.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok()) {
        Some(layer) => layer >= first_layer,
        None => first_layer == 0 || name != schema::EMBED,
    }
}

/// Device memory for the weights of the layers from `first_layer` on, in bytes.
pub fn weight_bytes(file: &NsvFile, first_layer: usize) -> u64 {
    let held = file.layout().tensors.iter().filter(|tensor| holds(first_layer, &tensor.name));
    let ranges: HashMap<usize, u64> =
        held.map(|t| (t.range.start, (t.range.len() as u64).next_multiple_of(ALIGNMENT))).collect();
    ranges.values().sum()
}

/// Device memory for the KV cache of the layers from `first_layer` on, in bytes.
pub fn cache_bytes(shape: &KvShape, first_layer: usize) -> u64 {
    shape.positions.iter().skip(first_layer).map(|&positions| 2 * half_bytes(shape, positions)).sum()
}

/// Bytes of a layer's keys, or of its values, rounded up to the alignment.
fn half_bytes(shape: &KvShape, positions: usize) -> u64 {
    let size = shape.kv_type.bytes();
    ((shape.n_kv_heads * positions * shape.head_dim * size) as u64).next_multiple_of(ALIGNMENT)
}

/// Keys and values on the device.
#[derive(Debug)]
pub struct DeviceCache<M> {
    shape: KvShape,
    first_layer: usize,
    memory: Option<M>,
    /// For each layer that the device holds.
    layers: Vec<LayerCache>,
}

impl<M> DeviceCache<M> {
    /// An empty cache for the layers from `first_layer` on.
    pub(super) fn new<D: Device<Memory = M>>(device: &D, shape: KvShape, first_layer: usize) -> Result<Self> {
        let bytes = cache_bytes(&shape, first_layer);
        let mut cache = DeviceCache { shape, first_layer, memory: None, layers: Vec::new() };
        if bytes == 0 {
            return Ok(cache);
        }
        let memory = device.allocate(bytes as usize)?;
        let (all, shape, mut taken) = (device.span(&memory), &cache.shape, 0);
        for &positions in &shape.positions[first_layer..] {
            let bytes = (shape.n_kv_heads * positions * shape.head_dim * shape.kv_type.bytes()) as u64;
            let mut half = || {
                taken += half_bytes(shape, positions);
                all.part(taken - half_bytes(shape, positions), bytes)
            };
            let (keys, values) = (half(), half());
            let (kv_type, kv_heads, head_dim) = (shape.kv_type, shape.n_kv_heads, shape.head_dim);
            cache.layers.push(LayerCache { keys, values, kv_type, kv_heads, head_dim, positions });
        }
        cache.memory = Some(memory);
        Ok(cache)
    }

    /// Keys and values of a layer.
    ///
    /// # Panics
    /// When the device does not hold the layer.
    pub(super) fn layer(&self, layer: usize) -> LayerCache {
        self.layers[layer - self.first_layer]
    }

    /// Bytes of [`DeviceCache::parts`].
    pub(super) fn part_bytes(&self, len: usize) -> usize {
        self.parts(len).iter().map(|part| part.bytes as usize).sum()
    }

    /// For each layer and head, the spans of the keys and of the values of `len` positions. Of a ring with fewer
    /// positions, the whole ring.
    pub(super) fn parts(&self, len: usize) -> Vec<Span> {
        let mut parts = Vec::new();
        for layer in &self.layers {
            let row = (layer.head_dim * layer.kv_type.bytes()) as u64;
            for head in 0..layer.kv_heads as u64 {
                let (at, bytes) = (head * layer.positions as u64 * row, len.min(layer.positions) as u64 * row);
                parts.extend([layer.keys, layer.values].map(|all| all.part(at, bytes)));
            }
        }
        parts
    }
}

/// A RoPE table on the device. The host computes it, so the bits are the same.
#[derive(Debug)]
pub struct AngleTable<M> {
    /// The host's copy, which may reach further than a session's own table.
    table: RopeTable,
    cos: Grown<M>,
    sin: Grown<M>,
    /// Number of positions that are on the device.
    sent: usize,
}

impl<M> AngleTable<M> {
    /// A table with the frequencies of `table`, with nothing on the device yet.
    pub fn new(table: &RopeTable) -> Self {
        AngleTable { table: table.clone(), cos: Grown::default(), sin: Grown::default(), sent: 0 }
    }

    /// True if it has the same frequencies as `table`.
    pub fn is_of(&self, table: &RopeTable) -> bool {
        self.table.turns_as(table)
    }

    /// The table on the device, extended to at least `positions` positions.
    pub fn reaching<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        positions: usize,
        retired: &mut Vec<M>,
    ) -> Result<Angles, DeviceError> {
        let pairs = self.table.pairs();
        if positions > self.sent {
            let wanted = positions.next_multiple_of(ANGLES);
            self.table.extend(wanted);
            let bytes = 4 * wanted * pairs;
            let before = self.cos.span();
            // At least doubling makes moves rare.
            let longer = if bytes as u64 > before.bytes { bytes.max(2 * before.bytes as usize) } else { bytes };
            let cos = self.cos.grow(device, longer, retired)?;
            let sin = self.sin.grow(device, longer, retired)?;
            let from = if cos == before { self.sent * pairs } else { 0 };
            for (to, values) in [(cos, self.table.cos()), (sin, self.table.sin())] {
                let new: &[u8] = bytemuck::cast_slice(&values[from..wanted * pairs]);
                send(device, to.part(4 * from as u64, new.len() as u64), new)?;
            }
            self.sent = wanted;
        }
        Ok(Angles { cos: self.cos.span(), sin: self.sin.span(), rotary_dim: 2 * pairs })
    }
}
