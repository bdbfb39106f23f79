//! What the CUDA backend needs of a device: memory, copies, launches of named kernels, graphs of launches.
//!
//! Small, so that three can be it: a GPU, an emulator of the kernels, and a stub that records and asserts. Everything is
//! queued in one order, as on one CUDA stream: what is called later sees what was called before. Only
//! [`Device::copy_from`], [`Device::end_copy_from`] and [`Device::synchronise`] wait.
//!
//! ```text
//! Memory    owns; freed by drop          Span       so many bytes from an address, owns nothing
//! Launch    kernel, grid, block, shared bytes, arguments, and the spans that it reads and writes
//! Graph     launches between begin_capture and end_capture, which were not run then; replay runs them
//! ```

use bytemuck::{Pod, Zeroable};
use std::fmt::Debug;

pub use crate::error::DeviceError;

/// So many bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Where they begin; 0 is nowhere.
    pub address: u64,
    /// How many.
    pub bytes: u64,
}

impl Span {
    /// There is none: a null pointer.
    pub const NONE: Span = Span { address: 0, bytes: 0 };

    /// A part of it, from its byte `offset` on.
    ///
    /// # Panics
    /// When it has fewer bytes.
    pub fn part(self, offset: u64, bytes: u64) -> Span {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.bytes), "bytes {offset} and {bytes} more of {}", self.bytes);
        Span { address: self.address + offset, bytes }
    }
}

/// By-value argument of the matrix kernels for one token: up to three matrices with the same input. The kernels' own
/// `struct Parts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Parts {
    /// Panels of each matrix.
    pub w: [u64; 3],
    /// `[rows]` of f32 each; null is none.
    pub bias: [u64; 3],
    /// `[rows]` of f32 each.
    pub out: [u64; 3],
    /// Rows of each.
    pub rows: [i32; 3],
    /// How many matrices.
    pub n: i32,
}

/// An argument of a kernel, as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A device address; 0 is null.
    Pointer(u64),
    /// `int`
    Int(i32),
    /// `long long`
    Long(i64),
    /// `float`
    Float(f32),
    /// `struct Parts`, by value.
    Parts(Parts),
}

impl Arg {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Arg::Pointer(x) => bytemuck::bytes_of(x),
            Arg::Int(x) => bytemuck::bytes_of(x),
            Arg::Long(x) => bytemuck::bytes_of(x),
            Arg::Float(x) => bytemuck::bytes_of(x),
            Arg::Parts(x) => bytemuck::bytes_of(x),
        }
    }
}

/// What a kernel does to a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads all of it.
    Read,
    /// Fills all of it.
    Write,
    /// Reads all of it and fills all of it.
    Both,
    /// Reads or writes some of it: what was written of it before, and what it knows to be there.
    Some,
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel's name, `extern "C"`.
    pub kernel: &'static str,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, in x.
    pub block: u32,
    /// Bytes of dynamic shared memory a block.
    pub shared: u32,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
    /// What it touches through the pointers among them.
    pub touches: Vec<(Span, Access)>,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What can be allocated.
    pub free: u64,
    /// What there is.
    pub total: u64,
}

/// Copies from a device that can be under way.
pub const SLOTS: usize = 2;

/// Bytes of one of them, at most.
pub const SLOT_BYTES: usize = 64;

/// A GPU, or what stands for one.
pub trait Device {
    /// Memory that is freed by drop, once what was queued before is done with it.
    type Memory: Debug;
    /// Captured launches.
    type Graph: Debug;

    /// Its name, such as a person knows it.
    fn name(&self) -> String;

    /// Compute capability, major and minor.
    fn capability(&self) -> (u32, u32);

    /// Streaming multiprocessors.
    fn processors(&self) -> u32;

    /// Bytes of shared memory that a block can have.
    fn shared(&self) -> u32;

    /// Its memory at this moment.
    ///
    /// # Errors
    /// When the driver does not say.
    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// So many bytes, aligned to 256, with any contents. Never called while capturing.
    ///
    /// # Errors
    /// When there are not so many.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// Where memory lies, and all its bytes.
    fn span(&self, memory: &Self::Memory) -> Span;

    /// Copies to the device, as long as `to`. Returns when `from` may change: a copy of it, in pinned memory, may still be on
    /// its way. Never called while capturing.
    ///
    /// # Errors
    /// When the driver refuses.
    fn copy_to(&self, to: Span, from: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device, as long as `from`, when all that was queued before is done. Never called while capturing.
    ///
    /// # Errors
    /// When the driver refuses, or something that was queued before had failed.
    fn copy_from(&self, from: Span, to: &mut [u8]) -> Result<(), DeviceError>;

    /// Queues a copy from the device, of no more than [`SLOT_BYTES`], to a slot of the host's (one of [`SLOTS`]), in the place of
    /// what was there.
    ///
    /// # Errors
    /// When the driver refuses.
    fn begin_copy_from(&self, from: Span, slot: usize) -> Result<(), DeviceError>;

    /// Waits for what was last copied to a slot, and for nothing that was queued since: the first bytes of it.
    ///
    /// # Errors
    /// When something that was queued before had failed.
    fn end_copy_from(&self, slot: usize, to: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies on the device; spans of one length that do not overlap.
    ///
    /// # Errors
    /// When the driver refuses.
    fn copy(&self, to: Span, from: Span) -> Result<(), DeviceError>;

    /// Queues a kernel; while capturing, adds it to the graph.
    ///
    /// # Errors
    /// When there is no such kernel, or the driver refuses.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Begins a graph: launches are kept and do not run.
    ///
    /// # Errors
    /// When the driver refuses.
    fn begin_capture(&self) -> Result<(), DeviceError>;

    /// Ends the graph.
    ///
    /// # Errors
    /// When the driver refuses, or a launch was refused since it began.
    fn end_capture(&self) -> Result<Self::Graph, DeviceError>;

    /// Queues all launches of a graph.
    ///
    /// # Errors
    /// When the driver refuses.
    fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError>;

    /// Waits for all that was queued.
    ///
    /// # Errors
    /// When something of it failed.
    fn synchronise(&self) -> Result<(), DeviceError>;
}
