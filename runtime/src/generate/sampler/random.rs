//! Random numbers that can be had in any order.

/// What the state grows by.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64, the generator of Steele, Lea and Flood (2014), as in Vigna's reference `splitmix64.c`.
///
/// The state is one 64-bit number that grows by a constant; the output is that number, mixed. So any number of a seed's
/// sequence can be had without those before it. Every seed is a good one.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitMix64 {
    seed: u64,
}

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The number at this place of the sequence, the first of which is 0.
    pub fn number(&self, place: u64) -> u64 {
        let mut z = self.seed.wrapping_add(place.wrapping_add(1).wrapping_mul(GAMMA));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A multiple of 2^-53 from 0 to below 1: the upper 53 bits of a number.
    pub fn unit(&self, place: u64) -> f64 {
        (self.number(place) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As the reference has it, one number after the other.
    pub struct OneByOne(pub u64);

    impl OneByOne {
        pub fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub fn next_unit(&mut self) -> f64 {
            (self.next() >> 11) as f64 / 9_007_199_254_740_992.0
        }
    }

    #[test]
    fn generator_gives_the_published_numbers() {
        let random = SplitMix64::new(1_477_776_061_723_855_037);
        let published = [
            1_985_237_415_132_408_290,
            2_979_275_885_539_914_483,
            13_511_426_838_097_143_398,
            8_488_337_342_461_049_707,
            15_141_737_807_933_549_159,
        ];
        assert_eq!([0, 1, 2, 3, 4].map(|place| random.number(place)), published);
        let random = SplitMix64::new(0);
        assert_eq!(random.number(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.unit(0), (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / 9_007_199_254_740_992.0);
    }

    #[test]
    fn any_place_has_the_number_that_comes_there_one_by_one() {
        for seed in [0, 1, 42, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
            let mut sequence = OneByOne(seed);
            let expected: Vec<f64> = (0..1000).map(|_| sequence.next_unit()).collect();
            for place in (0..1000).rev() {
                assert_eq!(SplitMix64::new(seed).unit(place), expected[place as usize], "seed {seed} place {place}");
            }
        }
    }
}
