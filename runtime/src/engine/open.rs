//! Opening a file on this machine: which kernels, how many threads, which device.

use super::{Engine, load};
use crate::cpu::pool::Pool;
use crate::cpu::threads::default_threads;
use crate::cpu::{CpuBackend, isa};
use crate::cuda::Driver;
use crate::cuda::split::{Place, Split};
use crate::error::{Result, RuntimeError};
use load::Load;
use std::path::Path;
use std::sync::Arc;

/// Where and how to run. More fields will come: start with the default and set what is to be otherwise.
///
/// ```
/// use nanoserve_runtime::EngineOptions;
///
/// let mut options = EngineOptions::default();
/// options.threads = Some(4);
/// options.isa = Some("avx2".into());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Number of threads; None means one for each physical core that the process may use.
    pub threads: Option<usize>,
    /// The instruction set's name; None means the best one available.
    pub isa: Option<String>,
    /// How the file's bytes get into memory.
    pub load: Load,
    /// Lock the file in memory: the system may not reclaim its pages.
    pub lock: bool,
    /// On a GPU, launches may overlap: see [`Driver::overlapping`].
    pub overlap: bool,
}

impl Engine<CpuBackend> {
    /// Opens a file and binds it to the CPU. What is not in the system's page cache is read in the background.
    ///
    /// # Errors
    /// When the file is bad, or the options ask for something this machine does not have.
    pub fn open(path: impl AsRef<Path>, options: &EngineOptions) -> Result<Self> {
        let file = load::open(path.as_ref(), options.load, options.lock)?;
        let kernels = isa::choose(options.isa.as_deref())?;
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(default_threads))?);
        Self::with_backend(file, CpuBackend::new(kernels, pool))
    }
}

impl Engine<Split<Driver>> {
    /// Opens a file and binds it to the device or devices that `place` names. If [`Place::Auto`] falls back to the CPU,
    /// the second value says why.
    ///
    /// # Errors
    /// When the file is bad, or the options ask for something this machine does not have.
    pub fn open_on(
        path: impl AsRef<Path>,
        options: &EngineOptions,
        place: Place,
    ) -> Result<(Self, Option<RuntimeError>)> {
        let file = load::open(path.as_ref(), options.load, options.lock)?;
        let kernels = isa::choose(options.isa.as_deref())?;
        let pool = Arc::new(Pool::new(options.threads.unwrap_or_else(default_threads))?);
        let layers = file.spec().n_layers;
        let on_gpu = |wanted: usize| -> Result<Self> {
            let device = Driver::open().map(|driver| driver.overlapping(options.overlap));
            let cpu = CpuBackend::new(kernels, pool.clone());
            Self::with_backend(file.clone(), Split::opened(cpu, device, layers - wanted.min(layers))?)
        };
        let on_cpu = || Self::with_backend(file.clone(), Split::cpu(CpuBackend::new(kernels, pool.clone())));
        match place {
            Place::Cpu | Place::Gpu(Some(0)) => Ok((on_cpu()?, None)),
            Place::Gpu(wanted) => Ok((on_gpu(wanted.unwrap_or(layers))?, None)),
            Place::Auto => match on_gpu(layers) {
                Ok(engine) => Ok((engine, None)),
                Err(why @ (RuntimeError::Device(_) | RuntimeError::Memory { .. })) => Ok((on_cpu()?, Some(why))),
                Err(e) => Err(e),
            },
        }
    }
}
