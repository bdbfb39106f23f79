//! What ends the memory that can be had, and bytes as people say them.

use std::fmt;

/// What ends the memory that a process can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
