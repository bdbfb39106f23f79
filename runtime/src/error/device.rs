//! Errors of a GPU.

use nanoserve_format::{Encoding, ErrorKind};

/// Why a GPU cannot be used, or what failed on it.
///
/// ```
/// use nanoserve_format::ErrorKind;
/// use nanoserve_runtime::DeviceError;
///
/// // A GPU that is not there was asked for in vain; one that fails is the machine's fault.
/// assert_eq!(DeviceError::NotBuilt.kind(), ErrorKind::Input);
/// let failed = DeviceError::Call { call: "cuMemAlloc".into(), cause: "out of memory".into() };
/// assert_eq!(failed.kind(), ErrorKind::Machine);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The program was built without CUDA.
    #[error("this program was built without CUDA (cargo feature 'cuda')")]
    NotBuilt,
    /// CUDA, or a GPU that could be used, is missing.
    #[error("CUDA cannot be used: {cause}{}", remedy.map_or(String::new(), |remedy| format!(": {remedy}")))]
    Missing {
        /// What is missing.
        cause: String,
        /// How to get it, if that is known.
        remedy: Option<&'static str>,
    },
    /// There are no kernels for the encoding of a weight.
    #[error("tensor '{tensor}' is stored in {encoding}, which GPUs cannot run: there are no kernels for it")]
    Encoding {
        /// The first such tensor that the GPU would hold.
        tensor: String,
        /// Its encoding.
        encoding: Encoding,
    },
    /// A call of the driver, or a kernel, failed.
    #[error("{call} failed on the GPU: {cause}")]
    Call {
        /// The function that was called; for a launch, the kernel's name.
        call: String,
        /// The driver's answer.
        cause: String,
    },
    /// A buffer was read that a fused operation had left unfilled.
    #[error("rows at {address:#x} were left out by a fused operation and are read: a fault of this program")]
    LeftOut {
        /// The device address of the rows.
        address: u64,
    },
}

impl DeviceError {
    /// Whether a GPU failed (the machine's fault), or was asked for where there is none (the input's).
    pub fn kind(&self) -> ErrorKind {
        match self {
            DeviceError::NotBuilt | DeviceError::Missing { .. } | DeviceError::Encoding { .. } => ErrorKind::Input,
            DeviceError::Call { .. } | DeviceError::LeftOut { .. } => ErrorKind::Machine,
        }
    }
}
