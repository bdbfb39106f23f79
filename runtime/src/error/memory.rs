//! What memory is needed for, what ends the memory that can be had, and bytes as people say them.

use std::fmt;
use std::path::PathBuf;

/// What memory is needed for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryUse {
    /// A session: its keys and values, its table of angles, a step.
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
        /// Whether each of them gives logits, and not the last alone.
        all_logits: bool,
    },
    /// A copy of a file.
    Copy {
        /// The file.
        path: PathBuf,
    },
    /// Keys and values of the layers that stay on the CPU, where others are on a GPU.
    CacheOnCpu,
    /// Keys and values of the layers on a GPU, where others are on the CPU.
    CacheOnGpu,
    /// Weights on a GPU.
    WeightsOnGpu {
        /// Layers that should go there.
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

/// What ends the memory that a process can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// What the machine has free.
    Machine,
    /// What the control group, or one above it, may still take.
    ControlGroup,
    /// The limit on address space.
    AddressSpace,
    /// The limit on data.
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

/// Bytes as people say them.
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
