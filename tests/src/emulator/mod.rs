//! Runs the CUDA kernels on a CPU: their own text, compiled by g++ with `emulator.h` in front, behind the runtime's
//! [`Device`].
//!
//! It detects accesses outside an allocation, barriers that not all threads reach, misaligned vectors and arguments of
//! the wrong size, and reports them as an error of the launch. Results that depend on the order of blocks, warps and
//! lanes, or on when an asynchronous copy happens, change with [`Emulator::set_order`].
//!
//! It does not emulate incoherent caches, memory order between blocks, or time.

use libloading::Library;
use nanoserve_runtime::cuda::device::{Device, DeviceError, DeviceMemory, Launch, SLOT_BYTES, SLOTS, Span};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A kernel, as its text declares it.
#[derive(Debug)]
struct Kernel {
    index: usize,
    /// Bytes of each argument.
    arguments: Vec<usize>,
}

/// The compiled kernels, loaded once per process.
#[derive(Debug)]
struct Kernels {
    library: Library,
    by_name: HashMap<String, Kernel>,
}

type Allocate = unsafe extern "C" fn(usize, usize) -> *mut u8;
type Free = unsafe extern "C" fn(*mut u8) -> c_int;
type Run =
    unsafe extern "C" fn(usize, *const u32, *const u32, usize, *const *const c_void, u32, usize) -> *const c_char;

/// A device whose kernels run on the CPU.
#[derive(Debug)]
pub struct Emulator {
    kernels: &'static Kernels,
    /// Its number. A launch checks the ends of its own emulator's allocations: others may run beside it.
    owner: usize,
    order: Cell<u32>,
    /// Launches since a capture began.
    capture: RefCell<Option<Vec<Launch>>>,
    slots: RefCell<[[u8; SLOT_BYTES]; SLOTS]>,
}

/// Memory of the emulator. It ends at the end of a page, so accesses past it fault.
#[derive(Debug)]
pub struct EmulatedMemory {
    kernels: &'static Kernels,
    span: Span,
}

impl Emulator {
    /// An emulator. Without g++ to compile the kernels, prints so and returns None.
    ///
    /// # Panics
    /// When the kernels do not compile.
    pub fn new() -> Option<Self> {
        static KERNELS: OnceLock<Option<Kernels>> = OnceLock::new();
        let kernels = KERNELS.get_or_init(|| compile().map(|library| load(&library))).as_ref();
        if kernels.is_none() {
            eprintln!("skipped: no g++ here to compile the CUDA kernels with");
        }
        let (capture, slots) = (RefCell::default(), RefCell::new([[0xff; SLOT_BYTES]; SLOTS]));
        // 0 is the owner of shared memory.
        static OWNERS: AtomicUsize = AtomicUsize::new(1);
        let owner = OWNERS.fetch_add(1, Ordering::Relaxed);
        Some(Emulator { kernels: kernels?, owner, order: Cell::new(0), capture, slots })
    }

    /// Sets how blocks, warps and lanes take turns. 0: in their order, with asynchronous copies at once. 1: in reverse
    /// order; more: shuffled with that seed; both with asynchronous copies at the last moment. Results must not depend
    /// on it.
    pub fn set_order(&self, order: u32) {
        self.order.set(order);
    }

    /// Names of all kernels.
    pub fn names(&self) -> Vec<&str> {
        self.kernels.by_name.keys().map(String::as_str).collect()
    }

    fn run(&self, launch: &Launch) -> Result<(), DeviceError> {
        let failed = |cause: String| DeviceError::Call { call: launch.kernel.into(), cause };
        let kernel = self.kernels.by_name.get(launch.kernel).ok_or_else(|| failed("there is no such kernel".into()))?;
        let sizes: Vec<usize> = launch.args.iter().map(|arg| arg.bytes().len()).collect();
        if sizes != kernel.arguments {
            return Err(failed(format!("arguments of {sizes:?} bytes, expected {:?}", kernel.arguments)));
        }
        // A kernel reads its arguments at their alignment.
        let words: Vec<Vec<u64>> = launch
            .args
            .iter()
            .map(|arg| {
                let mut words = vec![0u64; arg.bytes().len().div_ceil(8)];
                bytemuck::cast_slice_mut(&mut words)[..arg.bytes().len()].copy_from_slice(arg.bytes());
                words
            })
            .collect();
        let arguments: Vec<*const c_void> = words.iter().map(|words| words.as_ptr().cast()).collect();
        let block = [launch.block, 1, 1];
        // SAFETY: emu_launch has this type (emulator.cpp). The kernel gets the right number of arguments, each of the
        // right size. It reads and writes what they point to, like a kernel on a GPU; faults come back as an error.
        let answer = unsafe {
            let run = self.kernels.library.get::<Run>(b"emu_launch").unwrap();
            let answer = run(
                kernel.index,
                launch.grid.as_ptr(),
                block.as_ptr(),
                launch.shared as usize,
                arguments.as_ptr(),
                self.order.get(),
                self.owner,
            );
            (!answer.is_null()).then(|| CStr::from_ptr(answer).to_string_lossy().into_owned())
        };
        answer.map_or(Ok(()), |cause| Err(failed(cause)))
    }
}

impl EmulatedMemory {
    /// Its address and length.
    pub fn span(&self) -> Span {
        self.span
    }
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        // SAFETY: emu_free has this type; the memory came from emu_allocate and is freed once.
        let damaged = unsafe {
            let free = self.kernels.library.get::<Free>(b"emu_free").unwrap();
            free(self.span.address as *mut u8)
        };
        assert!(damaged == 0 || std::thread::panicking(), "{:?} was written behind its end", self.span);
    }
}

impl Device for Emulator {
    type Memory = EmulatedMemory;
    type Graph = Vec<Launch>;

    fn name(&self) -> String {
        "emulator".into()
    }

    fn capability(&self) -> (u32, u32) {
        (9, 0)
    }

    fn processors(&self) -> u32 {
        4
    }

    fn shared(&self) -> u32 {
        227 << 10
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        Ok(DeviceMemory { free: 4 << 30, total: 4 << 30 })
    }

    fn allocate(&self, bytes: usize) -> Result<EmulatedMemory, DeviceError> {
        assert!(self.capture.borrow().is_none(), "memory is allocated while a graph is captured");
        // SAFETY: emu_allocate has this type.
        let address = unsafe {
            let allocate = self.kernels.library.get::<Allocate>(b"emu_allocate").unwrap();
            allocate(bytes, self.owner)
        };
        if address.is_null() {
            return Err(DeviceError::Call { call: "allocation".into(), cause: format!("no {bytes} bytes") });
        }
        let span = Span { address: address as u64, bytes: bytes as u64 };
        Ok(EmulatedMemory { kernels: self.kernels, span })
    }

    fn span(&self, memory: &EmulatedMemory) -> Span {
        memory.span
    }

    fn copy_to(&self, to: Span, from: &[u8]) -> Result<(), DeviceError> {
        assert!(self.capture.borrow().is_none(), "a copy to the device while a graph is captured");
        assert_eq!(to.bytes, from.len() as u64, "bytes of a copy to the device");
        // SAFETY: a span lies in memory of this emulator, which belongs to this process; accesses outside fault.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.address as *mut u8, from.len()) };
        Ok(())
    }

    fn copy_from(&self, from: Span, to: &mut [u8]) -> Result<(), DeviceError> {
        assert!(self.capture.borrow().is_none(), "a copy from the device while a graph is captured");
        assert_eq!(from.bytes, to.len() as u64, "bytes of a copy from the device");
        // SAFETY: as in copy_to.
        unsafe { std::ptr::copy_nonoverlapping(from.address as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn begin_copy_from(&self, from: Span, slot: usize) -> Result<(), DeviceError> {
        self.copy_from(from, &mut self.slots.borrow_mut()[slot][..from.bytes as usize])
    }

    fn end_copy_from(&self, slot: usize, to: &mut [u8]) -> Result<(), DeviceError> {
        to.copy_from_slice(&self.slots.borrow()[slot][..to.len()]);
        Ok(())
    }

    fn copy(&self, to: Span, from: Span) -> Result<(), DeviceError> {
        assert_eq!(to.bytes, from.bytes, "bytes of a copy on the device");
        // SAFETY: as in copy_to; copy allows an overlap.
        unsafe { std::ptr::copy(from.address as *const u8, to.address as *mut u8, from.bytes as usize) };
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        match &mut *self.capture.borrow_mut() {
            Some(launches) => launches.push(launch.clone()),
            None => return self.run(launch),
        }
        Ok(())
    }

    fn begin_capture(&self) -> Result<(), DeviceError> {
        let before = self.capture.replace(Some(Vec::new()));
        assert!(before.is_none(), "a capture begins in another");
        Ok(())
    }

    fn end_capture(&self) -> Result<Vec<Launch>, DeviceError> {
        Ok(self.capture.take().expect("a capture ends that did not begin"))
    }

    fn replay(&self, graph: &Vec<Launch>) -> Result<(), DeviceError> {
        graph.iter().try_for_each(|launch| self.run(launch))
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Options for g++. -Bsymbolic is needed because a kernel may have the name of a function of the program or its
/// libraries. A kernel reads its thread's state all the time: -ftls-model makes that one instruction.
const OPTIONS: [&str; 11] = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-Wl,-Bsymbolic",
    "-ftls-model=initial-exec",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
];

/// An option for the instructions that this machine has beyond the oldest of its kind. They round f16 and compute in rows;
/// without contraction (above), results are the same.
fn machine_option() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
    {
        return Some("-march=x86-64-v3");
    }
    None
}

/// The path of the kernels' library, next to the test's program. Compiles it if the kernels' text is new; None without
/// g++.
fn compile() -> Option<PathBuf> {
    let emulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/emulator");
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src/cuda/kernels");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&kernels).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.extend(["emulator.h", "emulator.cpp"].map(|name| emulator.join(name)));
    files.sort();
    let mut hasher = blake3::Hasher::new();
    let options: Vec<&str> = OPTIONS.into_iter().chain(machine_option()).collect();
    options.iter().for_each(|option| _ = hasher.update(option.as_bytes()));
    for file in &files {
        hasher.update(&std::fs::read(file).unwrap());
    }
    let folder = std::env::current_exe().unwrap().parent().unwrap().join("emulator");
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join(format!("{}.so", &hasher.finalize().to_hex()[..16]));
    if library.exists() {
        return Some(library);
    }
    // Other tests may compile at the same time, so only a complete file gets the final name.
    let unfinished = tempfile::Builder::new().prefix("kernels").tempfile_in(&folder).unwrap();
    let output = Command::new("g++")
        .args(&options)
        .arg(format!("-DKERNELS=\"{}\"", kernels.join("kernels.cu").display()))
        .arg(emulator.join("emulator.cpp"))
        .arg("-o")
        .arg(unfinished.path())
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    assert!(output.status.success(), "g++: {}", String::from_utf8_lossy(&output.stderr));
    unfinished.persist(&library).unwrap();
    Some(library)
}

/// Loads the library and lists its kernels.
fn load(library: &Path) -> Kernels {
    type Name = unsafe extern "C" fn(usize) -> *const c_char;
    type Count = unsafe extern "C" fn(usize) -> usize;
    type Bytes = unsafe extern "C" fn(usize, usize) -> usize;
    // SAFETY: the library is ours (emulator.cpp); its constructors fill a table. The functions have these types, and
    // are called only with kernels and arguments that exist.
    unsafe {
        let library = Library::new(library).unwrap();
        let name = library.get::<Name>(b"emu_name").unwrap();
        let count = library.get::<Count>(b"emu_arguments").unwrap();
        let bytes = library.get::<Bytes>(b"emu_argument_bytes").unwrap();
        let mut by_name = HashMap::new();
        for index in 0.. {
            let text = name(index);
            if text.is_null() {
                break;
            }
            let arguments = (0..count(index)).map(|argument| bytes(index, argument)).collect();
            by_name.insert(CStr::from_ptr(text).to_str().unwrap().to_owned(), Kernel { index, arguments });
        }
        Kernels { library, by_name }
    }
}
