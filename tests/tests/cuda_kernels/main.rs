//! Compares the CUDA kernels with plain loops in f64, on the emulator, or with NANOSERVE_KERNELS=cuda on a GPU. Without
//! g++ or without a GPU, the tests say so and skip.
//!
//! On the emulator each launch runs four times: with threads, warps and blocks in their order, reversed, and shuffled,
//! and with asynchronous copies at once and at the last moment. On a GPU it runs twice. The bits must be the same.
//! Outputs hold NaN beforehand. A failing test shows its launches; the last one is at fault.
//!
//! A fault on a GPU ends its context for the whole process, so there each test should run by itself, as scripts/gpu.sh
//! does.

mod attention;
mod choosing;
mod matmul;
mod matvec;
mod rates;
mod rows;

use bytemuck::Pod;
use nanoserve_format::{Encoding, PANEL_ROWS, panel};
use nanoserve_runtime::cuda::Driver;
use nanoserve_runtime::cuda::device::{Arg, Device, DeviceError, Launch, Span};
use nanoserve_tests::SplitMix64;
use nanoserve_tests::emulator::Emulator;

/// A device that runs kernels; ends the calling test if there is none.
macro_rules! gpu {
    () => {
        match $crate::Gpu::new() {
            Some(gpu) => gpu,
            None => return,
        }
    };
}
pub(crate) use gpu;

/// A device that runs kernels, with short methods for tests.
enum Gpu {
    Emulator(Emulator),
    Cuda(Driver),
}

/// Memory of either device.
struct Memory {
    span: Span,
    /// Frees the memory when dropped.
    _owner: Box<dyn std::fmt::Debug>,
}

impl Memory {
    fn of<D: Device<Memory: 'static>>(device: &D, bytes: usize) -> Result<Memory, DeviceError> {
        let memory = device.allocate(bytes)?;
        Ok(Memory { span: device.span(&memory), _owner: Box::new(memory) })
    }
}

/// Calls the same method on either device.
macro_rules! on {
    ($gpu:expr, $device:ident => $call:expr) => {
        match $gpu {
            Gpu::Emulator($device) => $call,
            Gpu::Cuda($device) => $call,
        }
    };
}

impl Gpu {
    fn new() -> Option<Self> {
        if std::env::var_os("NANOSERVE_KERNELS").is_none_or(|value| value != "cuda") {
            return Emulator::new().map(Gpu::Emulator);
        }
        let opened = Driver::open();
        opened.map(Gpu::Cuda).map_err(|why| eprintln!("skipped: {why}")).ok()
    }

    /// The orders that a launch runs in.
    fn orders(&self) -> &'static [u32] {
        match self {
            Gpu::Emulator(_) => &[0, 1, 2, 12_345],
            // A GPU chooses the order itself; run twice.
            Gpu::Cuda(_) => &[0, 0],
        }
    }

    /// Memory with these values.
    fn put<T: Pod>(&self, values: &[T]) -> Memory {
        let memory = on!(self, device => Memory::of(device, size_of_val(values))).unwrap();
        self.set(&memory, bytemuck::cast_slice(values));
        memory
    }

    /// Memory for `n` f32, all NaN.
    fn room(&self, n: usize) -> Memory {
        self.put(&vec![f32::NAN; n])
    }

    /// Overwrites the bytes of a memory.
    fn set(&self, memory: &Memory, bytes: &[u8]) {
        on!(self, device => device.copy_to(memory.span, bytes)).unwrap();
    }

    /// All values of a memory.
    fn get<T: Pod>(&self, memory: &Memory) -> Vec<T> {
        let mut values = vec![T::zeroed(); memory.span.bytes as usize / size_of::<T>()];
        on!(self, device => device.copy_from(memory.span, bytemuck::cast_slice_mut(&mut values))).unwrap();
        values
    }

    /// Runs a kernel and waits for it, so that its errors are returned here.
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        on!(self, device => device.launch(launch).and_then(|()| device.synchronise()))
    }

    /// Runs a kernel once in each order, each time from the same contents of the memories it changes. The bits must be
    /// the same.
    fn run(
        &self,
        kernel: &'static str,
        [x, y]: [usize; 2],
        block: usize,
        shared: usize,
        args: &[Arg],
        out: &[&Memory],
    ) {
        let launch = Launch {
            kernel,
            grid: [x as u32, y as u32, 1],
            block: block as u32,
            shared: shared as u32,
            args: args.to_vec(),
            touches: Vec::new(),
        };
        println!("{kernel}, {x} x {y} blocks: {}", sizes(args));
        let before: Vec<Vec<u8>> = out.iter().map(|memory| self.get(memory)).collect();
        let mut first: Option<Vec<Vec<u8>>> = None;
        for &order in self.orders() {
            out.iter().zip(&before).for_each(|(memory, bytes)| self.set(memory, bytes));
            if let Gpu::Emulator(emulator) = self {
                emulator.set_order(order);
            }
            self.launch(&launch).unwrap_or_else(|error| panic!("order {order}: {error}"));
            let now: Vec<Vec<u8>> = out.iter().map(|memory| self.get(memory)).collect();
            match &first {
                None => first = Some(now),
                Some(first) => assert!(*first == now, "{kernel}: other bits in order {order}"),
            }
        }
    }
}

/// The arguments of a launch as text, to tell launches of a kernel apart. Of pointers it says only whether they are
/// null.
fn sizes(args: &[Arg]) -> String {
    let one = |arg: &Arg| match arg {
        Arg::Pointer(0) => "null".to_string(),
        Arg::Pointer(_) => "*".to_string(),
        Arg::Int(n) => n.to_string(),
        Arg::Long(n) => n.to_string(),
        Arg::Float(x) => x.to_string(),
        Arg::Parts(parts) => format!("{:?}", &parts.rows[..parts.n as usize]),
    };
    args.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The address of a memory as an argument.
fn at(memory: &Memory) -> Arg {
    Arg::Pointer(memory.span.address)
}

const NULL: Arg = Arg::Pointer(0);

fn int(n: usize) -> Arg {
    Arg::Int(i32::try_from(n).unwrap())
}

fn long(n: usize) -> Arg {
    Arg::Long(n as i64)
}

fn float(x: f32) -> Arg {
    Arg::Float(x)
}

/// `n` roughly normal numbers with this standard deviation.
fn bell(random: &mut SplitMix64, n: usize, deviation: f32) -> Vec<f32> {
    (0..n).map(|_| random.bell() * deviation).collect()
}

/// Asserts that every value is within `atol + rtol * |want|` and none is NaN.
fn close(what: &str, got: &[f32], want: &[f64], atol: f64, rtol: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(got) - want).abs();
        assert!(off <= atol + rtol * want.abs(), "{what}: element {i} is {got}, expected {want}");
    }
}

/// A random matrix `[rows, cols]` in an encoding: its panels, and their decoded values.
fn matrix(random: &mut SplitMix64, encoding: Encoding, rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
    let values = bell(random, rows * cols, 0.05);
    let panel_bytes = encoding.panel_bytes(cols).unwrap();
    let mut panels = vec![0; rows.div_ceil(PANEL_ROWS) * panel_bytes];
    for (rows, out) in values.chunks(PANEL_ROWS * cols).zip(panels.chunks_exact_mut(panel_bytes)) {
        panel::pack(encoding, cols, rows, out).unwrap();
    }
    let mut kept = vec![0.0; rows * cols];
    panel::unpack_rows(encoding, cols, &panels, 0, &mut kept);
    (panels, kept)
}

/// `w x + bias`, in f64.
fn product(w: &[f32], x: &[f64], bias: Option<&[f32]>) -> Vec<f64> {
    let rows = w.chunks_exact(x.len()).enumerate();
    rows.map(|(r, row)| {
        let sum: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        sum + bias.map_or(0.0, |bias| f64::from(bias[r]))
    })
    .collect()
}

/// `x / sqrt(mean(x^2) + eps) * weight`, in f64.
fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
    let r = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, w)| f64::from(*x) * r * f64::from(*w)).collect()
}

fn silu(g: f64) -> f64 {
    g / (1.0 + (-g).exp())
}

fn gelu(g: f64) -> f64 {
    g / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh())
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Tests that the emulator finds the faults it is there to find.
mod emulator {
    use super::*;

    /// An emulator; ends the test if there is none. A GPU is not used, because these faults would end its context.
    macro_rules! emulator {
        () => {
            match gpu!() {
                gpu @ Gpu::Emulator(_) => gpu,
                Gpu::Cuda(_) => return eprintln!("skipped: this is about the emulator"),
            }
        };
    }

    fn refusal(gpu: &Gpu, launch: Launch) -> String {
        gpu.launch(&launch).unwrap_err().to_string()
    }

    fn scale(x: &Memory, n: usize) -> Launch {
        let args = vec![at(x), long(n), float(2.0)];
        Launch { kernel: "scale", grid: [1, 1, 1], block: 256, shared: 0, args, touches: Vec::new() }
    }

    #[test]
    fn memory_behind_an_allocation_faults() {
        let gpu = emulator!();
        let x = gpu.room(7);
        gpu.launch(&scale(&x, 7)).unwrap();
        let error = refusal(&gpu, scale(&x, 9));
        assert!(error.contains("scale, block 0,0,0, thread 8") && error.contains("allocation of 28"), "{error}");
    }

    /// Accesses up to the next multiple of 16 bytes do not fault, but writes there are detected.
    #[test]
    fn a_write_just_behind_an_allocation_shows() {
        let gpu = emulator!();
        let (x, out) = (gpu.put(&[1.0f32; 8]), gpu.room(7));
        let args = vec![at(&x), at(&x), at(&out), int(1), int(8), float(1e-5)];
        let launch = Launch { kernel: "rms_norm", grid: [1, 1, 1], block: 256, shared: 32, args, touches: Vec::new() };
        let error = refusal(&gpu, launch);
        assert!(error.contains("written behind its 28 bytes"), "{error}");
    }

    #[test]
    fn arguments_blocks_and_names_are_the_kernels() {
        let gpu = emulator!();
        let x = gpu.room(4);
        let error = refusal(&gpu, Launch { args: vec![at(&x), int(4), float(1.0)], ..scale(&x, 4) });
        assert!(error.contains("[8, 4, 4] bytes, expected [8, 8, 4]"), "{error}");
        let error = refusal(&gpu, Launch { block: 128, ..scale(&x, 4) });
        assert!(error.contains("128 threads; it is made for 256"), "{error}");
        assert!(refusal(&gpu, Launch { kernel: "none", ..scale(&x, 4) }).contains("no such kernel"));
    }

    /// Too little shared memory faults as well.
    #[test]
    fn too_little_shared_memory_faults() {
        let gpu = emulator!();
        let (x, w) = (gpu.room(2000), gpu.room(1000));
        let args = vec![at(&x), at(&w), at(&x), int(2), int(1000), float(1e-5)];
        let launch = Launch { kernel: "rms_norm", grid: [2, 1, 1], block: 256, shared: 0, args, touches: Vec::new() };
        assert!(refusal(&gpu, launch).contains("0 bytes of shared memory"));
    }
}
