//! What goes wrong with a GPU.

use nanoserve_format::ErrorKind;

/// What goes wrong with a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The program has no CUDA in it.
    #[error("this program was built without CUDA (cargo feature 'cuda')")]
    NotBuilt,
    /// There is nothing to run on.
    #[error("CUDA cannot be used: {cause}{}", remedy.map_or(String::new(), |remedy| format!(": {remedy}")))]
    Missing {
        /// What is missing.
        cause: String,
        /// What would bring it, where that is known.
        remedy: Option<&'static str>,
    },
    /// A call failed.
    #[error("{call} failed on the GPU: {cause}")]
    Call {
        /// What was called; of a launch, the kernel's name.
        call: String,
        /// The driver's answer.
        cause: String,
    },
    /// A buffer is read that a fused operation did not fill.
    #[error("rows at {address:#x} were left out by a fused operation and are read: a fault of this program")]
    LeftOut {
        /// Where they are.
        address: u64,
    },
}

impl DeviceError {
    /// Whether a GPU that is there failed, or it was asked for what it cannot do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            DeviceError::NotBuilt | DeviceError::Missing { .. } => ErrorKind::Input,
            DeviceError::Call { .. } | DeviceError::LeftOut { .. } => ErrorKind::Machine,
        }
    }
}
