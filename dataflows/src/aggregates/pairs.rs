//! Covariance, correlation and the regression aggregates: exact sums over pairs of doubles.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Float64Type;

use super::exact::{ExactSums, co_spread, spread};
use super::numeric::Specials;
use super::{Accumulator, each};

/// What is read out of the sums. The first argument is `y`, the second `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statistic {
    /// Divided by `n - 1`, or by `n` for a population.
    Covariance {
        population: bool,
    },
    Correlation,
    Slope,
    Intercept,
    R2,
    MeanX,
    MeanY,
    SpreadX,
    SpreadY,
    SpreadXY,
}

impl Statistic {
    fn reads_x(self) -> bool {
        !matches!(self, Statistic::MeanY | Statistic::SpreadY)
    }

    fn reads_y(self) -> bool {
        !matches!(self, Statistic::MeanX | Statistic::SpreadX)
    }

    fn reads_squares_of_x(self) -> bool {
        use Statistic::*;
        matches!(self, Correlation | Slope | Intercept | R2 | SpreadX)
    }

    fn reads_squares_of_y(self) -> bool {
        use Statistic::*;
        matches!(self, Correlation | R2 | SpreadY)
    }

    fn reads_products(self) -> bool {
        use Statistic::*;
        matches!(
            self,
            Covariance { .. } | Correlation | Slope | Intercept | R2 | SpreadXY
        )
    }
}

/// Sums of pairs, of their squares and products, exact whatever the order.
///
/// A pair with a NULL is passed over. A product that overflows makes the result
/// NaN, as NaN and the infinities do; one below 2^-1022 counts with the
/// precision of a subnormal. Means are those of `avg`.
pub(super) struct Pairs {
    statistic: Statistic,
    counts: Vec<i64>,
    x: ExactSums,
    y: ExactSums,
    xx: ExactSums,
    yy: ExactSums,
    xy: ExactSums,
    odd: HashMap<u32, Odd>,
}

/// What of a group is in no sum.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Odd {
    x: Specials,
    y: Specials,
    /// Products that are not finite.
    products: i64,
}

impl Pairs {
    pub(super) fn new(statistic: Statistic) -> Self {
        Pairs {
            statistic,
            counts: Vec::new(),
            x: ExactSums::default(),
            y: ExactSums::default(),
            xx: ExactSums::default(),
            yy: ExactSums::default(),
            xy: ExactSums::default(),
            odd: HashMap::new(),
        }
    }

    #[cold]
    fn odd(&mut self, group: u32, change: impl FnOnce(&mut Odd)) {
        let odd = self.odd.entry(group).or_default();
        change(odd);
        if *odd == Odd::default() {
            self.odd.remove(&group);
        }
    }

    fn product(&mut self, group: u32, left: f64, right: f64, diff: i64, sums: fn(&mut Self) -> &mut ExactSums) {
        let product = left * right;
        if product.is_finite() {
            let sums = sums(self);
            sums.add_times(group, product, diff);
            sums.add_times(group, f64::mul_add(left, right, -product), diff);
        } else {
            self.odd(group, |odd| odd.products += diff);
        }
    }

    fn add(&mut self, group: u32, y: f64, x: f64, diff: i64) {
        self.counts[group as usize] += diff;
        let statistic = self.statistic;
        if statistic.reads_x() {
            match x.is_finite() {
                true => self.x.add_times(group, x, diff),
                false => self.odd(group, |odd| odd.x.add(x, diff)),
            }
        }
        if statistic.reads_y() {
            match y.is_finite() {
                true => self.y.add_times(group, y, diff),
                false => self.odd(group, |odd| odd.y.add(y, diff)),
            }
        }
        if statistic.reads_squares_of_x() {
            self.product(group, x, x, diff, |pairs| &mut pairs.xx);
        }
        if statistic.reads_squares_of_y() {
            self.product(group, y, y, diff, |pairs| &mut pairs.yy);
        }
        if statistic.reads_products() {
            self.product(group, x, y, diff, |pairs| &mut pairs.xy);
        }
    }

    fn value(&self, group: u32) -> Option<f64> {
        use Statistic::*;
        let count = self.counts[group as usize];
        let least = match self.statistic {
            Covariance { population: false } | Correlation | Slope | Intercept | R2 => 2,
            _ => 1,
        };
        if count < least {
            return None;
        }
        let odd = self.odd.get(&group).copied();
        let mean = |sums: &ExactSums, specials: Option<Specials>| match specials {
            Some(specials) if specials != Specials::default() => specials.sum(),
            _ => sums.sum(group) / count as f64,
        };
        match self.statistic {
            MeanX => return Some(mean(&self.x, odd.map(|odd| odd.x))),
            MeanY => return Some(mean(&self.y, odd.map(|odd| odd.y))),
            _ if odd.is_some() => return Some(f64::NAN),
            _ => {}
        }
        let xx = || spread(&self.x, &self.xx, group, count);
        let yy = || spread(&self.y, &self.yy, group, count);
        let xy = || co_spread(self.x.pair(group), self.y.pair(group), self.xy.pair(group), count);
        match self.statistic {
            Covariance { population: true } => Some(xy() / count as f64),
            Covariance { population: false } => Some(xy() / (count - 1) as f64),
            SpreadX => Some(xx()),
            SpreadY => Some(yy()),
            SpreadXY => Some(xy()),
            Correlation | R2 => {
                let (xx, yy) = (xx(), yy());
                if xx == 0.0 || yy == 0.0 {
                    return None;
                }
                let correlation = (xy() / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0);
                Some(match self.statistic {
                    R2 => correlation * correlation,
                    _ => correlation,
                })
            }
            _ => {
                let xx = xx();
                if xx == 0.0 {
                    return None;
                }
                let slope = xy() / xx;
                Some(match self.statistic {
                    Intercept => mean(&self.y, None) - slope * mean(&self.x, None),
                    _ => slope,
                })
            }
        }
    }
}

impl Accumulator for Pairs {
    fn resize(&mut self, groups: usize) {
        if self.counts.len() >= groups {
            return;
        }
        self.counts.resize(groups, 0);
        let statistic = self.statistic;
        for (sums, read) in [
            (&mut self.x, statistic.reads_x()),
            (&mut self.y, statistic.reads_y()),
            (&mut self.xx, statistic.reads_squares_of_x()),
            (&mut self.yy, statistic.reads_squares_of_y()),
            (&mut self.xy, statistic.reads_products()),
        ] {
            if read {
                sums.resize(groups);
            }
        }
    }

    fn update(&mut self, groups: &[u32], arguments: &[ArrayRef], filter: Option<&BooleanArray>, diffs: &[i64]) {
        let (y, x) = (
            arguments[0].as_primitive::<Float64Type>(),
            arguments[1].as_primitive::<Float64Type>(),
        );
        let nulls = NullBuffer::union(y.nulls(), x.nulls());
        let (y, x) = (y.values(), x.values());
        each(nulls.as_ref(), filter, diffs.len(), |row| {
            self.add(groups[row], y[row], x[row], diffs[row]);
        });
    }

    fn output(&self, groups: &[u32]) -> ArrayRef {
        Arc::new(Float64Array::from_iter(groups.iter().map(|&group| self.value(group))))
    }

    fn reset(&mut self, group: u32) {
        if let Some(count) = self.counts.get_mut(group as usize) {
            *count = 0;
            for sums in [&mut self.x, &mut self.y, &mut self.xx, &mut self.yy, &mut self.xy] {
                sums.reset(group);
            }
            self.odd.remove(&group);
        }
    }

    fn bytes(&self) -> usize {
        let sums = [&self.x, &self.y, &self.xx, &self.yy, &self.xy];
        self.counts.capacity() * 8
            + sums.iter().map(|sums| sums.bytes()).sum::<usize>()
            + self.odd.capacity() * size_of::<(u32, Odd)>()
    }
}
