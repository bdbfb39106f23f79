//! What the CUDA backend needs from a device: memory, copies, launches of named kernels, graphs of launches.
//!
//! The trait is small, so that three things can implement it: a GPU, an emulator of the kernels, and a stub that
//! records and asserts. All work is queued in one order, as on one CUDA stream: later calls see the results of earlier
//! ones. Only [`Device::copy_from`], [`Device::end_copy_from`] and [`Device::synchronise`] wait.
//!
//! ```text
//! Memory    owned; freed by drop         Span       an address and a number of bytes; owns nothing
//! Launch    kernel, grid, block, shared bytes, arguments, and the spans that it reads and writes
//! Graph     launches between begin_capture and end_capture; they run only when replayed
//! ```

use bytemuck::{Pod, Zeroable};
use std::fmt::Debug;

pub use crate::error::DeviceError;

/// A range of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Its address; 0 is null.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Span {
    /// No memory: a null pointer.
    pub const NONE: Span = Span { address: 0, bytes: 0 };

    /// The part of `bytes` bytes that begins at byte `offset`.
    ///
    /// # Panics
    /// When the span is too short.
    pub fn part(self, offset: u64, bytes: u64) -> Span {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.bytes), "bytes {offset} and {bytes} more of {}", self.bytes);
        Span { address: self.address + offset, bytes }
    }
}

/// An argument of the matvec kernels, passed by value: up to three matrices with the same input. It mirrors the
/// kernels' `struct Parts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Parts {
    /// Panels of each matrix.
    pub w: [u64; 3],
    /// `[rows]` of f32 each; null if there is no bias.
    pub bias: [u64; 3],
    /// `[rows]` of f32 each.
    pub out: [u64; 3],
    /// Rows of each.
    pub rows: [i32; 3],
    /// Number of matrices.
    pub n: i32,
}

/// An argument of a kernel.
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
    /// Its bytes in memory.
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
    /// Reads or writes parts of it. What it reads was written before.
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
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
    /// The spans that it accesses through pointers among the arguments.
    pub touches: Vec<(Span, Access)>,
}

/// The memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes that can be allocated.
    pub free: u64,
    /// Bytes in total.
    pub total: u64,
}

/// The number of copies from a device that can be in flight.
pub const SLOTS: usize = 2;

/// The most bytes of such a copy.
pub const SLOT_BYTES: usize = 64;

/// A GPU, or a stand-in for one.
pub trait Device {
    /// Device memory. Drop frees it once the work queued before is done.
    type Memory: Debug;
    /// Captured launches.
    type Graph: Debug;

    /// Its name, for people.
    fn name(&self) -> String;

    /// Compute capability, major and minor.
    fn capability(&self) -> (u32, u32);

    /// Number of streaming multiprocessors.
    fn processors(&self) -> u32;

    /// The most bytes of shared memory of a block.
    fn shared(&self) -> u32;

    /// Its free and total memory now.
    ///
    /// # Errors
    /// When the driver does not report it.
    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// Allocates `bytes` bytes, aligned to 256, with unspecified contents. Never called while capturing.
    ///
    /// # Errors
    /// When there is not enough memory.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// The whole span of some memory.
    fn span(&self, memory: &Self::Memory) -> Span;

    /// Copies to the device; `from` is as long as `to`. When it returns, `from` may change: a copy of it in pinned
    /// memory may still be in flight. Never called while capturing.
    ///
    /// # Errors
    /// When the driver refuses.
    fn copy_to(&self, to: Span, from: &[u8]) -> Result<(), DeviceError>;

    /// Waits for all work queued before and copies from the device; `to` is as long as `from`. Never called while
    /// capturing.
    ///
    /// # Errors
    /// When the driver refuses, or work queued before has failed.
    fn copy_from(&self, from: Span, to: &mut [u8]) -> Result<(), DeviceError>;

    /// Queues a copy of at most [`SLOT_BYTES`] from the device to one of the host's [`SLOTS`] slots, replacing its
    /// contents.
    ///
    /// # Errors
    /// When the driver refuses.
    fn begin_copy_from(&self, from: Span, slot: usize) -> Result<(), DeviceError>;

    /// Waits for the last copy to a slot, but not for work queued after it, and fills `to` with the slot's first bytes.
    ///
    /// # Errors
    /// When work queued before the copy has failed.
    fn end_copy_from(&self, slot: usize, to: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies within the device. The spans have the same length and do not overlap.
    ///
    /// # Errors
    /// When the driver refuses.
    fn copy(&self, to: Span, from: Span) -> Result<(), DeviceError>;

    /// Queues a kernel, or adds it to the graph while capturing.
    ///
    /// # Errors
    /// When there is no such kernel, or the driver refuses.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError>;

    /// Begins stream capture: launches are recorded and do not run.
    ///
    /// # Errors
    /// When the driver refuses.
    fn begin_capture(&self) -> Result<(), DeviceError>;

    /// Ends stream capture and returns the graph.
    ///
    /// # Errors
    /// When the driver refuses, or refused a launch since the capture began.
    fn end_capture(&self) -> Result<Self::Graph, DeviceError>;

    /// Queues all launches of a graph.
    ///
    /// # Errors
    /// When the driver refuses.
    fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError>;

    /// Waits for all queued work.
    ///
    /// # Errors
    /// When some of it failed.
    fn synchronise(&self) -> Result<(), DeviceError>;
}
