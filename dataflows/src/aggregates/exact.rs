//! Exact sums of doubles, rounded once when read.
//!
//! A sum is kept as the unevaluated sum of two doubles, `hi + lo`, as long as
//! that is exact (Shewchuk, *Adaptive Precision Floating-Point Arithmetic and
//! Fast Robust Geometric Predicates*, 1997); otherwise the group moves to a
//! fixed-point register wide enough for every sum of 2^63 doubles. Either way
//! the state equals the mathematical sum, so the order of updates, and whatever
//! came and went in between, leave no trace in the result.

use std::collections::HashMap;

/// Exact sums of finite doubles, one for each group.
#[derive(Default)]
pub(super) struct ExactSums {
    hi: Vec<f64>,
    lo: Vec<f64>,
    wide: HashMap<u32, Box<Register>>,
}

impl ExactSums {
    pub(super) fn resize(&mut self, groups: usize) {
        if self.hi.len() < groups {
            self.hi.resize(groups, 0.0);
            self.lo.resize(groups, 0.0);
        }
    }

    /// Adds a finite double.
    #[inline]
    pub(super) fn add(&mut self, group: u32, value: f64) {
        let at = group as usize;
        let (hi, lo) = (self.hi[at], self.lo[at]);
        let (sum, error) = two_sum(hi, value);
        let (rest, lost) = two_sum(error, lo);
        let (new_hi, new_lo) = two_sum(sum, rest);
        // NaN marks groups that live in the register; it also fails this test, as does an overflow.
        if lost == 0.0 && new_lo.is_finite() && new_hi.is_finite() {
            self.hi[at] = new_hi;
            self.lo[at] = new_lo;
        } else {
            self.add_slowly(group, value);
        }
    }

    /// Adds `count` times a finite double.
    pub(super) fn add_times(&mut self, group: u32, value: f64, count: i64) {
        match count {
            1 => self.add(group, value),
            -1 => self.add(group, -value),
            _ => self.register(group).add(value, count),
        }
    }

    #[cold]
    fn add_slowly(&mut self, group: u32, value: f64) {
        let at = group as usize;
        if !self.hi[at].is_nan() {
            let (sum, error) = two_sum(self.hi[at], value);
            let (rest, lost) = two_sum(error, self.lo[at]);
            let (top, middle) = two_sum(sum, rest);
            let (middle, bottom) = two_sum(middle, lost);
            if bottom == 0.0 && top.is_finite() {
                (self.hi[at], self.lo[at]) = two_sum(top, middle);
                return;
            }
        }
        self.register(group).add(value, 1);
    }

    fn register(&mut self, group: u32) -> &mut Register {
        let at = group as usize;
        let (hi, lo) = (self.hi[at], self.lo[at]);
        self.hi[at] = f64::NAN;
        self.wide.entry(group).or_insert_with(|| {
            let mut register = Box::<Register>::default();
            register.add(hi, 1);
            register.add(lo, 1);
            register
        })
    }

    /// Returns the sum, rounded to nearest even.
    pub(super) fn sum(&self, group: u32) -> f64 {
        self.pair(group).0
    }

    /// Returns the sum as its nearest double and the nearest double to what is left.
    pub(super) fn pair(&self, group: u32) -> (f64, f64) {
        let (hi, lo) = (self.hi[group as usize], self.lo[group as usize]);
        if !hi.is_nan() {
            return (hi + 0.0, lo);
        }
        let mut register = self.exactly(group);
        let hi = register.rounded();
        if !hi.is_finite() {
            return (hi, 0.0);
        }
        register.add(hi, -1);
        (hi, register.rounded())
    }

    fn exactly(&self, group: u32) -> Register {
        if let Some(register) = self.wide.get(&group) {
            return (**register).clone();
        }
        let mut register = Register::default();
        register.add(self.hi[group as usize], 1);
        register.add(self.lo[group as usize], 1);
        register
    }

    pub(super) fn reset(&mut self, group: u32) {
        if let Some(hi) = self.hi.get_mut(group as usize) {
            if hi.is_nan() {
                self.wide.remove(&group);
            }
            *hi = 0.0;
            self.lo[group as usize] = 0.0;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        (self.hi.capacity() + self.lo.capacity()) * 8 + self.wide.len() * (size_of::<Register>() + 24)
    }
}

/// Returns Σx² − (Σx)²/n, by one fixed sequence of operations; 0 where all values are one.
pub(super) fn spread(sums: &ExactSums, squares: &ExactSums, group: u32, count: i64) -> f64 {
    if count == 1 {
        return 0.0;
    }
    let square = squares.pair(group);
    let sum = sums.pair(group);
    let spread = co_spread(sum, sum, square, count);
    // Where nearly everything cancels, what is left may be rounding: look at the sums themselves.
    if spread > square.0 * 2f64.powi(-90) || !spread.is_finite() {
        return spread;
    }
    sums.exactly(group).spread(&squares.exactly(group), count)
}

/// Returns Σxy − Σx·Σy/n from sums in double-double, by one fixed sequence of operations.
pub(super) fn co_spread(
    (left, left_low): (f64, f64),
    (right, right_low): (f64, f64),
    (products, products_low): (f64, f64),
    count: i64,
) -> f64 {
    let count = count as f64;
    // mean = right / n, in double-double.
    let mean = right / count;
    let mean_low = (f64::mul_add(-mean, count, right) + right_low) / count;
    // product = left * mean, in double-double.
    let product = left * mean;
    let product_low = f64::mul_add(left, mean, -product) + (left * mean_low + left_low * mean);
    let difference = products - product;
    difference + (products_low - product_low)
}

/// Knuth's error-free addition: `a + b` is exactly the sum of the two results.
#[inline]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let from_b = sum - a;
    let from_a = sum - from_b;
    (sum, (a - from_a) + (b - from_b))
}

/// The lowest bit of the smallest subnormal.
const LOWEST_EXPONENT: i32 = -1074;
/// 2098 bits of doubles, 63 of counts, and the sign.
const LIMBS: usize = 35;

/// A two's-complement number in units of 2^-1074.
#[derive(Clone)]
struct Register([u64; LIMBS]);

impl Default for Register {
    fn default() -> Self {
        Register([0; LIMBS])
    }
}

impl Register {
    fn add(&mut self, value: f64, count: i64) {
        if value == 0.0 || count == 0 {
            return;
        }
        let bits = value.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, shift) = match exponent {
            0 => (fraction, 0),
            _ => (fraction | (1 << 52), (exponent - 1) as usize),
        };
        let mut product = i128::from(mantissa) * i128::from(count);
        if value.is_sign_negative() {
            product = -product;
        }
        // 117 bits moved by at most 63 need three limbs and the sign.
        let (limb, bit) = (shift / 64, shift % 64);
        let sign = if product < 0 { u64::MAX } else { 0 };
        let (low, high) = (product as u64, (product >> 64) as u64);
        let parts = if bit == 0 {
            [low, high, sign]
        } else {
            [
                low << bit,
                (high << bit) | (low >> (64 - bit)),
                (sign << bit) | (high >> (64 - bit)),
            ]
        };
        let mut carry = false;
        for (i, word) in self.0[limb..].iter_mut().enumerate() {
            let part = parts.get(i).copied().unwrap_or(sign);
            if i >= parts.len() && part == if carry { u64::MAX } else { 0 } {
                // The rest would add nothing: all ones with a carry, or zero without.
                return;
            }
            let (sum, first) = word.overflowing_add(part);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = first | second;
        }
    }

    /// Returns the nearest double, ties to even; infinite past the largest one.
    fn rounded(&self) -> f64 {
        let negative = self.0[LIMBS - 1] >> 63 == 1;
        let mut magnitude = self.0;
        if negative {
            let mut carry = true;
            for limb in &mut magnitude {
                let (value, overflow) = (!*limb).overflowing_add(u64::from(carry));
                *limb = value;
                carry = overflow;
            }
        }
        let Some(top_limb) = magnitude.iter().rposition(|limb| *limb != 0) else {
            return 0.0;
        };
        let top = top_limb * 64 + 63 - magnitude[top_limb].leading_zeros() as usize;
        let bit = |at: usize| magnitude[at / 64] >> (at % 64) & 1;
        // The 53 bits from `top` down; fewer where the number is subnormal.
        let lowest = top.saturating_sub(52);
        let mut mantissa = 0u64;
        for at in (lowest..=top).rev() {
            mantissa = mantissa << 1 | bit(at);
        }
        if lowest > 0 && bit(lowest - 1) == 1 {
            let below = lowest - 1;
            let sticky = (0..below / 64).any(|limb| magnitude[limb] != 0)
                || magnitude[below / 64] & ((1u64 << (below % 64)) - 1) != 0;
            if sticky || mantissa & 1 == 1 {
                mantissa += 1;
            }
        }
        // Both factors are exact, and so is the product: at most 53 bits in range, or an overflow to infinity.
        let scale = lowest as i32 + LOWEST_EXPONENT;
        let value = if scale < -1022 {
            mantissa as f64 * f64::from_bits(1) * 2f64.powi(lowest as i32)
        } else if scale > 971 {
            f64::INFINITY
        } else {
            mantissa as f64 * 2f64.powi(scale)
        };
        if negative { -value } else { value }
    }
}

impl Register {
    fn magnitude(&self) -> [u64; LIMBS] {
        let mut magnitude = self.0;
        if self.0[LIMBS - 1] >> 63 == 1 {
            let mut carry = true;
            for limb in &mut magnitude {
                let (value, overflow) = (!*limb).overflowing_add(u64::from(carry));
                *limb = value;
                carry = overflow;
            }
        }
        magnitude
    }

    /// Returns (n·`squares` − `self`²) / n: the difference is exact. Nothing where it is negative.
    fn spread(&self, squares: &Register, count: i64) -> f64 {
        const WIDE: usize = 2 * LIMBS;
        let sum = self.magnitude();
        // In units of 2^-2148.
        let mut square = [0u64; WIDE];
        for (i, &left) in sum.iter().enumerate().filter(|(_, limb)| **limb != 0) {
            let mut carry = 0u128;
            for (place, &right) in square[i..].iter_mut().zip(&sum) {
                let product = u128::from(left) * u128::from(right) + u128::from(*place) + carry;
                *place = product as u64;
                carry = product >> 64;
            }
            if let Some(place) = square.get_mut(i + LIMBS) {
                *place = carry as u64;
            }
        }
        // n times the squares, in the same units: 1,074 bits further up.
        let (limbs, bits) = (-LOWEST_EXPONENT as usize / 64, -LOWEST_EXPONENT as u32 % 64);
        let mut total = [0u64; WIDE];
        let mut carry = 0u128;
        for (i, limb) in squares.0.iter().copied().chain([0, 0]).enumerate() {
            let product = u128::from(limb) * u128::from(count.unsigned_abs()) + carry;
            carry = product >> 64;
            let shifted = u128::from(product as u64) << bits;
            total[limbs + i] |= shifted as u64;
            total[limbs + i + 1] |= (shifted >> 64) as u64;
        }
        let mut borrow = false;
        for (left, right) in total.iter_mut().zip(square) {
            let (value, first) = left.overflowing_sub(right);
            let (value, second) = value.overflowing_sub(u64::from(borrow));
            *left = value;
            borrow = first | second;
        }
        let Some(top) = total.iter().rposition(|limb| *limb != 0).filter(|_| !borrow) else {
            return 0.0;
        };
        let below = if top > 0 { total[top - 1] } else { 0 };
        let digits = (u128::from(total[top]) << 64 | u128::from(below)) as f64 / count as f64;
        // 2^(64·(top − 1) − 2148), in steps that neither overflow nor vanish before the whole does.
        let mut exponent = 64 * (top as i32 - 1) + 2 * LOWEST_EXPONENT;
        let mut value = digits;
        while exponent != 0 {
            let step = exponent.clamp(-1000, 1000);
            value *= 2f64.powi(step);
            exponent -= step;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    fn sums() -> ExactSums {
        let mut sums = ExactSums::default();
        sums.resize(1);
        sums
    }

    #[test]
    fn overflow_on_the_way_is_harmless() {
        let mut sums = sums();
        for value in [1e308, 1e308, 1e308, -1e308, -1e308, 1e-300] {
            sums.add(0, value);
        }
        assert_eq!(sums.sum(0), 1e308);
        sums.add(0, -1e308);
        assert_eq!(sums.sum(0), 1e-300);
    }

    #[test]
    fn rounding_is_to_nearest_even_also_for_subnormals() {
        for value in [
            5e-324,
            1.5e-310,
            2.2250738585072014e-308,
            1.0,
            -3.5,
            1.7976931348623157e308,
            0.1,
        ] {
            let mut register = Register::default();
            register.add(value, 1);
            assert_eq!(register.rounded(), value);
            register.add(value, -2);
            assert_eq!(register.rounded(), -value);
        }
        let mut tie = Register::default();
        tie.add(1.0, 1);
        tie.add(2f64.powi(-53), 1);
        assert_eq!(tie.rounded(), 1.0);
        tie.add(5e-324, 1);
        assert_eq!(tie.rounded(), 1.0 + f64::EPSILON);
    }

    #[test]
    fn the_spread_of_one_value_is_nothing_and_a_tiny_one_is_right() {
        for (values, expected) in [
            (vec![0.1; 7], 0.0),
            (vec![-1e100 / 3.0; 5], 0.0),
            (vec![1.0, 1.0 + f64::EPSILON], f64::EPSILON * f64::EPSILON / 2.0),
            (vec![-1.0, -1.0 - f64::EPSILON], f64::EPSILON * f64::EPSILON / 2.0),
            (vec![1e-140, 3e-140], 2e-280),
            (vec![1.0, 2.0, 3.0], 2.0),
        ] {
            let (mut sum, mut squares) = (sums(), sums());
            for &value in &values {
                sum.add(0, value);
                squares.add(0, value * value);
                squares.add(0, f64::mul_add(value, value, -(value * value)));
            }
            let found = spread(&sum, &squares, 0, values.len() as i64);
            assert!(
                (found - expected).abs() <= expected * 1e-15,
                "{values:?}: {found:e}, not {expected:e}"
            );
        }
    }

    #[test]
    fn the_pair_and_the_register_agree_and_nothing_is_left_after_retraction() {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        println!("seed {seed}");
        let mut random = Pcg64::seed_from_u64(seed);
        for _ in 0..300 {
            let spread = random.random_range(1..1000);
            let values: Vec<f64> = (0..random.random_range(1..60))
                .map(|_| random.random_range(-1.0..1.0) * 2f64.powi(random.random_range(-spread..=spread)))
                .collect();
            let mut sums = sums();
            let mut register = Register::default();
            for &value in &values {
                sums.add(0, value);
                register.add(value, 1);
                assert_eq!(sums.sum(0), register.rounded());
            }
            for &value in &values {
                sums.add(0, -value);
            }
            assert_eq!(sums.sum(0), 0.0);
        }
    }
}
