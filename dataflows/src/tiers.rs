//! When to merge small batches of a growing list, so that there are few and each row is copied seldom.

/// Batches of about equal size that become one.
const FANOUT: usize = 8;

/// No more rows than this become one batch: a query takes no larger ones, and copying
/// more at once would be felt as a late tick.
const MERGED_ROWS_MAX: usize = 8 * 1024;

/// Returns how many batches at the end of a list, of these `lengths`, are to become one with a new
/// batch of `rows` rows. A row is copied about log8 of its batch's size times.
pub fn merged(lengths: impl DoubleEndedIterator<Item = usize> + Clone, mut rows: usize) -> usize {
    let tier = |rows: usize| rows.max(1).ilog(FANOUT);
    let mut merged = 0;
    loop {
        let before = lengths.clone().rev().skip(merged);
        let (mut alike, mut theirs) = (0, 0);
        for length in before.take_while(|length| tier(*length) <= tier(rows)) {
            alike += 1;
            theirs += length;
        }
        if alike + 1 < FANOUT || rows + theirs > MERGED_ROWS_MAX {
            return merged;
        }
        merged += alike;
        rows += theirs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_stays_short_and_its_large_batches_stay_as_they_are() {
        let mut lengths: Vec<usize> = Vec::new();
        let mut copied = 0;
        for _ in 0..100_000 {
            let from = lengths.len() - merged(lengths.iter().copied(), 1);
            let sum = 1 + lengths.drain(from..).sum::<usize>();
            copied += if sum > 1 { sum } else { 0 };
            lengths.push(sum);
        }
        assert_eq!(lengths.iter().sum::<usize>(), 100_000);
        assert!(lengths.iter().all(|length| *length <= MERGED_ROWS_MAX), "{lengths:?}");
        assert!(lengths.len() < 100_000 / MERGED_ROWS_MAX * FANOUT, "{lengths:?}");
        assert!(copied < 100_000 * 5, "{copied}");
    }
}
