//! AVX2 with a dot product of bytes: AVX-VNNI, which processors without AVX-512 have too. Where a machine has it in
//! AVX-512 alone, the same kernels run with that encoding of it, so that they are tested there as well.

use super::isa::Kernels;

/// The kernels, where the machine can run them.
pub fn table() -> Option<&'static Kernels> {
    vex::table().or_else(evex::table)
}

/// The instruction of AVX-VNNI.
mod vex {
    use super::super::avx2::{Avx2, VEX};
    use super::super::{generic, isa};
    use half::f16;

    isa::entry_points! {
        Avx2<VEX>, "avxvnni",
        features: "avxvnni,avx2,fma,f16c",
        bytes: 1, [4, 2, 1],
        float: 1, [6, 4, 2, 1],
        attend: 2,
    }
}

/// The instruction of AVX-512.
mod evex {
    use super::super::avx2::{Avx2, EVEX};
    use super::super::{generic, isa};
    use half::f16;

    isa::entry_points! {
        Avx2<EVEX>, "avxvnni",
        features: "avx512vnni,avx512vl,avx2,fma,f16c",
        bytes: 1, [4, 2, 1],
        float: 1, [6, 4, 2, 1],
        attend: 2,
    }
}
