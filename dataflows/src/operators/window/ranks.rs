//! Ranking functions: what a row's place in its partition says.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, UInt64Array};
use arrow::datatypes::UInt64Type;

use super::Span;
use super::partitions::Partitions;
use super::sequence::Sequence;
use crate::columns::Rows;
use crate::plan::{Keep, Ranking};

/// Returns where the rows end that are wanted, or were before `came` rows came.
pub(super) fn end(partitions: &Partitions, sequence: &Sequence, keep: &Keep, came: usize) -> usize {
    let ranks = usize::try_from(keep.skip.saturating_add(keep.fetch)).unwrap_or(usize::MAX);
    let ranks = ranks.saturating_add(came);
    let past = |position: usize| match sequence.get(position) {
        Some(last) => sequence.partition_point(|slot| partitions.order(slot) <= partitions.order(last)),
        None => sequence.len(),
    };
    match keep.by {
        Ranking::RowNumber => ranks.min(sequence.len()),
        Ranking::Rank if ranks == 0 => 0,
        Ranking::Rank => past(ranks - 1),
        Ranking::DenseRank => {
            let mut end = 0;
            for _ in 0..ranks {
                if end >= sequence.len() {
                    break;
                }
                end = past(end);
            }
            end
        }
    }
}

/// Returns ranks as numbers.
pub(super) fn values(ranks: &ArrayRef) -> &[u64] {
    ranks.as_primitive::<UInt64Type>().values()
}

/// Computes a ranking; `column` is where among `results` the ranks computed before stand, if they do.
pub(super) fn ranks(
    partitions: &Partitions,
    spans: &[Span],
    ranking: Ranking,
    results: &Rows,
    column: usize,
) -> ArrayRef {
    let mut ranks = Vec::new();
    for span in spans {
        match ranking {
            Ranking::RowNumber => ranks.extend(span.rows.clone().map(|row| row as u64 + 1)),
            Ranking::Rank => extend_ranks(partitions, span, &mut ranks),
            Ranking::DenseRank => extend_dense_ranks(partitions, span, results, column, &mut ranks),
        }
    }
    Arc::new(UInt64Array::from(ranks))
}

fn extend_ranks(partitions: &Partitions, span: &Span, ranks: &mut Vec<u64>) {
    let sequence = partitions.sequence(span.partition);
    let mut previous: Option<(u32, u64)> = None;
    for (row, slot) in span.rows.clone().zip(sequence.from(span.rows.start)) {
        let rank = match previous {
            Some((before, rank)) if partitions.order(before) == partitions.order(slot) => rank,
            Some(_) => row as u64 + 1,
            None => {
                let order = partitions.order(slot);
                sequence.partition_point(|other| partitions.order(other) < order) as u64 + 1
            }
        };
        ranks.push(rank);
        previous = Some((slot, rank));
    }
}

fn extend_dense_ranks(partitions: &Partitions, span: &Span, results: &Rows, column: usize, ranks: &mut Vec<u64>) {
    let sequence = partitions.sequence(span.partition);
    // The row before the span kept its rank.
    let mut previous = span
        .rows
        .start
        .checked_sub(1)
        .and_then(|row| sequence.get(row))
        .map(|slot| {
            let known = results.gather_columns(&[column], &[slot]);
            (slot, values(&known[0])[0])
        });
    for slot in sequence.from(span.rows.start).take(span.rows.len()) {
        let rank = match previous {
            Some((before, rank)) if partitions.order(before) == partitions.order(slot) => rank,
            Some((_, rank)) => rank + 1,
            None => 1,
        };
        ranks.push(rank);
        previous = Some((slot, rank));
    }
}

/// `percent_rank()`: (rank - 1) / (rows - 1), and 0 for a single row.
pub(super) fn percent_ranks(partitions: &Partitions, spans: &[Span]) -> ArrayRef {
    let mut shares = Vec::new();
    let mut ranks = Vec::new();
    for span in spans {
        ranks.clear();
        extend_ranks(partitions, span, &mut ranks);
        let rows = partitions.sequence(span.partition).len();
        shares.extend(ranks.iter().map(|rank| match rows {
            1 => 0.0,
            rows => (rank - 1) as f64 / (rows - 1) as f64,
        }));
    }
    Arc::new(Float64Array::from(shares))
}

/// `cume_dist()`: the share of rows that come no later in the order.
pub(super) fn cumulated(partitions: &Partitions, spans: &[Span]) -> ArrayRef {
    let mut shares: Vec<f64> = Vec::new();
    for span in spans {
        let sequence = partitions.sequence(span.partition);
        let mut previous: Option<u32> = None;
        for slot in sequence.from(span.rows.start).take(span.rows.len()) {
            let order = partitions.order(slot);
            shares.push(match (previous, shares.last()) {
                (Some(before), Some(&share)) if partitions.order(before) == order => share,
                _ => {
                    let end = sequence.partition_point(|other| partitions.order(other) <= order);
                    end as f64 / sequence.len() as f64
                }
            });
            previous = Some(slot);
        }
    }
    Arc::new(Float64Array::from(shares))
}

/// `ntile(n)`: n runs of rows as equal as can be, the longer ones first.
pub(super) fn tiles(partitions: &Partitions, spans: &[Span], tiles: u64) -> ArrayRef {
    let mut numbers = Vec::new();
    for span in spans {
        let rows = partitions.sequence(span.partition).len() as u64;
        let (short, long_tiles) = (rows / tiles, rows % tiles);
        let long_rows = long_tiles * (short + 1);
        numbers.extend(span.rows.clone().map(|row| match row as u64 {
            row if row < long_rows => row / (short + 1) + 1,
            row => long_tiles + (row - long_rows) / short.max(1) + 1,
        }));
    }
    Arc::new(UInt64Array::from(numbers))
}
