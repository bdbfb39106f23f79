//! Random numbers that are the same on every machine, and can be had in any order.

/// What the state grows by.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64, the generator of Steele, Lea and Flood (2014), as in Vigna's reference `splitmix64.c`.
///
/// The state is one 64-bit number that grows by a constant; the output is that number, mixed. So any number of a seed's
/// sequence can be had without those before it. Every seed is a good one.
#[derive(Clone, Copy, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The sequence of a seed, at its beginning.
    pub fn new(seed: u64) -> Self {
        SplitMix64 { state: seed }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// The number that comes `place` numbers behind the next one.
    pub fn number(&self, place: u64) -> u64 {
        mix(self.state.wrapping_add(place.wrapping_add(1).wrapping_mul(GAMMA)))
    }

    /// That number as a multiple of 2^-53 from 0 to below 1: its upper 53 bits.
    pub fn unit(&self, place: u64) -> f64 {
        (self.number(place) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// The generator's last step: each bit of the result depends on every bit of `x`. A good end for a hash.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_numbers() {
        let mut random = SplitMix64::new(1_477_776_061_723_855_037);
        let published = [
            1_985_237_415_132_408_290,
            2_979_275_885_539_914_483,
            13_511_426_838_097_143_398,
            8_488_337_342_461_049_707,
            15_141_737_807_933_549_159,
        ];
        assert_eq!([0, 1, 2, 3, 4].map(|place| random.number(place)), published);
        assert_eq!([0; 5].map(|_| random.next_u64()), published);
        let random = SplitMix64::new(0);
        assert_eq!(random.number(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.unit(0), (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / 9_007_199_254_740_992.0);
    }

    #[test]
    fn any_place_has_the_number_that_comes_there_one_by_one() {
        for seed in [0, 1, 42, u64::MAX, GAMMA] {
            let (first, mut random) = (SplitMix64::new(seed), SplitMix64::new(seed));
            let expected: Vec<u64> = (0..1000).map(|_| random.next_u64()).collect();
            for place in (0..1000).rev() {
                assert_eq!(first.number(place), expected[place as usize], "seed {seed} place {place}");
            }
        }
    }
}
