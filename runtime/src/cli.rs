//! What the programs share: options of the machine, exit codes, and how errors are told. Each program includes this
//! file as a module.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nanoserve_format::{Damage, Encoding, FormatError, KeyError, NsvFile, PublicKey};
use nanoserve_runtime::cuda::Driver;
use nanoserve_runtime::cuda::device::{Device as _, DeviceError};
use nanoserve_runtime::cuda::split::{Place, Split};
use nanoserve_runtime::load::Load;
use nanoserve_runtime::{EngineOptions, KvType, RuntimeError};
use nanoserve_template::TemplateError;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the programs run models on.
pub type Backend = Split<Driver>;

/// A model that runs there.
pub type Engine = nanoserve_runtime::Engine<Backend>;

/// Where and how to run.
#[derive(Debug, Args)]
pub struct Machine {
    /// Threads [default: physical cores this process may use]
    #[arg(short, long, value_name = "N")]
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
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// With --device cuda: the last N layers and the output on the GPU, the rest on the CPU [default: all]
    #[arg(long, visible_alias = "ngl", value_name = "N")]
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
            (Device::Cpu, None) => Ok(Place::Cpu),
            (Device::Auto, None) => Ok(Place::Auto),
        }
    }

    /// Refuses what contradicts itself.
    pub fn check(&self) -> Result<()> {
        self.place().map(|_| ())
    }

    /// An engine of a file there. Where auto is the CPU, standard error says why.
    pub fn open(&self, path: &Path, options: &EngineOptions) -> Result<Engine> {
        let options = EngineOptions { overlap: self.overlap, ..options.clone() };
        let (engine, why) = Engine::open_on(path, &options, self.place()?).map_err(in_file(path))?;
        if let Some(why) = why {
            tell(format_args!("running on the CPU: {why}"));
        }
        Ok(engine)
    }
}

/// How to run, on whatever threads.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Instruction set of the kernels; all give the same bits [default: the fastest here]
    #[arg(long, value_name = "scalar|avx2|avxvnni|avx512|neon|dotprod")]
    pub isa: Option<String>,
    /// How keys and values are kept [default: f32 for a model in f32, else f16]
    #[arg(long, value_enum)]
    pub kv: Option<Kv>,
    /// How the file comes into memory
    #[arg(long, value_enum, default_value_t = LoadMode::Map, hide_possible_values = true, value_name = "map|huge")]
    pub load: LoadMode,
    /// Keep the file in memory: the system may not take its pages back (mlock)
    #[arg(long)]
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
    /// The cache type asked for, or the one that suits the file.
    pub fn kv_type(&self, file: &NsvFile) -> KvType {
        match self.kv {
            Some(Kv::F32) => KvType::F32,
            Some(Kv::F16) => KvType::F16,
            None if file.layout().tensors[0].encoding == Encoding::F32 => KvType::F32,
            None => KvType::F16,
        }
    }

    /// The engine's options, on so many threads.
    pub fn on(&self, threads: Option<usize>) -> Result<EngineOptions> {
        if threads == Some(0) {
            bail!("--threads is 0, expected at least 1");
        }
        let load = match self.load {
            LoadMode::Map => Load::Map,
            LoadMode::Huge => Load::Huge,
        };
        Ok(EngineOptions { threads, isa: self.isa.clone(), load, lock: self.lock, ..EngineOptions::default() })
    }
}

impl TryFrom<&Machine> for EngineOptions {
    type Error = anyhow::Error;

    fn try_from(m: &Machine) -> Result<EngineOptions> {
        m.place.check()?;
        m.how.on(m.threads)
    }
}

/// What must be true of a file before it runs.
#[derive(Debug, Args)]
pub struct Trust {
    /// Hold every byte of the file against its hashes before the first token
    #[arg(long)]
    pub check: bool,
    /// Run nothing but what this key (a file, or its 64 hex digits) signed; every byte is checked, as with --check
    #[arg(long, value_name = "PUB")]
    pub require_signer: Option<PathBuf>,
}

/// A file whose bytes are not the ones that were written.
#[derive(Debug, thiserror::Error)]
#[error("{}: damaged: {}", path.display(), list(damage))]
struct Damaged {
    path: PathBuf,
    damage: Vec<Damage>,
}

fn list(damage: &[Damage]) -> String {
    let parts = damage.iter().map(|d| format!("{} bytes {}..{}", d.what, d.range.start, d.range.end));
    parts.collect::<Vec<_>>().join("; ")
}

#[allow(dead_code, reason = "only nanoserve-run asks")]
impl Trust {
    /// An engine of a file that is all that was asked for. Another signer's is refused before anything is loaded.
    pub fn open(&self, path: &Path, place: Where, options: &EngineOptions) -> Result<Engine> {
        let signer = self.require_signer.as_deref().map(PublicKey::read).transpose()?;
        let signed = |file: &NsvFile| match signer {
            Some(key) => file.layout().require_signer(&key).with_context(|| path.display().to_string()),
            None => Ok(()),
        };
        if signer.is_some() {
            signed(&NsvFile::open(path).map_err(RuntimeError::from).map_err(in_file(path))?)?;
        }
        let engine = place.open(path, options)?;
        // Of the bytes that run: another file may have come to the path's place meanwhile.
        signed(engine.file())?;
        if self.check || signer.is_some() {
            let damage = engine.file().check();
            if !damage.is_empty() {
                bail!(Damaged { path: path.to_path_buf(), damage });
            }
        }
        Ok(engine)
    }
}

/// What a program does before it maps a model: should the file lose its bytes meanwhile, that ends in words as well.
pub fn begin(model: &Path) {
    nanoserve_format::signal::install(&format!(
        "error: {}: bytes of the mapped file are gone (SIGBUS): was it truncated or overwritten while it was in use, or \
         did its disk fail?",
        model.display()
    ));
}

/// Tells on standard error; when nobody listens there any more, there is nobody to tell.
pub fn tell(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says which file a bad file's error is about; errors of the system say it themselves.
pub fn in_file(path: &Path) -> impl Fn(RuntimeError) -> anyhow::Error {
    move |e| match &e {
        RuntimeError::Format(f) if !matches!(f, FormatError::Io { .. }) => {
            let text = format!("{}: {f}", path.display());
            anyhow::Error::new(e).context(text)
        }
        _ => e.into(),
    }
}

/// Where an engine runs, for a person.
#[allow(dead_code, reason = "not every program says it")]
pub fn device_name(engine: &Engine) -> String {
    match engine.backend().on_gpu() {
        Some(gpu) => gpu.device().name(),
        None => engine.backend().on_cpu().kernels().name.to_string(),
    }
}

/// The exit code of a program; errors are told on standard error.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    match error.downcast_ref::<RuntimeError>() {
        // Ours say what caused them: the outermost text is enough.
        Some(_) => tell(format_args!("error: {error}")),
        None => tell(format_args!("error: {error:#}")),
    }
    let machine = |e: &RuntimeError| {
        matches!(e, RuntimeError::Threads { .. } | RuntimeError::Allocation { .. })
            || matches!(e, RuntimeError::Device(DeviceError::Call { .. } | DeviceError::LeftOut { .. }))
            || matches!(e, RuntimeError::Format(FormatError::Io { action, .. }) if *action != "open")
    };
    let key = |e: &KeyError| match e {
        KeyError::Write { source, .. } => !matches!(source.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound),
        other => matches!(other, KeyError::Random(_)),
    };
    let thread = |e: &TemplateError| matches!(e, TemplateError::Thread { .. });
    let failed = error.downcast_ref().is_some_and(thread)
        || error.is::<Damaged>()
        || error.downcast_ref().is_some_and(machine)
        || error.downcast_ref().is_some_and(key);
    // 1 is a check's answer or the machine's fault, 2 the input's.
    ExitCode::from(if failed { 1 } else { 2 })
}

/// Whoever read our output went away: no fault of ours; any other failed write is the machine's.
#[allow(dead_code, reason = "not every program streams")]
pub fn broken_pipe(e: std::io::Error) -> Result<ExitCode> {
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        return Ok(ExitCode::SUCCESS);
    }
    tell(format_args!("error: cannot write to standard output: {e}"));
    Ok(ExitCode::FAILURE)
}
