//! The kernels for each encoding, with the properties that determine their launches.
//!
//! One `match` selects the table. A new encoding needs a table of its kernels' names and properties here, and the
//! kernels.

use super::launch::{NARROW, WIDE};
use nanoserve_format::Encoding;

/// The kernels of an encoding.
#[derive(Debug)]
pub struct EncodingKernels {
    /// Looks up rows of the embedding.
    pub embed: &'static str,
    /// For one token through matrices.
    pub matvec: Matvec,
    /// For many tokens through a matrix.
    pub matmul: Matmul,
}

/// The kernels for one token.
#[derive(Debug)]
pub struct Matvec {
    /// Up to three matrices.
    pub plain: &'static str,
    /// Gate and up with silu.
    pub silu: &'static str,
    /// Gate and up with gelu in its tanh form.
    pub gelu_tanh: &'static str,
    /// Columns that a warp takes in one step. The input is padded to a multiple of it.
    pub step: usize,
    /// True if the input is also stored in bytes with scales.
    pub bytes: bool,
}

/// The kernels for many tokens.
#[derive(Debug)]
pub enum Matmul {
    /// Takes f32 rows and does not use tensor cores.
    Floats(&'static str),
    /// Takes rows in halves and uses tensor cores.
    Halves {
        /// The form of the halves.
        form: HalvesForm,
        /// For few tokens.
        narrow: HalvesKernel,
        /// For more tokens.
        wide: HalvesKernel,
    },
}

/// How rows are converted to f16 for a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalvesForm {
    /// True if the rounding errors are stored too, also in f16: weights that are not rounded to bytes are multiplied by
    /// activations that are not rounded, as on the CPU.
    pub rest: bool,
    /// True if columns are ordered such that a thread's share of 16 columns is one 4-byte word in each row.
    pub grouped: bool,
}

/// A kernel that takes rows in halves.
#[derive(Debug)]
pub struct HalvesKernel {
    /// Its name.
    pub name: &'static str,
    /// Rows and tokens in a block's tile.
    pub tile: usize,
    /// Bytes of shared memory.
    pub shared: usize,
}

/// The kernels of an encoding; None if a GPU cannot run it.
pub fn find(encoding: Encoding) -> Option<&'static EncodingKernels> {
    match encoding {
        Encoding::F32 => Some(&F32),
        Encoding::F16 => Some(&F16),
        Encoding::Q8 => Some(&Q8),
        Encoding::Codes(_) => None,
    }
}

/// The kernels of the encoding of a weight that a device holds.
pub fn kernels(encoding: Encoding) -> &'static EncodingKernels {
    find(encoding).expect("a device takes no weights that it has no kernels for")
}

/// True if many tokens go through matrices of this encoding on tensor cores.
pub fn on_tensor_cores(encoding: Encoding) -> bool {
    find(encoding).is_some_and(|kernels| matches!(kernels.matmul, Matmul::Halves { .. }))
}

static F32: EncodingKernels = EncodingKernels {
    embed: "embed_f32",
    matvec: Matvec {
        plain: "matvec_f32",
        silu: "matvec_gated_silu_f32",
        gelu_tanh: "matvec_gated_gelu_f32",
        step: 32,
        bytes: false,
    },
    matmul: Matmul::Floats("matmul_f32"),
};

static F16: EncodingKernels = EncodingKernels {
    embed: "embed_f16",
    matvec: Matvec {
        plain: "matvec_f16",
        silu: "matvec_gated_silu_f16",
        gelu_tanh: "matvec_gated_gelu_f16",
        step: 64,
        bytes: false,
    },
    matmul: Matmul::Halves {
        form: HalvesForm { rest: true, grouped: false },
        narrow: HalvesKernel { name: "matmul_narrow_f16", tile: NARROW, shared: 73_728 },
        wide: HalvesKernel { name: "matmul_f16", tile: WIDE, shared: 98_304 },
    },
};

static Q8: EncodingKernels = EncodingKernels {
    embed: "embed_q8",
    matvec: Matvec {
        plain: "matvec_q8",
        silu: "matvec_gated_silu_q8",
        gelu_tanh: "matvec_gated_gelu_q8",
        step: 128,
        bytes: true,
    },
    matmul: Matmul::Halves {
        form: HalvesForm { rest: false, grouped: true },
        narrow: HalvesKernel { name: "matmul_narrow_q8", tile: NARROW, shared: 37_632 },
        wide: HalvesKernel { name: "matmul_q8", tile: WIDE, shared: 100_352 },
    },
};

#[cfg(test)]
mod tests {
    use super::super::launch::KERNELS;
    use super::*;
    use nanoserve_format::InputForm;

    #[test]
    fn an_encoding_has_kernels_of_its_own() {
        let mut seen = Vec::new();
        for encoding in Encoding::ALL {
            let Some(EncodingKernels { embed, matvec, matmul }) = find(encoding) else { continue };
            let mut names = vec![*embed, matvec.plain, matvec.silu, matvec.gelu_tanh];
            match matmul {
                Matmul::Floats(name) => names.push(name),
                Matmul::Halves { narrow, wide, .. } => names.extend([narrow.name, wide.name]),
            }
            assert!(names.iter().all(|name| KERNELS.contains(name)), "{encoding}: {names:?}");
            // One token's input is rounded exactly if the CPU rounds it.
            assert_eq!(matvec.bytes, encoding.input() == InputForm::Bytes32, "{encoding}");
            seen.extend(names);
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all, "{seen:?}");
    }
}
