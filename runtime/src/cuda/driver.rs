//! A GPU, through the CUDA driver found at run time. The program links to nothing of CUDA.
//!
//! All work goes in order on one stream. Copies go through two buffers of pinned memory, so that one is filled while
//! the other is in flight.

use super::device::{Device, DeviceError, DeviceMemory, Launch, SLOT_BYTES, SLOTS, Span};
use super::memory::PIECE;
use super::module;
use cudarc::driver::result::{self, DriverError, stream::StreamKind};
use cudarc::driver::sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::Arc;

/// Turns the driver's error into a [`DeviceError`] that names the call.
fn failed(call: &str) -> impl Fn(DriverError) -> DeviceError + '_ {
    move |e| {
        let text = |words: Result<&std::ffi::CStr, DriverError>| {
            words.map_or_else(|_| String::new(), |w| w.to_string_lossy().into_owned())
        };
        let cause = format!("{}: {}", text(e.error_name()), text(e.error_string()));
        DeviceError::Call { call: call.to_string(), cause }
    }
}

/// The context and the stream. Memory and graphs keep them alive.
struct Stream {
    stream: sys::CUstream,
    /// The device's primary context.
    context: Arc<cudarc::driver::CudaContext>,
}

// SAFETY: the stream is a handle that only the driver dereferences, and the driver may be called from any thread. Each
// thread makes the context current before it calls, see `current`.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver serialises calls of several threads for one stream.
unsafe impl Sync for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        _ = self.current();
        // SAFETY: the stream was made by `Driver::open`; everything that uses it holds an `Arc` of this, and none is
        // left.
        _ = unsafe { result::stream::destroy(self.stream) };
    }
}

impl Stream {
    /// Makes the context current on this thread: a driver call applies to the calling thread's current context, and an
    /// engine may have been moved here from another thread.
    fn current(&self) -> Result<(), DriverError> {
        thread_local!(static BOUND: Cell<bool> = const { Cell::new(false) });
        if !BOUND.get() {
            self.context.bind_to_thread()?;
            BOUND.set(true);
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), DriverError> {
        self.current()?;
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }
    }
}

/// Pinned host memory, and the event after the last copy from or to it.
struct Pinned {
    bytes: *mut c_void,
    len: usize,
    done: sys::CUevent,
}

// SAFETY: the memory is host memory that only this owns; the event is a handle that only the driver dereferences.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(len: usize) -> Result<Self, DriverError> {
        let done = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        // SAFETY: a context is current; drop frees the memory.
        let bytes = unsafe { result::malloc_host(len, 0) }?;
        Ok(Pinned { bytes, len, done })
    }

    /// The first `len` of its bytes.
    fn slice(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.len, "copies go in pieces");
        // SAFETY: `malloc_host` allocated at least `len` bytes, which only this owns. Any bytes are valid u8, and the
        // system zeroes pages.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.cast(), len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: both were made by `new`; `Staging` has waited for the stream before.
        unsafe {
            _ = result::event::destroy(self.done);
            _ = result::free_host(self.bytes);
        }
    }
}

/// The two buffers that copies go through in turn, and the slots that are read later.
struct Staging {
    buffers: [Pinned; 2],
    next: usize,
    slots: [Pinned; SLOTS],
    stream: Arc<Stream>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Copies in flight use the buffers.
        _ = self.stream.wait();
    }
}

/// A GPU.
pub struct Driver {
    functions: HashMap<&'static str, sys::CUfunction>,
    staging: RefCell<Staging>,
    stream: Arc<Stream>,
    name: String,
    capability: (u32, u32),
    processors: u32,
    shared: u32,
    overlap: bool,
}

// SAFETY: functions are handles that only the driver dereferences. They belong to the context, which every calling
// thread makes current. All other fields are Send.
unsafe impl Send for Driver {}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Driver").field("name", &self.name).field("capability", &self.capability).finish_non_exhaustive()
    }
}

impl Driver {
    /// The first GPU, with all kernels loaded.
    ///
    /// # Errors
    /// When there is no driver or no GPU, the GPU is too old, or its kernels cannot be built.
    pub fn open() -> Result<Driver, DeviceError> {
        // SAFETY: loads libcuda in the usual way; only its initialisers run.
        if !unsafe { sys::is_culib_present() } {
            let cause = "there is no NVIDIA driver (libcuda.so)".into();
            return Err(DeviceError::Missing { cause, remedy: Some("install one") });
        }
        let no_gpu = |e: DriverError| {
            let cause = format!("the driver finds no GPU it can use ({})", failed("cuInit")(e));
            DeviceError::Missing { cause, remedy: Some("see nvidia-smi") }
        };
        let context = cudarc::driver::CudaContext::new(0).map_err(no_gpu)?;
        let attribute = |attribute| context.attribute(attribute).map(|n| n as u32).map_err(no_gpu);
        let capability = (
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let processors = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let name = context.name().map_err(no_gpu)?;
        let image = module::image(capability, driver_version(), &link)?;
        // SAFETY: the image is a complete cubin, either checked by its hash or just built, and lives through the call.
        let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(failed("cuModuleLoadData"))?;
        let mut functions = HashMap::new();
        for kernel in super::launch::KERNELS {
            let text = CString::new(kernel).expect("names have no zero");
            // SAFETY: the module was just loaded and is never unloaded: it lives as long as the context.
            let function = unsafe { result::module::get_function(loaded, text) }.map_err(failed(kernel))?;
            // A block may have more than 48 KB of shared memory only if the function's attribute allows it.
            let dynamic = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of the module above.
            unsafe { result::function::set_function_attribute(function, dynamic, shared as i32) }
                .map_err(failed(kernel))?;
            functions.insert(kernel, function);
        }
        let stream = result::stream::create(StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        let stream = Arc::new(Stream { stream, context });
        let pinned = |len| Pinned::new(len).map_err(failed("cuMemHostAlloc"));
        let (buffers, slots) = ([pinned(PIECE)?, pinned(PIECE)?], [pinned(SLOT_BYTES)?, pinned(SLOT_BYTES)?]);
        let staging = Staging { buffers, next: 0, slots, stream: stream.clone() };
        Ok(Driver {
            functions,
            staging: RefCell::new(staging),
            stream,
            name,
            capability,
            processors,
            shared,
            overlap: false,
        })
    }
}

impl Driver {
    /// Makes the context current, so that this thread may call the driver.
    fn here(&self, call: &str) -> Result<(), DeviceError> {
        self.stream.current().map_err(failed(call))
    }

    /// Sets whether a launch may begin before the previous one has ended, on GPUs that support it (since Hopper).
    /// Before the previous kernel is done, a kernel reads only weights, so the bits are the same.
    pub fn overlapping(mut self, overlap: bool) -> Self {
        self.overlap = overlap && self.capability >= (9, 0);
        self
    }
}

/// Copies, with several threads if there is much to copy: a single thread, which also causes the map's pages to be
/// read, is slower than the bus.
fn fill(to: &mut [u8], from: &[u8]) {
    if from.len() < PIECE / 2 {
        return to.copy_from_slice(from);
    }
    let part = from.len().div_ceil(std::thread::available_parallelism().map_or(1, |n| n.get().min(8)));
    std::thread::scope(|scope| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}

/// The driver's version: 13000 is 13.0.
fn driver_version() -> u32 {
    let mut version = 0;
    // SAFETY: the library is loaded, and the call fills one int.
    _ = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    version as u32
}

/// Compiles PTX to machine code with the driver's own compiler.
fn link(ptx: &str) -> Result<Vec<u8>, DeviceError> {
    let text = CString::new(ptx).expect("PTX is text");
    let mut log = vec![0u8; 8192];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut state = std::ptr::null_mut();
    let (mut cubin, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: a context is current. There are two options and two values; the log outlives the link state; the text
    // ends with a zero, which its length includes. The cubin belongs to the state and is copied before the state is
    // destroyed.
    let linked = unsafe {
        let kind = sys::CUjitInputType::CU_JIT_INPUT_PTX;
        let bytes = text.as_bytes_with_nul();
        sys::cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &raw mut state)
            .result()
            .and_then(|()| {
                let data = bytes.as_ptr().cast_mut().cast();
                let none = (std::ptr::null_mut(), std::ptr::null_mut());
                sys::cuLinkAddData_v2(state, kind, data, bytes.len(), c"kernels".as_ptr(), 0, none.0, none.1).result()
            })
            .and_then(|()| sys::cuLinkComplete(state, &raw mut cubin, &raw mut size).result())
            .map(|()| std::slice::from_raw_parts(cubin.cast::<u8>(), size).to_vec())
    };
    if !state.is_null() {
        // SAFETY: the state was made above and is not used again.
        _ = unsafe { sys::cuLinkDestroy(state) };
    }
    linked.map_err(|e| match failed("compiling kernels")(e) {
        DeviceError::Call { call, cause } => {
            let said = log.split(|b| *b == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
            DeviceError::Call { call, cause: format!("{cause} {said}") }
        }
        other => other,
    })
}

/// Memory of the GPU.
pub struct Memory {
    span: Span,
    stream: Arc<Stream>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.span.fmt(f)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Work queued before may still use it. Waiting also makes the context current.
        _ = self.stream.wait();
        // SAFETY: allocated by `allocate` and freed only here; nothing on the stream uses it any more.
        _ = unsafe { result::free_sync(self.span.address) };
    }
}

/// Captured launches.
pub struct Graph {
    graph: sys::CUgraph,
    run: sys::CUgraphExec,
    stream: Arc<Stream>,
}

// SAFETY: both are handles that only the driver dereferences, from any thread.
unsafe impl Send for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        _ = self.stream.wait();
        // SAFETY: both were made by `end_capture`, and the stream is done with them.
        unsafe {
            _ = result::graph::exec_destroy(self.run);
            _ = result::graph::destroy(self.graph);
        }
    }
}

impl Device for Driver {
    type Memory = Memory;
    type Graph = Graph;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn capability(&self) -> (u32, u32) {
        self.capability
    }

    fn processors(&self) -> u32 {
        self.processors
    }

    fn shared(&self) -> u32 {
        self.shared
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.here("cuMemGetInfo")?;
        let (free, total) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok(DeviceMemory { free: free as u64, total: total as u64 })
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        self.here("an allocation")?;
        // SAFETY: this cannot affect the host's memory. The backend writes device memory before it reads it.
        let address =
            unsafe { result::malloc_sync(bytes) }.map_err(failed(&format!("an allocation of {bytes} bytes")))?;
        Ok(Memory { span: Span { address, bytes: bytes as u64 }, stream: self.stream.clone() })
    }

    fn span(&self, memory: &Memory) -> Span {
        memory.span
    }

    fn copy_to(&self, to: Span, from: &[u8]) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.len() as u64);
        self.here("a copy to the GPU")?;
        let staging = &mut *self.staging.borrow_mut();
        for (i, piece) in from.chunks(PIECE).enumerate() {
            let pinned = &mut staging.buffers[staging.next];
            staging.next = 1 - staging.next;
            // SAFETY: the event belongs to the buffer; if it was never recorded, there is nothing to wait for.
            unsafe { result::event::synchronize(pinned.done) }.map_err(failed("a copy to the GPU"))?;
            let bytes = pinned.slice(piece.len());
            fill(bytes, piece);
            let address = to.address + (i * PIECE) as u64;
            // SAFETY: the buffer is not touched before the event signals that the copy is done. The driver checks
            // device memory.
            unsafe {
                result::memcpy_htod_async(address, bytes, self.stream.stream)
                    .and_then(|()| result::event::record(pinned.done, self.stream.stream))
            }
            .map_err(failed("a copy to the GPU"))?;
        }
        Ok(())
    }

    fn copy_from(&self, from: Span, to: &mut [u8]) -> Result<(), DeviceError> {
        assert_eq!(from.bytes, to.len() as u64);
        self.here("a copy from the GPU")?;
        let staging = &mut *self.staging.borrow_mut();
        for (i, piece) in to.chunks_mut(PIECE).enumerate() {
            let pinned = &mut staging.buffers[staging.next];
            staging.next = 1 - staging.next;
            let bytes = pinned.slice(piece.len());
            let address = from.address + (i * PIECE) as u64;
            // SAFETY: the buffer is read only after waiting for the stream. Earlier copies to the GPU that use the
            // buffer come first on the same stream.
            unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.stream) }
                .and_then(|()| self.stream.wait())
                .map_err(failed("a copy from the GPU"))?;
            piece.copy_from_slice(pinned.slice(piece.len()));
        }
        Ok(())
    }

    fn begin_copy_from(&self, from: Span, slot: usize) -> Result<(), DeviceError> {
        self.here("a copy from the GPU")?;
        let pinned = &mut self.staging.borrow_mut().slots[slot];
        let bytes = pinned.slice(from.bytes as usize);
        // SAFETY: nothing reads the slot before its event signals that the copy is done. An earlier copy to it comes
        // first on the same stream.
        unsafe {
            result::memcpy_dtoh_async(bytes, from.address, self.stream.stream)
                .and_then(|()| result::event::record(pinned.done, self.stream.stream))
        }
        .map_err(failed("a copy from the GPU"))
    }

    fn end_copy_from(&self, slot: usize, to: &mut [u8]) -> Result<(), DeviceError> {
        self.here("a copy from the GPU")?;
        let pinned = &mut self.staging.borrow_mut().slots[slot];
        // SAFETY: the event belongs to the slot.
        unsafe { result::event::synchronize(pinned.done) }.map_err(failed("a copy from the GPU"))?;
        to.copy_from_slice(pinned.slice(to.len()));
        Ok(())
    }

    fn copy(&self, to: Span, from: Span) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.bytes);
        self.here("a copy on the GPU")?;
        // SAFETY: both sides are device memory, which the driver checks.
        unsafe { result::memcpy_dtod_async(to.address, from.address, to.bytes as usize, self.stream.stream) }
            .map_err(failed("a copy on the GPU"))
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        self.here(launch.kernel)?;
        let Some(&function) = self.functions.get(launch.kernel) else {
            let cause = "there is no such kernel".to_string();
            return Err(DeviceError::Call { call: launch.kernel.to_string(), cause });
        };
        let mut args: Vec<*mut c_void> = launch.args.iter().map(|arg| arg.bytes().as_ptr().cast_mut().cast()).collect();
        let [x, y, z] = launch.grid;
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: Default::default(),
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream.stream,
            attrs: &raw mut overlap,
            numAttrs: 1,
        };
        // SAFETY: the driver copies arguments and attributes before it returns. The pointers point to the kernel's
        // parameters, in their order and with their sizes (`launch.rs`). Pointers among the parameters are device
        // addresses, which cannot reach the host's memory.
        unsafe {
            if self.overlap {
                let none = std::ptr::null_mut();
                sys::cuLaunchKernelEx(&raw const config, function, args.as_mut_ptr(), none).result()
            } else {
                let (block, shared, stream) = ((launch.block, 1, 1), launch.shared, self.stream.stream);
                result::launch_kernel(function, (x, y, z), block, shared, stream, &mut args)
            }
        }
        .map_err(failed(launch.kernel))
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        self.here("cuStreamBeginCapture")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::begin_capture(self.stream.stream, mode) }.map_err(failed("cuStreamBeginCapture"))
    }

    fn end_capture(&self) -> Result<Graph, DeviceError> {
        // SAFETY: the stream lives as long as this.
        let graph = unsafe { result::stream::end_capture(self.stream.stream) }.map_err(failed("cuStreamEndCapture"))?;
        // SAFETY: the graph was just made.
        let run = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        match run {
            Ok(run) => Ok(Graph { graph, run, stream: self.stream.clone() }),
            Err(e) => {
                // SAFETY: the graph was just made and nothing else refers to it.
                _ = unsafe { result::graph::destroy(graph) };
                Err(failed("cuGraphInstantiate")(e))
            }
        }
    }

    fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        self.here("cuGraphLaunch")?;
        // SAFETY: the graph keeps the stream alive, and both are valid.
        unsafe { result::graph::launch(graph.run, self.stream.stream) }.map_err(failed("cuGraphLaunch"))
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        self.stream.wait().map_err(failed("what was queued"))
    }
}
