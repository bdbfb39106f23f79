//! Functions of the arithmetic contract that IEEE 754 does not define exactly, and the contract's fixed tree for sums.
//! See `docs/arithmetic.md`.

/// Virtual lanes of a reduction along a vector.
pub const LANES: usize = 16;

/// Below this argument `exp` is 0: results go down to the smallest normal f32, and there are no subnormals.
pub const EXP_MIN: f32 = -87.336_54;
/// Above this argument `exp` is infinite.
pub const EXP_MAX: f32 = 88.376_26;
/// 1 / ln 2.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// The upper bits of ln 2: exact when multiplied by a whole number below 2^9.
pub const LN2_HI: f32 = 0.693_359_4;
/// The rest of ln 2.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// Coefficients of `(exp(r) - 1 - r) / r^2` on |r| <= ln 2 / 2, highest power first (Cephes `expf`).
pub const EXP_POLY: [f32; 6] = [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// From this value of `2|x|` on, `tanh(x)` is 1.
pub const TANH_MAX: f32 = 20.0;
/// `-2 sqrt(2 / pi)`, and the same times 0.044715: `gelu(x) = x / (1 + exp(x * (GELU[0] + GELU[1] x^2)))`.
pub const GELU: [f32; 2] = [-1.595_769, -7.135_481_6e-2];

/// `exp(x)`, within two units in the last place.
///
/// `x = n ln 2 + r` with integer n; the result is `2^n` times a polynomial in `r`, each step rounded once.
#[inline]
pub fn exp(x: f32) -> f32 {
    if x < EXP_MIN {
        return 0.0;
    }
    if x > EXP_MAX {
        return f32::INFINITY;
    }
    let (p, power) = exp_parts(x);
    (p + 1.0) * power
}

/// `(p, 2^n)` with `exp(x) = 2^n (1 + p)`; near zero, p has only its own rounding error.
#[inline]
fn exp_parts(x: f32) -> (f32, f32) {
    let n = (x * LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
    let mut p = EXP_POLY[0];
    for c in &EXP_POLY[1..] {
        p = p.mul_add(r, *c);
    }
    (p.mul_add(r * r, r), f32::from_bits(((n as i32 + 127) as u32) << 23))
}

/// `tanh(x)`, within three units in the last place: `q / (q + 2)` with `q = exp(2|x|) - 1`, and the sign of `x`.
#[inline]
pub fn tanh(x: f32) -> f32 {
    let y = 2.0 * x.abs();
    let (p, power) = exp_parts(if TANH_MAX < y { TANH_MAX } else { y });
    let q = p.mul_add(power, power - 1.0);
    let t = q / (q + 2.0);
    if x < 0.0 { -t } else { t }
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, as its equal `x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715
/// x^3)))`.
#[inline]
pub fn gelu(x: f32) -> f32 {
    x / (1.0 + exp(x * GELU[1].mul_add(x * x, GELU[0])))
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

    /// The largest error of `f` over -`end`..`end`, in units in the last place of `exact`.
    fn worst(end: f32, f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let (mut worst, mut x) = (0.0f64, 1e-6);
        while x < end {
            for x in [x, -x] {
                let (got, want) = (f64::from(f(x)), exact(f64::from(x)));
                let unit = f64::from(f32::from_bits((want as f32).to_bits() + 1) - want as f32).abs();
                worst = worst.max((got - want).abs() / unit);
            }
            x *= 1.000_7;
        }
        worst
    }

    #[test]
    fn tanh_is_within_three_units() {
        let worst = worst(15.0, tanh, libm::tanh);
        assert!(worst < 3.0, "{worst}");
        for (x, y) in [(0.0, 0.0), (-0.0, 0.0), (10.0, 1.0), (-1e30, -1.0), (f32::INFINITY, 1.0), (-40.0, -1.0)] {
            assert_eq!(tanh(x), y, "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    /// Below -4 the result is so small that rounding errors of the exponent matter.
    #[test]
    fn gelu_is_the_published_formula() {
        let exact = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x * (libm::exp(inner) / (libm::exp(inner) + libm::exp(-inner)))
        };
        let worst = worst(4.0, gelu, exact);
        assert!(worst < 24.0, "{worst}");
        for x in [5.0f32, 9.0, 1e4, 1e20, f32::MAX] {
            assert!((gelu(x) - x).abs() <= x * 1e-6, "{x}");
            assert!(gelu(-x).abs() < 3e-6, "{x}: {}", gelu(-x));
        }
        assert_eq!(gelu(0.0), 0.0);
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
