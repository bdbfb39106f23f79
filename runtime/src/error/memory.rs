//! What memory is needed for, what limits it, and sizes in MB and GB.

use std::fmt;
use std::path::PathBuf;

/// What memory is needed for.
///
/// ```
/// use nanoserve_runtime::MemoryUse;
///
/// let what = MemoryUse::Context { positions: 4096, element: 2 };
/// assert_eq!(what.to_string(), "a context of 4096 positions, keys and values in f16,");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryUse {
    /// A session: its keys and values, its table of RoPE angles, the buffers of a step.
    Context {
        /// Positions of the session.
        positions: usize,
        /// Bytes of one element of a key or value: 4 for f32, 2 for f16.
        element: usize,
    },
    /// Buffers of a step.
    Step {
        /// Tokens that run together.
        tokens: usize,
        /// Whether every token gives logits, not only the last.
        all_logits: bool,
    },
    /// A copy of a file.
    Copy {
        /// The file.
        path: PathBuf,
    },
    /// Keys and values of the layers on the CPU, when other layers are on a GPU.
    CacheOnCpu,
    /// Keys and values of the layers on a GPU, when other layers are on the CPU.
    CacheOnGpu,
    /// Weights on a GPU.
    WeightsOnGpu {
        /// Layers that should be on the GPU.
        layers: usize,
        /// Layers of the model.
        of: usize,
    },
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            MemoryUse::Context { positions, element } => {
                write!(f, "a context of {positions} positions, keys and values in f{},", 8 * element)
            }
            MemoryUse::Step { tokens, .. } => write!(f, "a step of {tokens} tokens"),
            MemoryUse::Copy { path } => write!(f, "a copy of {}", path.display()),
            MemoryUse::CacheOnCpu => f.write_str("keys and values of the layers on the CPU"),
            MemoryUse::CacheOnGpu => f.write_str("keys and values of the layers on the GPU"),
            MemoryUse::WeightsOnGpu { layers, of } => write!(f, "{layers} layers of {of} on the GPU"),
        }
    }
}

/// What limits the memory of a process.
///
/// ```
/// use nanoserve_runtime::Limit;
///
/// // Whether it helps to end other programs:
/// let shared = |limit| matches!(limit, Limit::Machine | Limit::Device);
/// assert!(shared(Limit::Machine) && !shared(Limit::AddressSpace));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// What the machine has free.
    Machine,
    /// What the control group, or one above it, can still take.
    ControlGroup,
    /// The limit on address space, `ulimit -v`.
    AddressSpace,
    /// The limit on data, `ulimit -d`.
    Data,
    /// What the GPU has free.
    Device,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Limit::Machine => "what the machine has free",
            Limit::ControlGroup => "the limit of its control group",
            Limit::AddressSpace => "the limit on address space, ulimit -v",
            Limit::Data => "the limit on data, ulimit -d",
            Limit::Device => "what the GPU has free",
        })
    }
}

/// A number of bytes, shown in MB or GB.
pub(crate) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            u64::MAX => write!(f, "more than 18 EB"),
            bytes if bytes < 1_000_000_000 => write!(f, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(f, "{:.2} GB", bytes as f64 / 1e9),
        }
    }
}
