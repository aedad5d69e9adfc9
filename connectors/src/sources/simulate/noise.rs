//! Noise that is a function: of a seed, a name and a step, and of nothing else.
//!
//! So what a sensor reads at some time is the same in every run, wherever the
//! run began. Only operations that IEEE 754 rounds alike everywhere are used
//! (no `cos`, no `ln` of some C library), so machines agree to the last bit.

/// Identifies one stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) fn new(seed: u64) -> Stream {
        Stream(permute(seed ^ 0x53_61_6e_67_61_6d))
    }

    /// The stream of something that has a name.
    pub(crate) fn of(self, name: &str) -> Stream {
        // FNV-1a; `permute` does the mixing.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Stream(permute(self.0 ^ permute(hash)))
    }

    /// 64 random bits for a step.
    #[inline]
    pub(crate) fn bits(self, step: i64) -> u64 {
        permute(self.0 ^ permute(step as u64))
    }

    /// Evenly spread over 0 to 1, without 1.
    #[inline]
    pub(crate) fn uniform(self, step: i64) -> f64 {
        (self.bits(step) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Bell-shaped with mean 0 and deviation 1, never beyond 4.9: the sum of
    /// eight even numbers of 16 bits.
    #[inline]
    pub(crate) fn normal(self, step: i64) -> f64 {
        let first = self.bits(step);
        let sum: u64 = sixteens(first) + sixteens(permute(first));
        // Mean 8·65535/2, variance 8·(65536²-1)/12.
        (sum as f64 - 262_140.0) / 53_509.970_829
    }

    /// A slow walk with mean 0 and deviation 1 that forgets within about
    /// `memory` steps: value noise in five octaves, the slower the larger.
    pub(crate) fn walk(self, step: i64, memory: i64) -> f64 {
        let mut sum = 0.0;
        let mut variance = 0.0;
        let mut period = memory.max(1) * 2;
        for octave in 0..5 {
            let weight = period as f64;
            let stream = Stream(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(octave + 1)));
            let before = step.div_euclid(period);
            let part = step.rem_euclid(period) as f64 / period as f64;
            let blend = part * part * (3.0 - 2.0 * part);
            let mixed = stream.normal(before) * (1.0 - blend) + stream.normal(before + 1) * blend;
            let deviation = ((1.0 - blend) * (1.0 - blend) + blend * blend).sqrt();
            sum += weight.sqrt() * (mixed / deviation);
            variance += weight;
            if period == 1 {
                break;
            }
            period = (period / 2).max(1);
        }
        sum / variance.sqrt()
    }

    /// Whether a step lies in an episode of `length` steps, when one begins with
    /// this `probability` a step. Time is cut in blocks as long as an episode;
    /// each begins at most one, which may reach into the next.
    pub(crate) fn episode(self, step: i64, probability: f64, length: i64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        let length = length.max(1);
        let chance = (probability * length as f64).min(1.0);
        let block = step.div_euclid(length);
        [block - 1, block].into_iter().any(|block| {
            if self.uniform(block) >= chance {
                return false;
            }
            let offset = (permute(self.bits(block)) % length as u64) as i64;
            let begin = block * length + offset;
            (begin..begin + length).contains(&step)
        })
    }
}

/// The output permutation of PCG (RXS-M-XS, 64 bits) after one step of its
/// generator: every bit of `state` reaches every bit of the result.
#[inline]
fn permute(state: u64) -> u64 {
    let state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let word = ((state >> ((state >> 59) + 5)) ^ state).wrapping_mul(12_605_985_483_714_917_081);
    let word = (word >> 43) ^ word;
    // A second round: consecutive states must not resemble each other.
    let word = word
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let word = ((word >> ((word >> 59) + 5)) ^ word).wrapping_mul(12_605_985_483_714_917_081);
    (word >> 43) ^ word
}

#[inline]
fn sixteens(bits: u64) -> u64 {
    (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48)
}

/// The cosine of a part of a full turn, to about nine digits.
pub(crate) fn cosine_of_turn(turn: f64) -> f64 {
    let part = turn - turn.floor();
    // Fold to a quarter turn around 0 or around a half.
    let (fold, sign) = match part {
        part if part <= 0.25 => (part, 1.0),
        part if part <= 0.75 => (part - 0.5, -1.0),
        part => (part - 1.0, 1.0),
    };
    let angle = fold * std::f64::consts::TAU;
    let square = angle * angle;
    let terms = [
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
        1.0,
    ];
    sign * terms.iter().fold(0.0, |sum, term| sum * square + term)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: impl Iterator<Item = f64>) -> (f64, f64) {
        let values: Vec<f64> = values.collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn the_numbers_never_change() {
        let stream = Stream::new(1).of("K1").of("ph");
        assert_eq!([stream.bits(0), stream.bits(1), stream.bits(-1)], PINNED);
    }

    /// Deployments and their tests rely on these.
    const PINNED: [u64; 3] = [
        14_939_854_602_476_948_078,
        17_840_184_582_965_334_540,
        14_148_629_610_901_653_002,
    ];

    #[test]
    fn normal_and_walk_have_deviation_one() {
        let stream = Stream::new(42).of("x");
        let (mean, deviation) = moments((0..100_000).map(|step| stream.normal(step)));
        assert!(
            mean.abs() < 0.02 && (deviation - 1.0).abs() < 0.02,
            "{mean} {deviation}"
        );
        let (mean, deviation) = moments((0..2_000_000).map(|step| stream.walk(step, 50)));
        assert!(
            mean.abs() < 0.05 && (deviation - 1.0).abs() < 0.05,
            "{mean} {deviation}"
        );
        // Neighbours are close, far steps are not.
        let (_, near) = moments((0..100_000).map(|step| stream.walk(step + 1, 50) - stream.walk(step, 50)));
        let (_, far) = moments((0..100_000).map(|step| stream.walk(step + 1000, 50) - stream.walk(step, 50)));
        assert!(near < 0.3 && far > 1.2, "{near} {far}");
    }

    #[test]
    fn streams_are_independent() {
        let one = Stream::new(1);
        let (mean, _) = moments((0..100_000).map(|step| one.of("a").normal(step) * one.of("b").normal(step)));
        assert!(mean.abs() < 0.02, "{mean}");
        let (mean, _) = moments((0..100_000).map(|step| one.normal(step) * one.normal(step + 1)));
        assert!(mean.abs() < 0.02, "{mean}");
    }

    #[test]
    fn episodes_come_as_often_and_last_as_long() {
        let stream = Stream::new(3).of("spike");
        let inside: Vec<bool> = (0..1_000_000).map(|step| stream.episode(step, 0.001, 20)).collect();
        let share = inside.iter().filter(|inside| **inside).count() as f64 / inside.len() as f64;
        assert!((share - 0.02).abs() < 0.003, "{share}");
        let shortest = inside
            .split(|inside| !inside)
            .skip(1)
            .map(<[bool]>::len)
            .filter(|length| *length > 0)
            .min();
        assert_eq!(shortest, Some(20));
        assert!(!(0..1000).any(|step| stream.episode(step, 0.0, 20)));
        assert!((0..1000).all(|step| stream.episode(step, 1.0, 1)));
    }

    #[test]
    fn cosine() {
        for step in -2000..2000 {
            let turn = f64::from(step) / 777.0;
            let error = (cosine_of_turn(turn) - (turn * std::f64::consts::TAU).cos()).abs();
            assert!(error < 1e-7, "{turn} {error}");
        }
    }
}
