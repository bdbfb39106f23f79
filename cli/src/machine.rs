//! Options that several programs share: where a model runs, and how.

use crate::console::{in_file, tell};
use crate::{hints, values};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use nanoserve_format::NsvFile;
use nanoserve_runtime::cuda::Driver;
use nanoserve_runtime::cuda::device::Device as _;
use nanoserve_runtime::cuda::split::{Place, Split};
use nanoserve_runtime::engine::load::Load;
use nanoserve_runtime::{EngineOptions, KvType};
use std::path::Path;

/// The backend of all programs: the CPU, the GPU, or both.
pub type Backend = Split<Driver>;

/// An engine on that backend.
pub type Engine = nanoserve_runtime::Engine<Backend>;

/// Where and how to run.
#[derive(Debug, Args)]
pub struct Machine {
    /// Threads [default: physical cores this process may use]
    #[arg(short, long, value_name = "N", env = "NANOSERVE_THREADS", value_parser = values::threads)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub how: How,
}

/// Where to run.
#[derive(Clone, Copy, Debug, Args)]
pub struct Where {
    /// Where to run: auto is the GPU if it can, else the CPU
    #[arg(long, value_enum, default_value_t = Device::Cpu, env = "NANOSERVE_DEVICE")]
    pub device: Device,
    /// With --device cuda: the last N layers and the output on the GPU, the rest on the CPU [default: all]
    #[arg(long, visible_alias = "ngl", value_name = "N", env = "NANOSERVE_GPU_LAYERS")]
    pub gpu_layers: Option<usize>,
    /// Let a kernel begin while the one before it ends, on GPUs since Hopper
    #[arg(long)]
    pub overlap: bool,
}

impl Where {
    fn place(&self) -> Result<Place> {
        match (self.device, self.gpu_layers) {
            (Device::Cuda, layers) => Ok(Place::Gpu(layers)),
            (_, Some(_)) => bail!("--gpu-layers needs --device cuda"),
            (Device::Cpu, None) if self.overlap => bail!("--overlap needs --device cuda or auto"),
            (Device::Cpu, None) => Ok(Place::Cpu),
            (Device::Auto, None) => Ok(Place::Auto),
        }
    }

    /// Refuses options that contradict each other.
    pub fn check(&self) -> Result<()> {
        self.place().map(|_| ())
    }

    /// Opens a file on the chosen device. If `auto` takes the CPU, standard error says why.
    pub fn open(&self, path: &Path, options: &EngineOptions) -> Result<Engine> {
        let mut options = options.clone();
        options.overlap = self.overlap;
        let (engine, why) = Engine::open_on(path, &options, self.place()?).map_err(in_file(path))?;
        if let Some(why) = why {
            tell(format_args!("running on the CPU: {why}{}", hints::runtime(&why)));
        }
        Ok(engine)
    }
}

/// How to run, on whatever threads.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Instruction set of the kernels; all give the same bits [default: the fastest here]
    #[arg(long, value_name = "scalar|avx2|avxvnni|avx512|neon|dotprod", env = "NANOSERVE_ISA")]
    pub isa: Option<String>,
    /// How keys and values are kept [default: f32 for a model in f32, else f16]
    #[arg(long, value_enum, env = "NANOSERVE_KV")]
    pub kv: Option<Kv>,
    /// How the file comes into memory
    #[arg(long, value_enum, default_value_t = LoadMode::Map, hide_possible_values = true, value_name = "map|huge", env = "NANOSERVE_LOAD")]
    pub load: LoadMode,
    /// Keep the file in memory: the system may not take its pages back (mlock)
    #[arg(long, env = "NANOSERVE_LOCK")]
    pub lock: bool,
}

/// How a file comes into memory, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// Mapped, shared with other processes.
    Map,
    /// Copied into huge pages.
    Huge,
}

/// A device by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU if there is one.
    Auto,
}

/// A cache type by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// As computed.
    F32,
    /// Rounded: half the memory.
    F16,
}

impl How {
    /// The cache type that was asked for. The default is f32 if none of the file's matrices is rounded, else f16.
    pub fn kv_type(&self, file: &NsvFile) -> KvType {
        match self.kv {
            Some(Kv::F32) => KvType::F32,
            Some(Kv::F16) => KvType::F16,
            None if file.layout().encodings().is_exact() => KvType::F32,
            None => KvType::F16,
        }
    }

    /// The engine's options with this number of threads; None takes the default.
    pub fn on(&self, threads: Option<usize>) -> Result<EngineOptions> {
        let mut options = EngineOptions::default();
        options.threads = threads;
        options.isa.clone_from(&self.isa);
        options.load = match self.load {
            LoadMode::Map => Load::Map,
            LoadMode::Huge => Load::Huge,
        };
        options.lock = self.lock;
        Ok(options)
    }
}

impl TryFrom<&Machine> for EngineOptions {
    type Error = anyhow::Error;

    fn try_from(m: &Machine) -> Result<EngineOptions> {
        m.place.check()?;
        m.how.on(m.threads)
    }
}

/// The name of the device that an engine runs on: the GPU's, or that of the CPU's kernels.
pub fn device_name(engine: &Engine) -> String {
    match engine.backend().on_gpu() {
        Some(gpu) => gpu.device().name(),
        None => engine.backend().on_cpu().kernels().name.to_string(),
    }
}
