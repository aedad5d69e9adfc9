//! Says which files to merge, and which have expired. Decides nothing by a clock.
//!
//! Rows come in the order of time, so a day or month is *over* once there is a later one. Within
//! a day that goes on, files merge by tiers: eight of about one size become one of the next, so
//! that a row is written once a tier. A day that is over becomes one file, and a month that is
//! over one more, where that stays small. What comes late to a period that is over waits until it
//! is worth a rewrite: a file is merged only with others that together have a sixteenth of its bytes.

use std::collections::BTreeMap;

use super::entry::FileEntry;

/// Files of one tier that are merged.
const FAN_IN: usize = 8;
/// Bytes of the smallest tier.
const TIER_BYTES: u64 = 32 << 10;
/// Bytes past which a file stays as it is.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of files that are merged at once.
const MERGE_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a month that becomes one file.
const MONTH_BYTES_MAX: u64 = 64 << 20;
/// How many times larger than all it is merged with a file may be.
const REWRITE_RATIO: u64 = 16;

/// Returns groups of files, each to be merged into one by [`Archive::compact`](super::Archive::compact).
///
/// No file is in two groups. Files of different columns, days or months are never in one, but
/// for the days of a month.
pub fn plan_compaction(entries: &[FileEntry]) -> Vec<Vec<FileEntry>> {
    let mut alike: BTreeMap<(&str, &str), Vec<&FileEntry>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.check_version().is_ok()) {
        alike
            .entry((&entry.relation, &entry.fingerprint))
            .or_default()
            .push(entry);
    }
    let mut groups = Vec::new();
    for files in alike.into_values() {
        let last = files.iter().map(|file| file.date.as_str()).max().unwrap_or_default();
        // The day that goes on; a month's date is the beginning of its days'.
        let (last_day, last_month) = (last, last.get(..7).unwrap_or(last));
        let mut months: BTreeMap<&str, Vec<&FileEntry>> = BTreeMap::new();
        for file in files.iter().filter(|file| file.bytes < FILE_BYTES_MAX) {
            months.entry(file.month()).or_default().push(file);
        }
        for (month, files) in months {
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            if month != last_month && bytes <= MONTH_BYTES_MAX {
                groups.extend(over(files));
                continue;
            }
            let mut days: BTreeMap<&str, Vec<&FileEntry>> = BTreeMap::new();
            for file in files {
                days.entry(&file.date).or_default().push(file);
            }
            for (day, files) in days {
                if day == last_day {
                    groups.extend(tiers(files));
                } else {
                    groups.extend(over(files));
                }
            }
        }
    }
    groups
}

/// Merges what belongs to a period that is over, and leaves what is too large for its company.
fn over(mut files: Vec<&FileEntry>) -> Vec<Vec<FileEntry>> {
    files.sort_by_key(|file| (file.bytes, file.sequence));
    let mut rest: u64 = files.iter().map(|file| file.bytes).sum();
    while let Some(largest) = files.last() {
        rest -= largest.bytes;
        if largest.bytes <= rest * REWRITE_RATIO {
            break;
        }
        files.pop();
    }
    pieces(files)
}

/// Merges files of one size.
fn tiers(files: Vec<&FileEntry>) -> Vec<Vec<FileEntry>> {
    let mut tiers: BTreeMap<u32, Vec<&FileEntry>> = BTreeMap::new();
    for file in files {
        let mut tier = 0;
        let mut room = TIER_BYTES;
        while file.bytes > room {
            tier += 1;
            room *= FAN_IN as u64;
        }
        tiers.entry(tier).or_default().push(file);
    }
    tiers
        .into_values()
        .filter(|files| files.len() >= FAN_IN)
        .flat_map(pieces)
        .collect()
}

/// Cuts files, in the order of their time, into groups that can be merged at once.
fn pieces(mut files: Vec<&FileEntry>) -> Vec<Vec<FileEntry>> {
    files.sort_by_key(|file| (file.span_us(), file.sequence));
    let mut pieces: Vec<Vec<FileEntry>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        match pieces.last_mut() {
            Some(piece) if bytes + file.bytes <= MERGE_BYTES_MAX => {
                bytes += file.bytes;
                piece.push(file.clone());
            }
            _ => {
                bytes = file.bytes;
                pieces.push(vec![file.clone()]);
            }
        }
    }
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

/// Returns the files all of whose rows are before a moment, in microseconds since 1970.
///
/// A file that has later rows, too, stays whole: a merged month goes when all of it may.
pub fn expired(entries: &[FileEntry], before_us: i64) -> Vec<FileEntry> {
    let is_before = |entry: &&FileEntry| entry.span_us().1 < before_us;
    entries.iter().filter(is_before).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `bytes`, of the day at `day` days from 2026-01-01, at `minute`.
    fn file(day: i64, minute: i64, bytes: u64, sequence: u64) -> FileEntry {
        let at = 1_767_225_600_000_000 + day * 86_400_000_000 + minute * 60_000_000;
        FileEntry {
            version: 1,
            path: format!("{sequence}"),
            relation: "readings".into(),
            date: super::super::entry::day(at).unwrap(),
            sequence,
            rows: bytes / 8,
            bytes,
            crc32: 0,
            block_bytes: 1,
            blocks: Vec::new(),
            time: Some("at".into()),
            time_min_us: Some(at),
            time_max_us: Some(at + 59_000_000),
            tick_min: None,
            tick_max: None,
            key: Vec::new(),
            fingerprint: "f".into(),
        }
    }

    /// Merges as the plan says until it says nothing, and returns the bytes written.
    fn settle(files: &mut Vec<FileEntry>, sequence: &mut u64) -> u64 {
        let mut written = 0;
        loop {
            let plan = plan_compaction(files);
            if plan.is_empty() {
                return written;
            }
            for group in plan {
                assert!(group.len() > 1);
                *sequence += 1;
                let gone: Vec<u64> = group.iter().map(|file| file.sequence).collect();
                files.retain(|file| !gone.contains(&file.sequence));
                let bytes = group.iter().map(|file| file.bytes).sum();
                let is_one_day = group.iter().all(|file| file.date == group[0].date);
                written += bytes;
                files.push(FileEntry {
                    date: if is_one_day {
                        group[0].date.clone()
                    } else {
                        group[0].month().to_owned()
                    },
                    bytes,
                    sequence: *sequence,
                    time_max_us: group.iter().map(|file| file.time_max_us).max().unwrap(),
                    ..group[0].clone()
                });
            }
        }
    }

    #[test]
    fn a_year_of_minutes_becomes_a_file_a_month() {
        let (mut files, mut sequence, mut came, mut written) = (Vec::new(), 0, 0, 0);
        let mut most = 0;
        for day in 0..365 {
            // Every ten minutes a file of 4 KiB.
            for minute in (0..1_440).step_by(10) {
                sequence += 1;
                files.push(file(day, minute, 4_096, sequence));
                came += 4_096;
                written += settle(&mut files, &mut sequence);
                most = most.max(files.len());
            }
        }
        assert_eq!(files.iter().map(|file| file.bytes).sum::<u64>(), came);
        // Eleven months, up to thirty days of the last, and what the last day has.
        assert!(files.len() <= 11 + 30 + 24, "{} files", files.len());
        assert!(most <= 11 + 31 + 24, "{most} files at most");
        // Two tiers, the day and the month.
        let amplification = written as f64 / came as f64;
        assert!(amplification < 4.5, "{amplification}");
    }

    #[test]
    fn what_comes_late_does_not_rewrite_a_month_each_time() {
        let (mut files, mut sequence) = (vec![file(0, 0, 32 << 20, 1), file(100, 0, 10, 2)], 2);
        let mut written = 0;
        for late in 0..1_000 {
            sequence += 1;
            files.push(file(late % 28, 30, 1_024, sequence));
            written += settle(&mut files, &mut sequence);
        }
        // A thousand KiB came, and were merged among themselves, never with the 32 MiB.
        assert!(written < 32 << 20, "{written} bytes");
        assert!(files.len() < 20, "{} files", files.len());
    }

    #[test]
    fn large_days_stay_days_and_large_files_stay() {
        let mut files: Vec<FileEntry> = (0..31).map(|day| file(day, 0, 8 << 20, day as u64)).collect();
        files.push(file(40, 0, 100, 40));
        assert_eq!(plan_compaction(&files), Vec::<Vec<FileEntry>>::new());
        let whole: Vec<FileEntry> = (0..20).map(|part| file(0, part, 65 << 20, part as u64)).collect();
        assert_eq!(plan_compaction(&whole), Vec::<Vec<FileEntry>>::new());
    }

    #[test]
    fn files_of_other_columns_or_versions_are_left() {
        let mut files = vec![file(0, 0, 100, 1), file(0, 1, 100, 2), file(9, 0, 100, 3)];
        assert_eq!(plan_compaction(&files)[0].len(), 2);
        files[0].fingerprint = "g".into();
        assert!(plan_compaction(&files).is_empty());
        files[0].fingerprint = "f".into();
        files[0].version = 2;
        assert!(plan_compaction(&files).is_empty());
    }

    #[test]
    fn a_file_expires_as_a_whole() {
        let files = vec![file(0, 0, 100, 1), file(0, 1, 100, 2), file(1, 0, 100, 3)];
        let second = files[1].time_min_us.unwrap();
        let gone = |before| {
            expired(&files, before)
                .iter()
                .map(|file| file.sequence)
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(second), [1]);
        assert_eq!(gone(second + 59_000_000), [1]);
        assert_eq!(gone(second + 59_000_001), [1, 2]);
    }
}
