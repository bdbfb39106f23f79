//! AVX2 with a dot product of bytes: AVX-VNNI, which processors without AVX-512 have too. On a machine that has the
//! instruction only as part of AVX-512, the same kernels run with its AVX-512 encoding, so that they are tested there
//! too.

use super::isa::Kernels;

/// The kernels, if the machine can run them.
pub fn table() -> Option<&'static Kernels> {
    vex::table().or_else(evex::table)
}

/// With the AVX-VNNI encoding of the instruction.
mod vex {
    use super::super::avx2::{Avx2, VEX};
    use super::super::{generic, isa};
    use half::f16;

    isa::entry_points! {
        Avx2<VEX>, "avxvnni",
        features: "avxvnni,avx2,fma,f16c",
        bytes: 1, [4, 2, 1],
        codes: [4 by 1, 2 by 1, 1 by 1],
        float: 1, [6, 4, 2, 1],
        attend: 2,
    }
}

/// With the AVX-512 encoding of the instruction.
mod evex {
    use super::super::avx2::{Avx2, EVEX};
    use super::super::{generic, isa};
    use half::f16;

    isa::entry_points! {
        Avx2<EVEX>, "avxvnni",
        features: "avx512vnni,avx512vl,avx2,fma,f16c",
        bytes: 1, [4, 2, 1],
        codes: [4 by 1, 2 by 1, 1 by 1],
        float: 1, [6, 4, 2, 1],
        attend: 2,
    }
}
