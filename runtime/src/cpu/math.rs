//! The functions of the contract that IEEE does not round exactly, and its fixed tree. See `docs/arithmetic.md`.

/// Virtual lanes of a reduction along a vector.
pub const LANES: usize = 16;

/// Below this argument `exp` is 0: the smallest normal f32 and no subnormals.
pub const EXP_MIN: f32 = -87.336_54;
/// Above this argument `exp` is infinite.
pub const EXP_MAX: f32 = 88.376_26;
/// 1 / ln 2.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The upper bits of ln 2: exact when multiplied by a whole number below 2^9.
pub const LN2_HI: f32 = 0.693_359_4;
/// What is missing of ln 2.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// Coefficients of `(exp(r) - 1 - r) / r^2` on |r| <= ln 2 / 2, highest power first (Cephes `expf`).
pub const EXP_POLY: [f32; 6] = [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `exp(x)`, within two units in the last place.
///
/// `x = n ln 2 + r` with n whole; `2^n` times a polynomial in `r`, every step one rounding.
#[inline]
pub fn exp(x: f32) -> f32 {
    if x < EXP_MIN {
        return 0.0;
    }
    if x > EXP_MAX {
        return f32::INFINITY;
    }
    let n = (x * LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
    let mut p = EXP_POLY[0];
    for c in &EXP_POLY[1..] {
        p = p.mul_add(r, *c);
    }
    let p = p.mul_add(r * r, r) + 1.0;
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// The sum of the lanes: halves added to halves.
#[inline]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units() {
        let (mut worst, mut x) = (0.0f64, EXP_MIN);
        while x <= EXP_MAX {
            let (got, want) = (f64::from(exp(x)), libm::exp(f64::from(x)));
            let unit = f64::from(f32::from_bits((want as f32).to_bits() + 1) - want as f32);
            worst = worst.max((got - want).abs() / unit);
            x += 0.001_37;
        }
        assert!(worst < 2.0, "{worst}");
    }

    #[test]
    fn exp_at_its_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(EXP_MAX).is_finite() && exp(EXP_MIN) >= f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_tree_is_fixed() {
        let mut lanes = [0.0; LANES];
        lanes[0] = 1e8;
        lanes[8] = -1e8;
        lanes[1] = 1.0;
        assert_eq!(sum_lanes(lanes), 1.0);
    }
}
