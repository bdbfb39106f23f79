//! The CUDA backend: queues the operations of a step, fuses them, and launches kernels; or replays a graph of them.
//!
//! ```text
//! device     what is needed of a GPU: memory, copies, launches, graphs; an emulator and a stub can be it as well
//! ops        operations as data                    fuse      those that are better done in one
//! launch     a typed function a kernel             plan      operations -> launches
//! driver     a GPU, by the driver's library        module    the kernels' text -> machine code
//! split      the last layers here, the first on the CPU
//! ```
//!
//! Operations are queued, not run, until rows are read or the step ends. A step of one token that was queued twice in the
//! same way is captured as a graph; as long as the queue stays the same the graph is replayed, for what changes, position
//! and token, lies in device memory. Nothing is allocated then.
//!
//! Results are those of the CPU within a tolerance, and twice the same bits: every sum has a fixed order.

pub mod device;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod driver;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod driver;
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
pub use launch::KERNELS;
pub(crate) use launch::{RATE, RATE_MACS, tensor_rate};

pub use memory::{DeviceBuffer, DeviceCache, DeviceWeight};

use crate::backend::room::Room;
use crate::backend::rope::RopeTable;
use crate::backend::{Attention, Backend, BackendKind, Choice, Ids, KvShape, Linear, MOST_CANDIDATES, WINDOW_STEP};
use crate::error::{Limit, Result, RuntimeError};
use device::{Device, DeviceError, SLOTS, Span};
use launch::Chip;
use memory::{AngleTable, Grown, Weights};
use nanoserve_format::{Activation, NsvFile, Shape};
use ops::{Attend, LayerCache, Norm, Op, Part, Rows};
use plan::{Needs, Scratch, plan};
use std::borrow::Cow;
use std::sync::Arc;

/// Tokens of a prompt in one step: enough for the matrices to be bound by arithmetic.
const CHUNK: usize = 2048;

/// Bytes of the step: its first position and its tokens.
const STEP: u64 = 8;

/// Bytes that are left to the driver: graphs, kernels, what a step needs besides its buffers.
const RESERVE: u64 = 96 << 20;

/// Where a choice comes back to.
fn slot(choice: Choice) -> usize {
    choice.0 as usize % SLOTS
}

/// A graph, and what it does.
#[derive(Debug)]
struct Captured<G> {
    ops: Vec<Op>,
    scratch: Scratch,
    left_out: Vec<Rows>,
    graph: G,
}

/// A GPU, or what stands for one.
#[derive(Debug)]
pub struct CudaBackend<D: Device> {
    device: D,
    weights: Weights<D::Memory>,
    angles: Vec<AngleTable<D::Memory>>,
    work: Work<D::Memory>,
    /// Operations since the last launch.
    ops: Vec<Op>,
    /// Tokens of the step, where they have not gone to the device yet.
    ids: Option<Vec<u32>>,
    /// Tokens of the step.
    tokens: usize,
    /// First position of the step and its tokens, as far as the queue says them.
    step: Option<[u32; 2]>,
    /// Those that are in device memory.
    step_there: Option<[u32; 2]>,
    /// The last queue of one token, and its graph.
    last: Vec<Op>,
    captured: Option<Captured<D::Graph>>,
    left_out: Vec<Rows>,
    /// Memory that what is queued may still use.
    retired: Vec<D::Memory>,
    fault: Option<RuntimeError>,
    /// Choices that were begun.
    choices: u64,
    /// Whether operations may be fused, and graphs captured.
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
    /// What finds the likeliest tokens works here,
    candidates: Grown<M>,
    /// and leaves them here.
    top: Grown<M>,
}

impl<D: Device> CudaBackend<D> {
    /// A backend that holds the layers from `first_layer` on, and with all of them the embedding.
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
            step_there: None,
            last: Vec::new(),
            captured: None,
            left_out: Vec::new(),
            retired: Vec::new(),
            fault: None,
            choices: 0,
            fusing: true,
        }
    }

    /// The same, one operation at a time: every kernel's plain path.
    pub fn unfused(mut self) -> Self {
        self.fusing = false;
        self
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Keeps the first error; operations after it do nothing.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault.get_or_insert(error);
                None
            }
        }
    }

    fn queue(&mut self, op: Op) {
        self.ops.push(op);
        if !self.fusing {
            self.flush();
        }
    }

    /// Makes room for `rows` in a buffer whose rows are no longer wanted.
    fn resize(&mut self, buffer: &mut DeviceBuffer<D::Memory>, rows: usize) -> Rows {
        let grown = buffer.resize(&self.device, rows, &mut self.retired);
        self.note(grown.map_err(RuntimeError::from));
        buffer.rows()
    }

    /// The step's first position by an operation's, and how far behind it that stands.
    fn offset(&mut self, first: usize) -> i32 {
        let step = self.step.get_or_insert([first as u32, self.tokens as u32]);
        first as i32 - step[0] as i32
    }

    /// What of the device decides about launches.
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
        // One token's queue is kept to be compared with the next.
        if ops.len() > 1 {
            self.last = ops;
        }
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
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
        // What comes a second time will come again; by then every kernel was loaded once, which a capture does not allow.
        let of_one = ops.len() > 1 && ops.iter().flat_map(Op::writes).all(|rows| rows.rows <= 1);
        if !of_one || self.last != ops {
            return launches.iter().try_for_each(|launch| self.device.launch(launch));
        }
        self.captured = None;
        self.device.begin_capture()?;
        let queued = launches.iter().try_for_each(|launch| self.device.launch(launch));
        // Ended in any case: a device that captures can do nothing else.
        let graph = self.device.end_capture();
        queued?;
        let graph = graph?;
        self.device.replay(&graph)?;
        let (ops, left_out) = (ops.to_vec(), self.left_out.clone());
        self.captured = Some(Captured { ops, scratch, left_out, graph });
        Ok(())
    }

    /// Memory for what launches share, as much as a queue needs.
    fn scratch(&mut self, ops: &[Op]) -> Result<Scratch, DeviceError> {
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
            self.step_there = None;
        }
        Ok(scratch)
    }

    /// The step's position and tokens go to the device, unless they are there: together in one copy.
    fn send_step(&mut self, scratch: &Scratch) -> Result<(), DeviceError> {
        let step = self.step.filter(|step| self.step_there != Some(*step));
        let ids = self.ids.take();
        let words: Vec<u32> = step.into_iter().flatten().chain(ids.into_iter().flatten()).collect();
        if words.is_empty() {
            return Ok(());
        }
        // The tokens lie behind the step.
        let at = if step.is_some() { scratch.step.address } else { scratch.ids.address };
        let to = Span { address: at, bytes: 4 * words.len() as u64 };
        self.device.copy_to(to, bytemuck::cast_slice(&words))?;
        self.step_there = step.or(self.step_there);
        Ok(())
    }

    /// What finds the `k` largest logits works in the one, and leaves them in the other.
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
    fn candidates(&mut self, logits: Rows, k: usize) -> Result<Vec<(u32, f32)>, DeviceError> {
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

    /// Begins to choose of a row, and makes the device's step that of the token.
    fn begin_choice(&mut self, logits: Rows, slot: usize) -> Result<(), DeviceError> {
        let [scratch, top] = self.choosing(1)?;
        let control = self.work.control.span();
        let next = [control.part(0, STEP), control.part(STEP, 4)];
        let step = self.step_there.take();
        self.device.launch(&launch::argmax(logits, scratch, top, next))?;
        self.step_there = step.map(|[first, tokens]| [first + tokens, 1]);
        self.device.begin_copy_from(top, slot)
    }

    /// A matrix with its bias, and where its results go.
    fn part(linear: &Linear<DeviceWeight>, out: Rows) -> Part {
        let bias = linear.bias.as_ref().map_or(Span::NONE, |bias| bias.span);
        Part { matrix: linear.weight.matrix(), bias, out }
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

    fn cache(&mut self, shape: KvShape) -> Result<DeviceCache<D::Memory>> {
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

    fn room(&self) -> Option<Room> {
        let free = self.device.memory().ok()?.free.saturating_sub(RESERVE);
        Some(Room { bytes: free, limit: Limit::Device })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush();
        self.step = None;
        // Nothing but what a step ends with is read after it; its buffers may go, and others come in their place.
        self.left_out.clear();
        let Some(fault) = self.fault.take() else { return Ok(()) };
        // Whether the device has taken its step on nobody knows.
        self.step_there = None;
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
            // There already.
            Ids::Chosen => None,
        };
        let out = self.resize(out, ids.count());
        self.queue(Op::Embed { table: table.matrix(), out, scale: 1.0 });
    }

    fn rms_norm(
        &mut self,
        x: &DeviceBuffer<D::Memory>,
        weight: &DeviceWeight,
        eps: f32,
        out: &mut DeviceBuffer<D::Memory>,
    ) {
        let (x, out) = (x.rows(), self.resize(out, x.rows().rows));
        self.queue(Op::Norm { x, norm: Norm { weight: weight.span, eps }, out });
    }

    fn linear(
        &mut self,
        x: &DeviceBuffer<D::Memory>,
        parts: &mut [(&Linear<DeviceWeight>, &mut DeviceBuffer<D::Memory>)],
    ) {
        let x = x.rows();
        let parts = parts.iter_mut().map(|(linear, out)| Self::part(linear, self.resize(out, x.rows))).collect();
        self.queue(Op::Linear { x, norm: None, parts, residual: None });
    }

    fn norm_parts(&mut self, x: &mut DeviceBuffer<D::Memory>, weight: &DeviceWeight, eps: f32) {
        let width = (weight.span.bytes / 4) as usize;
        self.queue(Op::NormParts { x: x.rows(), norm: Norm { weight: weight.span, eps }, width });
    }

    fn rope(&mut self, x: &mut DeviceBuffer<D::Memory>, head_dim: usize, table: &RopeTable, first: usize) {
        let (x, offset) = (x.rows(), self.offset(first));
        let known = match self.angles.iter().position(|known| known.is_of(table)) {
            Some(known) => known,
            None => {
                self.angles.push(AngleTable::new(table));
                self.angles.len() - 1
            }
        };
        let angles = self.angles[known].reaching(&self.device, first + x.rows, &mut self.retired);
        if let Some(angles) = self.note(angles.map_err(RuntimeError::from)) {
            self.queue(Op::Rope { x, head_dim, angles, offset });
        }
    }

    fn attention(
        &mut self,
        qkv: [&DeviceBuffer<D::Memory>; 3],
        (cache, layer): (&mut DeviceCache<D::Memory>, usize),
        first: usize,
        how: &Attention,
        out: &mut DeviceBuffer<D::Memory>,
    ) {
        let [q, k, v] = qkv.map(DeviceBuffer::rows);
        let (cache, offset): (LayerCache, i32) = (cache.layer(layer), self.offset(first));
        let wraps = first + k.rows > cache.positions;
        let at_a_time = if wraps && k.rows > WINDOW_STEP { WINDOW_STEP } else { k.rows.max(1) };
        let out = self.resize(out, q.rows);
        self.queue(Op::Attend(Attend { q, k, v, cache, offset, at_a_time, how: *how, out }));
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
        self.queue(Op::Gated { x, norm: None, gate, up, activation, out });
    }

    fn scale(&mut self, x: &mut DeviceBuffer<D::Memory>, factor: f32) {
        self.queue(Op::Scale { x: x.rows(), factor });
    }

    fn softcap(&mut self, x: &mut DeviceBuffer<D::Memory>, cap: f32) {
        self.queue(Op::Softcap { x: x.rows(), cap });
    }

    fn add(&mut self, x: &mut DeviceBuffer<D::Memory>, y: &DeviceBuffer<D::Memory>) {
        self.queue(Op::Add { x: x.rows(), y: y.rows() });
    }

    fn keep_last(&mut self, x: &mut DeviceBuffer<D::Memory>, rows: usize) {
        x.keep_last(rows);
    }
}
