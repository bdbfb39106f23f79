//! The CUDA backend: queues the operations of a step, fuses them, and launches kernels or replays a graph of them.
//!
//! ```text
//! device     what is needed of a GPU: memory, copies, launches, graphs; also implemented by an emulator and a stub
//! ops        operations as data                    fuse      merges operations that run better as one
//! launch     a typed function for each kernel      plan      operations -> launches
//! driver     a GPU, through the CUDA driver        module    the kernels' text -> machine code
//! encodings  the kernels of each encoding
//! split      the last layers on the GPU, the first on the CPU
//! ```
//!
//! Operations are queued and do not run until rows are read or the step ends. When a step of one token is queued a
//! second time in the same way, it is captured as a graph. While the queue stays the same, the graph is replayed: what
//! changes, position and token, lies in device memory. A replay allocates nothing.
//!
//! Results equal those of the CPU within a tolerance, and two runs give the same bits: every sum has a fixed order.

pub mod device;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod driver;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod driver;
mod encodings;
mod fuse;
mod launch;
mod memory;
#[allow(unsafe_code)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "nothing loads kernels"))]
mod module;
mod ops;
mod plan;
pub mod split;

pub use driver::Driver;
pub(crate) use encodings::on_tensor_cores;
pub use launch::KERNELS;
pub(crate) use launch::{RATE, RATE_MACS, tensor_rate};

pub use memory::{DeviceBuffer, DeviceCache, DeviceWeight};

use crate::backend::room::Room;
use crate::backend::{
    Attending, Attention, Backend, BackendKind, Choice, Ids, KvShape, Linear, MOST_CANDIDATES, Turn, WINDOW_STEP,
};
use crate::error::{Limit, Result, RuntimeError};
use device::{Device, DeviceError, SLOTS, Span};
use launch::Chip;
use memory::{AngleTable, Grown, Weights};
use nanoserve_format::{Activation, NsvFile, Shape};
use ops::{Attend, DeviceOp, DeviceRows, LayerCache, Norm, Projection};
use plan::{Needs, Scratch, plan};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Prompt tokens in one step of prefill: enough for the matrix products to be bound by arithmetic.
const CHUNK: usize = 2048;

/// The most RoPE tables kept. A model whose RoPE depends on a sequence's capacity needs one for each capacity.
const MOST_ANGLES: usize = 8;

/// Bytes that describe a step on the device: its first position and its number of tokens.
const STEP: u64 = 8;

/// Device memory left to the driver: graphs, kernels, and what a step needs besides its buffers.
const RESERVE: u64 = 96 << 20;

/// The host slot that a choice is copied to.
fn slot(choice: Choice) -> usize {
    choice.0 as usize % SLOTS
}

/// A graph, and the queue that it was captured from.
#[derive(Debug)]
struct Captured<G> {
    ops: Vec<DeviceOp>,
    scratch: Scratch,
    left_out: Vec<DeviceRows>,
    graph: G,
}

/// The backend for a GPU, or for a stand-in.
#[derive(Debug)]
pub struct CudaBackend<D: Device> {
    device: D,
    weights: Weights<D::Memory>,
    /// RoPE tables, the most recently used last.
    angles: Vec<AngleTable<D::Memory>>,
    work: Work<D::Memory>,
    /// Operations since the last launch.
    ops: Vec<DeviceOp>,
    /// The step's token ids, if they have not been sent to the device yet.
    ids: Option<Vec<u32>>,
    /// Number of tokens of the step.
    tokens: usize,
    /// First position and number of tokens of the step, once an operation of the queue has told the position.
    step: Option<[u32; 2]>,
    /// The same, as it is in device memory; None if unknown.
    sent_step: Option<[u32; 2]>,
    /// The last queue of more than one operation.
    last: Vec<DeviceOp>,
    captured: Option<Captured<D::Graph>>,
    left_out: Vec<DeviceRows>,
    /// Memory that was replaced but that queued operations may still use.
    retired: Vec<D::Memory>,
    fault: Option<RuntimeError>,
    /// Number of choices started.
    choices: u64,
    /// True if operations may be fused and graphs captured.
    fusing: bool,
}

/// Memory that launches share.
#[derive(Debug)]
struct Work<M> {
    control: Grown<M>,
    hi: Grown<M>,
    lo: Grown<M>,
    scales: Grown<M>,
    up: Grown<M>,
    partial: Grown<M>,
    counter: Grown<M>,
    /// Scratch of the kernels that find the largest logits.
    candidates: Grown<M>,
    /// Their result: ids, then logits.
    top: Grown<M>,
}

impl<D: Device> CudaBackend<D> {
    /// A backend that holds the layers from `first_layer` on, and also the embedding if that is all layers.
    pub fn new(device: D, first_layer: usize) -> Self {
        let work = Work {
            control: Grown::default(),
            hi: Grown::default(),
            lo: Grown::default(),
            scales: Grown::default(),
            up: Grown::default(),
            partial: Grown::default(),
            counter: Grown::default(),
            candidates: Grown::default(),
            top: Grown::default(),
        };
        CudaBackend {
            device,
            weights: Weights::new(first_layer),
            angles: Vec::new(),
            work,
            ops: Vec::new(),
            ids: None,
            tokens: 0,
            step: None,
            sent_step: None,
            last: Vec::new(),
            captured: None,
            left_out: Vec::new(),
            retired: Vec::new(),
            fault: None,
            choices: 0,
            fusing: true,
        }
    }

    /// The same backend, but each operation runs by itself: every kernel's plain path.
    pub fn unfused(mut self) -> Self {
        self.fusing = false;
        self
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Keeps the first error. Later operations then do nothing.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault.get_or_insert(error);
                None
            }
        }
    }

    fn queue(&mut self, op: DeviceOp) {
        self.ops.push(op);
        if !self.fusing {
            self.flush();
        }
    }

    /// Makes room for `rows` rows in a buffer whose old rows are no longer needed.
    fn resize(&mut self, buffer: &mut DeviceBuffer<D::Memory>, rows: usize) -> DeviceRows {
        let grown = buffer.resize(&self.device, rows, &mut self.retired);
        self.note(grown.map_err(RuntimeError::from));
        buffer.rows()
    }

    /// The distance of position `first` from the step's first position, which the step's first operation sets.
    fn offset(&mut self, first: usize) -> i32 {
        let step = self.step.get_or_insert([first as u32, self.tokens as u32]);
        first as i32 - step[0] as i32
    }

    /// The properties of the device that determine launches.
    fn chip(&self) -> Chip {
        Chip { processors: self.device.processors(), shared: self.device.shared() }
    }

    /// Runs what is queued.
    fn flush(&mut self) {
        let ops = std::mem::take(&mut self.ops);
        if self.fault.is_none() && !ops.is_empty() {
            let done = self.run(&ops);
            self.note(done.map_err(RuntimeError::from));
        }
        self.retired.clear();
        // Kept for comparison with the next queue.
        if ops.len() > 1 {
            self.last = ops;
        }
    }

    fn run(&mut self, ops: &[DeviceOp]) -> Result<(), DeviceError> {
        let scratch = self.scratch(ops)?;
        self.send_step(&scratch)?;
        if let Some(captured) = &self.captured
            && captured.ops == ops
            && captured.scratch == scratch
        {
            self.left_out.clone_from(&captured.left_out);
            return self.device.replay(&captured.graph);
        }
        let chip = self.chip();
        if !self.fusing {
            return plan::each(ops, &scratch, chip).iter().try_for_each(|launch| self.device.launch(launch));
        }
        let launches = plan(ops, &scratch, chip, &mut self.left_out)?;
        // A queue that comes a second time will come again. By then every kernel has been loaded, which a capture would
        // not allow.
        let one_token = ops.len() > 1 && ops.iter().flat_map(DeviceOp::writes).all(|rows| rows.rows <= 1);
        if !one_token || self.last != ops {
            return launches.iter().try_for_each(|launch| self.device.launch(launch));
        }
        self.captured = None;
        self.device.begin_capture()?;
        let queued = launches.iter().try_for_each(|launch| self.device.launch(launch));
        // Ended even after an error: while it captures, a device can do nothing else.
        let graph = self.device.end_capture();
        queued?;
        let graph = graph?;
        self.device.replay(&graph)?;
        let (ops, left_out) = (ops.to_vec(), self.left_out.clone());
        self.captured = Some(Captured { ops, scratch, left_out, graph });
        Ok(())
    }

    /// The memory that launches share, grown to what a queue needs.
    fn scratch(&mut self, ops: &[DeviceOp]) -> Result<Scratch, DeviceError> {
        let needs = Needs::of(ops, self.chip());
        let ids = 4 * self.ids.as_ref().map_or(1, Vec::len);
        let (device, work, retired) = (&self.device, &mut self.work, &mut self.retired);
        let before = [work.control.span(), work.counter.span()];
        let mut grow = |grown: &mut Grown<D::Memory>, bytes| grown.grow(device, bytes, retired);
        let control = grow(&mut work.control, STEP as usize + ids)?;
        let scratch = Scratch {
            step: control.part(0, STEP),
            ids: control.part(STEP, control.bytes - STEP),
            hi: grow(&mut work.hi, needs.halves)?,
            lo: grow(&mut work.lo, needs.rest)?,
            scales: grow(&mut work.scales, needs.scales)?,
            up: grow(&mut work.up, needs.up)?,
            partial: grow(&mut work.partial, needs.partial)?,
            counter: grow(&mut work.counter, needs.counter)?,
        };
        if scratch.counter != before[1] {
            self.device.copy_to(scratch.counter, &vec![0; scratch.counter.bytes as usize])?;
        }
        if control != before[0] {
            self.sent_step = None;
        }
        Ok(scratch)
    }

    /// Sends the step's position and token ids to the device in one copy, unless they are there already.
    fn send_step(&mut self, scratch: &Scratch) -> Result<(), DeviceError> {
        let step = self.step.filter(|step| self.sent_step != Some(*step));
        let ids = self.ids.take();
        let words: Vec<u32> = step.into_iter().flatten().chain(ids.into_iter().flatten()).collect();
        if words.is_empty() {
            return Ok(());
        }
        // In device memory the token ids follow the step.
        let at = if step.is_some() { scratch.step.address } else { scratch.ids.address };
        let to = Span { address: at, bytes: 4 * words.len() as u64 };
        self.device.copy_to(to, bytemuck::cast_slice(&words))?;
        self.sent_step = step.or(self.sent_step);
        Ok(())
    }

    /// Device memory to find the `k` largest logits: scratch and result.
    fn choosing(&mut self, k: usize) -> Result<[Span; 2], DeviceError> {
        let (device, work, retired) = (&self.device, &mut self.work, &mut self.retired);
        let before = work.candidates.span();
        let scratch = work.candidates.grow(device, launch::top_scratch(MOST_CANDIDATES), retired)?;
        if scratch != before {
            device.copy_to(scratch.part(0, 16), &[0; 16])?;
        }
        Ok([scratch, work.top.grow(device, 8 * MOST_CANDIDATES, retired)?.part(0, 8 * k as u64)])
    }

    /// The largest logits of a row, found on the device.
    fn candidates(&mut self, logits: DeviceRows, k: usize) -> Result<Vec<(u32, f32)>, DeviceError> {
        let [scratch, top] = self.choosing(k)?;
        self.device.launch(&match k {
            1 => launch::argmax(logits, scratch, top, [Span::NONE; 2]),
            _ => launch::top_candidates(logits, k, scratch, top),
        })?;
        let mut words = vec![0u32; 2 * k];
        self.device.copy_from(top, bytemuck::cast_slice_mut(&mut words))?;
        let (ids, values) = words.split_at(k);
        Ok(ids.iter().copied().zip(values.iter().map(|bits| f32::from_bits(*bits))).collect())
    }

    /// Starts choosing the largest logit of a row and sets the step in device memory to that token.
    fn begin_choice(&mut self, logits: DeviceRows, slot: usize) -> Result<(), DeviceError> {
        let [scratch, top] = self.choosing(1)?;
        let control = self.work.control.span();
        let next = [control.part(0, STEP), control.part(STEP, 4)];
        let step = self.sent_step.take();
        self.device.launch(&launch::argmax(logits, scratch, top, next))?;
        self.sent_step = step.map(|[first, tokens]| [first + tokens, 1]);
        self.device.begin_copy_from(top, slot)
    }

    /// A matrix with its bias and its output rows.
    fn part(linear: &Linear<DeviceWeight>, out: DeviceRows) -> Projection {
        let bias = linear.bias.as_ref().map_or(Span::NONE, |bias| bias.span);
        Projection { matrix: linear.weight.matrix(), bias, out }
    }
}

impl<D: Device + std::fmt::Debug> Backend for CudaBackend<D> {
    type Weight = DeviceWeight;
    type Buffer = DeviceBuffer<D::Memory>;
    type Cache = DeviceCache<D::Memory>;

    fn weight(&mut self, file: &Arc<NsvFile>, name: &str, expected: Shape) -> Result<DeviceWeight> {
        self.weights.weight(&self.device, file, name, expected)
    }

    fn buffer(&mut self, width: usize) -> DeviceBuffer<D::Memory> {
        DeviceBuffer::new(width)
    }

    fn set_width(&mut self, buffer: &mut DeviceBuffer<D::Memory>, width: usize) {
        buffer.set_width(width);
    }

    fn cache(&mut self, shape: KvShape, _: u64) -> Result<DeviceCache<D::Memory>> {
        DeviceCache::new(&self.device, shape, self.weights.first_layer())
    }

    fn cache_bytes<'a>(&'a self, cache: &'a DeviceCache<D::Memory>, len: usize) -> Result<Vec<Cow<'a, [u8]>>> {
        cache.parts(len).into_iter().map(|span| Ok(Cow::Owned(memory::read(&self.device, span)?))).collect()
    }

    fn set_cache_bytes(&mut self, cache: &mut DeviceCache<D::Memory>, len: usize, mut bytes: &[u8]) -> bool {
        let parts = cache.parts(len);
        if bytes.len() as u64 != parts.iter().map(|part| part.bytes).sum::<u64>() {
            return false;
        }
        for part in parts {
            let (own, rest) = bytes.split_at(part.bytes as usize);
            let sent = memory::send(&self.device, part, own);
            self.note(sent.map_err(RuntimeError::from));
            bytes = rest;
        }
        true
    }

    fn kind(&self) -> BackendKind {
        BackendKind::Cuda(self.weights.first_layer())
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn mixes(&self) -> bool {
        false
    }

    fn untouched(&self, _: &DeviceCache<D::Memory>, _: usize) -> u64 {
        // A device allocates a whole cache when it is made.
        0
    }

    fn room(&self, _: u64) -> Option<Room> {
        let free = self.device.memory().ok()?.free.saturating_sub(RESERVE);
        Some(Room { bytes: free, limit: Limit::Device })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush();
        self.step = None;
        // After a step only its final rows are read. Other buffers may be freed and their addresses reused.
        self.left_out.clear();
        if self.angles.len() > MOST_ANGLES {
            // A graph, and a queue that may become one, refer to tables by address.
            self.angles.drain(..self.angles.len() - MOST_ANGLES);
            (self.captured, self.last) = (None, Vec::new());
        }
        let Some(fault) = self.fault.take() else { return Ok(()) };
        // It is unknown whether the device has advanced its step.
        self.sent_step = None;
        Err(fault)
    }

    fn read<'a>(&mut self, buffer: &'a DeviceBuffer<D::Memory>) -> Cow<'a, [f32]> {
        self.flush();
        let rows = buffer.rows();
        let mut values = vec![f32::NAN; rows.len()];
        if let Some(left) = self.left_out.iter().find(|left| left.overlaps(rows)) {
            let error = DeviceError::LeftOut { address: left.address };
            self.fault.get_or_insert(error.into());
        }
        if self.fault.is_none() && !values.is_empty() {
            let copied = self.device.copy_from(rows.span(), bytemuck::cast_slice_mut(&mut values));
            self.note(copied.map_err(RuntimeError::from));
        }
        Cow::Owned(values)
    }

    fn top(&mut self, logits: &DeviceBuffer<D::Memory>, k: usize) -> Option<Vec<(u32, f32)>> {
        self.flush();
        let row = logits.rows();
        if row.rows != 1 || !(1..=MOST_CANDIDATES.min(row.width)).contains(&k) {
            return None;
        }
        let found = if self.fault.is_none() { self.candidates(row, k) } else { Ok(Vec::new()) };
        Some(self.note(found.map_err(RuntimeError::from)).unwrap_or_default())
    }

    fn choose(&mut self, logits: &DeviceBuffer<D::Memory>) -> Option<Choice> {
        self.flush();
        let row = logits.rows();
        if row.rows != 1 {
            return None;
        }
        self.choices += 1;
        let choice = Choice(self.choices);
        let begun = if self.fault.is_none() { self.begin_choice(row, slot(choice)) } else { Ok(()) };
        self.note(begun.map_err(RuntimeError::from));
        Some(choice)
    }

    fn chosen(&mut self, choice: Choice) -> Result<(u32, f32)> {
        assert!(self.choices - choice.0 < SLOTS as u64, "another choice came in its place");
        let mut words = [0u32; 2];
        self.device.end_copy_from(slot(choice), bytemuck::cast_slice_mut(&mut words))?;
        Ok((words[0], f32::from_bits(words[1])))
    }

    fn write(&mut self, buffer: &mut DeviceBuffer<D::Memory>, rows: &[f32]) {
        self.flush();
        let count = rows.len() / buffer.width();
        let to = if count == buffer.rows().rows { buffer.rows() } else { self.resize(buffer, count) };
        if self.fault.is_none() && !rows.is_empty() {
            let sent = memory::send(&self.device, to.span(), bytemuck::cast_slice(rows));
            self.note(sent.map_err(RuntimeError::from));
        }
        self.left_out = self.left_out.iter().filter_map(|left| left.without(to)).collect();
    }

    fn embed(&mut self, table: &DeviceWeight, ids: Ids, out: &mut DeviceBuffer<D::Memory>) {
        self.flush();
        (self.tokens, self.step) = (ids.count(), None);
        self.ids = match ids {
            Ids::Known(ids) => Some(ids.to_vec()),
            // The device has it already.
            Ids::Chosen => None,
        };
        let out = self.resize(out, ids.count());
        self.queue(DeviceOp::Embed { table: table.matrix(), out, scale: 1.0 });
    }

    fn rms_norm(
        &mut self,
        x: &DeviceBuffer<D::Memory>,
        weight: &DeviceWeight,
        eps: f32,
        out: &mut DeviceBuffer<D::Memory>,
    ) {
        let (x, out) = (x.rows(), self.resize(out, x.rows().rows));
        self.queue(DeviceOp::Norm { x, norm: Norm { weight: weight.span, eps }, out });
    }

    fn linear(
        &mut self,
        x: &DeviceBuffer<D::Memory>,
        parts: &mut [(&Linear<DeviceWeight>, &mut DeviceBuffer<D::Memory>)],
    ) {
        let x = x.rows();
        let parts = parts.iter_mut().map(|(linear, out)| Self::part(linear, self.resize(out, x.rows))).collect();
        self.queue(DeviceOp::Linear { x, norm: None, parts, residual: None });
    }

    fn norm_parts(&mut self, x: &mut DeviceBuffer<D::Memory>, weight: &DeviceWeight, eps: f32) {
        let width = (weight.span.bytes / 4) as usize;
        self.queue(DeviceOp::NormParts { x: x.rows(), norm: Norm { weight: weight.span, eps }, width });
    }

    fn rope(&mut self, x: &mut DeviceBuffer<D::Memory>, head_dim: usize, turns: &[Turn]) {
        let [Turn { table, first, .. }] = *turns else { unreachable!("a step has one span") };
        let (x, offset) = (x.rows(), self.offset(first));
        let known = self.angles.iter().position(|known| known.is_of(table));
        let own = known.map_or_else(|| AngleTable::new(table), |known| self.angles.remove(known));
        self.angles.push(own);
        let own = self.angles.last_mut().expect("pushed above");
        let angles = own.reaching(&self.device, first + x.rows, &mut self.retired);
        if let Some(angles) = self.note(angles.map_err(RuntimeError::from)) {
            self.queue(DeviceOp::Rope { x, head_dim, angles, offset });
        }
    }

    fn attention(
        &mut self,
        qkv: [&DeviceBuffer<D::Memory>; 3],
        spans: &mut [Attending<DeviceCache<D::Memory>>],
        layer: usize,
        how: &Attention,
        out: &mut DeviceBuffer<D::Memory>,
    ) {
        let [q, k, v] = qkv.map(DeviceBuffer::rows);
        let [Attending { cache, first, .. }] = spans else { unreachable!("a step has one span") };
        let (cache, offset): (LayerCache, i32) = (cache.layer(layer), self.offset(*first));
        let wraps = *first + k.rows > cache.positions;
        let at_a_time = if wraps && k.rows > WINDOW_STEP { WINDOW_STEP } else { k.rows.max(1) };
        let out = self.resize(out, q.rows);
        self.queue(DeviceOp::Attend(Attend { q, k, v, cache, offset, at_a_time, how: *how, out }));
    }

    fn gated(
        &mut self,
        x: &DeviceBuffer<D::Memory>,
        [gate, up]: [&Linear<DeviceWeight>; 2],
        activation: Activation,
        out: &mut DeviceBuffer<D::Memory>,
    ) {
        let (x, out) = (x.rows(), self.resize(out, x.rows().rows));
        let (gate, up) = (Self::part(gate, out), Self::part(up, out));
        self.queue(DeviceOp::Gated { x, norm: None, gate, up, activation, out });
    }

    fn scale(&mut self, x: &mut DeviceBuffer<D::Memory>, factor: f32) {
        self.queue(DeviceOp::Scale { x: x.rows(), factor });
    }

    fn softcap(&mut self, x: &mut DeviceBuffer<D::Memory>, cap: f32) {
        self.queue(DeviceOp::Softcap { x: x.rows(), cap });
    }

    fn add(&mut self, x: &mut DeviceBuffer<D::Memory>, y: &DeviceBuffer<D::Memory>) {
        self.queue(DeviceOp::Add { x: x.rows(), y: y.rows() });
    }

    fn keep(&mut self, x: &mut DeviceBuffer<D::Memory>, rows: &[Range<usize>]) {
        match rows {
            [] => x.keep(0..0),
            [rows] => x.keep(rows.clone()),
            _ => unreachable!("a step has one span"),
        }
    }
}
