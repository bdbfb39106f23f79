//! What goes wrong with a GPU.

/// What goes wrong with a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The program has no CUDA in it.
    #[error("this program was built without CUDA (cargo feature 'cuda'): run with --device cpu")]
    NotBuilt,
    /// There is nothing to run on.
    #[error("CUDA cannot be used: {cause}")]
    Missing {
        /// What is missing, and what to do.
        cause: String,
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
