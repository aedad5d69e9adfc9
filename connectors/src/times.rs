//! Reads times: RFC 3339, zoneless in the deployment's time zone, or as declared.
use arrow::array::timezone::Tz;
use chrono::format::{Item, Parsed, StrftimeItems, parse};
use chrono::{MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};

use crate::decoded::quoted;
use crate::error::ConfigError;

/// The first instant a timestamp column takes: 1970-01-01T00:00:00Z.
pub const TIME_MIN_US: i64 = 0;
/// The last instant a timestamp column takes: 9999-12-31T23:59:59.999999Z.
pub const TIME_MAX_US: i64 = 253_402_300_799_999_999;

const SECOND_US: i64 = 1_000_000;
const HOUR_S: i64 = 3600;

/// Reads the times and dates of one source.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    zone: Tz,
    declared: Option<Declared>,
    /// The hour of local time seen last, and its offset from UTC.
    /// Zone look-ups cost more than all else here, and input is mostly in order.
    recent: Option<(i64, i32)>,
    /// The date seen last as it was written, and its midnight in UTC.
    day: Option<([u8; 10], i64)>,
}

#[derive(Debug, Clone)]
enum Declared {
    Pattern(String, Vec<Item<'static>>),
    /// A number of units since 1970; the value is microseconds a unit, or
    /// units a microsecond for nanoseconds.
    Epoch(Unit),
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

/// Returns the zone of that name: IANA ("Asia/Kolkata") or an offset ("+05:30").
pub(crate) fn zone(name: &str) -> Result<Tz, ConfigError> {
    name.parse().map_err(|_| {
        ConfigError::new(format!("unknown time zone \"{name}\""))
            .with_hint("Use a name like \"UTC\", \"Asia/Kolkata\" or \"+05:30\".")
    })
}

impl Times {
    /// Reads zoneless times in `time_zone`; tries the `declared` form first.
    pub(crate) fn new(time_zone: &str, declared: Option<&str>) -> Result<Times, ConfigError> {
        let zone = zone(time_zone)?;
        let declared = match declared {
            None => None,
            Some("epoch seconds") => Some(Declared::Epoch(Unit::Seconds)),
            Some("epoch milliseconds") => Some(Declared::Epoch(Unit::Milliseconds)),
            Some("epoch microseconds") => Some(Declared::Epoch(Unit::Microseconds)),
            Some("epoch nanoseconds") => Some(Declared::Epoch(Unit::Nanoseconds)),
            Some(pattern) => {
                let wrong = || {
                    ConfigError::new(format!("timestamp = \"{pattern}\" is not a time pattern")).with_hint(
                        "Use a strftime pattern like \"%d-%m-%Y %H:%M:%S\", or \"epoch seconds\" \
                         (milliseconds, microseconds, nanoseconds).",
                    )
                };
                let items = StrftimeItems::new(pattern).parse_to_owned().map_err(|_| wrong())?;
                if !pattern.contains('%') {
                    return Err(wrong());
                }
                Some(Declared::Pattern(pattern.to_owned(), items))
            }
        };
        Ok(Times {
            zone,
            declared,
            recent: None,
            day: None,
        })
    }

    /// Reads an instant, in microseconds since 1970.
    pub(crate) fn instant(&mut self, text: &str) -> Result<i64, String> {
        let instant = match self.read(text) {
            Some(instant) => instant,
            None => return Err(self.unreadable(text)),
        };
        if !(TIME_MIN_US..=TIME_MAX_US).contains(&instant) {
            return Err(format!("{} is outside the years 1970 to 9999", quoted(text)));
        }
        Ok(instant)
    }

    /// Reads a date, in days since 1970-01-01.
    pub(crate) fn date(&mut self, text: &str) -> Result<i32, String> {
        if let Some(Declared::Pattern(_, items)) = &self.declared {
            let mut parsed = Parsed::new();
            if parse(&mut parsed, text, items.iter()).is_ok()
                && let Ok(date) = parsed.to_naive_date()
            {
                return Ok(days(date));
            }
        }
        let bytes = text.as_bytes();
        let date = if bytes.len() >= 10 { iso_date(bytes) } else { None };
        match date {
            Some(date) if bytes.len() == 10 => Ok(days(date)),
            // A time of day beside the date is fine, if it is one.
            Some(date) if self.read(text).is_some() => Ok(days(date)),
            _ => Err(format!("{} is not a date like 2026-01-31", quoted(text))),
        }
    }

    fn read(&mut self, text: &str) -> Option<i64> {
        match &self.declared {
            None => {}
            Some(Declared::Epoch(unit)) => {
                if let Some(instant) = epoch(text, *unit) {
                    return Some(instant);
                }
            }
            Some(Declared::Pattern(_, items)) => {
                let mut parsed = Parsed::new();
                if parse(&mut parsed, text, items.iter()).is_ok() {
                    if let Ok(instant) = parsed.to_datetime() {
                        return Some(instant.timestamp_micros());
                    }
                    if let Ok(local) = parsed.to_naive_datetime_with_offset(0) {
                        return self.local(us(local));
                    }
                    if let Ok(date) = parsed.to_naive_date() {
                        return self.local(us(date.and_time(NaiveTime::MIN)));
                    }
                }
            }
        }
        self.iso(text.as_bytes())
    }

    fn unreadable(&self, text: &str) -> String {
        let text_quoted = quoted(text);
        let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match &self.declared {
            Some(Declared::Pattern(pattern, _)) => {
                format!("{text_quoted} is not a time of the form \"{pattern}\", nor RFC 3339")
            }
            Some(Declared::Epoch(_)) => {
                format!("{text_quoted} is not a time since 1970, nor RFC 3339")
            }
            None if number => {
                format!("{text_quoted} is a number, not a time; a format may declare timestamp = \"epoch seconds\"")
            }
            None => format!("{text_quoted} is not a time like 2026-01-31T12:00:00Z"),
        }
    }

    /// `2026-01-31[T12:00[:00[.123456]]][Z|±05:30|±0530|±05]`.
    fn iso(&mut self, bytes: &[u8]) -> Option<i64> {
        let midnight = self.midnight(bytes.first_chunk()?)?;
        if bytes.len() == 10 {
            return self.local(midnight);
        }
        if !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let hour = two(bytes, 11)?;
        if *bytes.get(13)? != b':' {
            return None;
        }
        let minute = two(bytes, 14)?;
        let (mut second, mut micros, mut at) = (0, 0, 16);
        if bytes.get(16) == Some(&b':') {
            second = two(bytes, 17)?;
            at = 19;
            if matches!(bytes.get(19), Some(b'.' | b',')) {
                let mut digits = 0;
                // Finer than a microsecond is cut off, as Arrow's readers do.
                while let Some(digit @ b'0'..=b'9') = bytes.get(20 + digits) {
                    if digits < 6 {
                        micros = micros * 10 + u32::from(digit - b'0');
                    }
                    digits += 1;
                }
                if digits == 0 {
                    return None;
                }
                micros *= 10_u32.pow(6 - digits.min(6) as u32);
                at = 20 + digits;
            }
        }
        if second == 60 {
            // A leap second is told as the last microsecond before it ends.
            second = 59;
            micros = 999_999;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = i64::from(hour * 3600 + minute * 60 + second);
        let local = midnight + seconds * SECOND_US + i64::from(micros);
        let mut rest = &bytes[at..];
        while let [b' ', tail @ ..] = rest {
            rest = tail;
        }
        match rest {
            [] => self.local(local),
            b"Z" | b"z" | b"UTC" => Some(local),
            [sign @ (b'+' | b'-'), tail @ ..] => {
                let minutes = match tail.len() {
                    2 => two(tail, 0)? * 60,
                    4 => two(tail, 0)? * 60 + two(tail, 2)?,
                    5 if tail[2] == b':' => two(tail, 0)? * 60 + two(tail, 3)?,
                    _ => return None,
                };
                if minutes >= 24 * 60 {
                    return None;
                }
                let offset_us = i64::from(minutes) * 60 * SECOND_US;
                Some(if *sign == b'+' {
                    local - offset_us
                } else {
                    local + offset_us
                })
            }
            _ => None,
        }
    }

    /// The start of a day in UTC. Input mostly stays within one day for long.
    #[inline]
    fn midnight(&mut self, date: &[u8; 10]) -> Option<i64> {
        if let Some((seen, midnight)) = &self.day
            && seen == date
        {
            return Some(*midnight);
        }
        let midnight = us(iso_date(date)?.and_time(NaiveTime::MIN));
        self.day = Some((*date, midnight));
        Some(midnight)
    }

    /// The instant of a wall-clock reading in the deployment's zone, told as if it were UTC. Of an hour
    /// that a clock change repeats, the first is taken; one that it skips is
    /// read as if the clock had not changed yet.
    fn local(&mut self, as_utc_us: i64) -> Option<i64> {
        let hour = as_utc_us.div_euclid(HOUR_S * SECOND_US);
        if let Some((recent, offset_s)) = self.recent
            && recent == hour
        {
            return Some(as_utc_us - i64::from(offset_s) * SECOND_US);
        }
        let offset_s = self.offset(chrono::DateTime::from_timestamp_micros(as_utc_us)?.naive_utc())?;
        // Zones change on the hour or the half hour; only an hour with one
        // offset from end to end is remembered.
        let start = chrono::DateTime::from_timestamp(hour * HOUR_S, 0)?.naive_utc();
        let end = chrono::DateTime::from_timestamp(hour * HOUR_S + HOUR_S - 1, 0)?.naive_utc();
        if self.offset(start) == Some(offset_s) && self.offset(end) == Some(offset_s) {
            self.recent = Some((hour, offset_s));
        }
        Some(as_utc_us - i64::from(offset_s) * SECOND_US)
    }

    fn offset(&self, local: NaiveDateTime) -> Option<i32> {
        let offset = match self.zone.offset_from_local_datetime(&local) {
            MappedLocalTime::Single(offset) | MappedLocalTime::Ambiguous(offset, _) => offset,
            MappedLocalTime::None => {
                let before = local.checked_sub_signed(chrono::TimeDelta::hours(3))?;
                self.zone.offset_from_local_datetime(&before).earliest()?
            }
        };
        Some(offset.fix().local_minus_utc())
    }
}

fn epoch(text: &str, unit: Unit) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return match unit {
            Unit::Seconds => number.checked_mul(SECOND_US),
            Unit::Milliseconds => number.checked_mul(1000),
            Unit::Microseconds => Some(number),
            Unit::Nanoseconds => Some(number.div_euclid(1000)),
        };
    }
    let number = text.parse::<f64>().ok()?;
    let micros = match unit {
        Unit::Seconds => number * 1e6,
        Unit::Milliseconds => number * 1e3,
        Unit::Microseconds => number,
        Unit::Nanoseconds => number / 1e3,
    };
    // Beyond 2^63 the range check would see a saturated number; NaN is no time.
    micros.is_finite().then(|| micros.round() as i64)
}

/// Microseconds since 1970 of a wall-clock reading, as if it were UTC.
fn us(local: NaiveDateTime) -> i64 {
    local.and_utc().timestamp_micros()
}

fn iso_date(bytes: &[u8]) -> Option<NaiveDate> {
    if bytes.len() < 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, two(bytes, 5)?, two(bytes, 8)?)
}

fn two(bytes: &[u8], at: usize) -> Option<u32> {
    match (bytes.get(at)?.wrapping_sub(b'0'), bytes.get(at + 1)?.wrapping_sub(b'0')) {
        (tens @ 0..=9, ones @ 0..=9) => Some(u32::from(tens) * 10 + u32::from(ones)),
        _ => None,
    }
}

fn days(date: NaiveDate) -> i32 {
    date.to_epoch_days()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(zone: &str, declared: Option<&str>, text: &str) -> Option<String> {
        let instant = Times::new(zone, declared).unwrap().instant(text).ok()?;
        Some(chrono::DateTime::from_timestamp_micros(instant).unwrap().to_rfc3339())
    }

    #[test]
    fn forms_of_rfc_3339() {
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
            ("2026-01-31t12:00:00z", "2026-01-31T12:00:00+00:00"),
            ("2026-01-31 12:00:00.5+05:30", "2026-01-31T06:30:00.500+00:00"),
            ("2026-01-31T12:00:00.1234567-0800", "2026-01-31T20:00:00.123456+00:00"),
            ("2026-01-31 12:00:00 +01", "2026-01-31T11:00:00+00:00"),
            ("2026-01-31 12:00", "2026-01-31T06:30:00+00:00"),
            ("2026-01-31", "2026-01-30T18:30:00+00:00"),
        ] {
            assert_eq!(read("Asia/Kolkata", None, text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-02-30",
            "2026-01-31T",
            "2026-01-31T25:00:00Z",
            "2026-01-31T12:00:00.Z",
            "1e9",
            "2026-01-31T12:00:00+99:00",
            "1969-12-31T23:59:59Z",
            "20260131",
            "2026-01-31T12:00:00ZZ",
            "２０２６-01-01",
        ] {
            assert_eq!(read("UTC", None, text), None, "{text}");
        }
        assert!(read("UTC", None, "9999-12-31T23:59:59.999999Z").is_some());
        assert!(read("UTC", None, "9999-12-31T23:59:59.999999-01:00").is_none());
        assert!(read("UTC", None, "1970-01-01T00:00:00Z").is_some());
    }

    #[test]
    fn declared_forms_come_first_and_rfc_3339_still_works() {
        for (declared, text, expected) in [
            ("%m/%d/%Y", "10/1/1999", "1999-10-01T00:00:00+00:00"),
            ("%m/%d/%Y", "1999-10-01T00:00:00Z", "1999-10-01T00:00:00+00:00"),
            (
                "%m/%d/%Y %I:%M:%S %p",
                "10/02/2012 01:00:00 PM",
                "2012-10-02T13:00:00+00:00",
            ),
            (
                "%d-%m-%Y %H:%M:%S%z",
                "02-10-2012 01:00:00+0100",
                "2012-10-02T00:00:00+00:00",
            ),
            ("%Y%m%d", "20140801", "2014-08-01T00:00:00+00:00"),
            ("epoch seconds", "1406851200", "2014-08-01T00:00:00+00:00"),
            ("epoch seconds", "1406851200.25", "2014-08-01T00:00:00.250+00:00"),
            ("epoch nanoseconds", "1406851200000000000", "2014-08-01T00:00:00+00:00"),
        ] {
            assert_eq!(
                read("UTC", Some(declared), text).as_deref(),
                Some(expected),
                "{declared} {text}"
            );
        }
        assert_eq!(read("UTC", Some("%m/%d/%Y"), "31/12/1999"), None);
        assert!(Times::new("UTC", Some("%Q")).is_err());
        assert!(Times::new("UTC", Some("iso")).is_err());
        assert!(Times::new("Mars/Olympus", None).is_err());
    }

    #[test]
    fn clock_changes() {
        let berlin = |text| read("Europe/Berlin", None, text).unwrap();
        assert_eq!(berlin("2016-10-30 01:30:00"), "2016-10-29T23:30:00+00:00");
        assert_eq!(berlin("2016-10-30 02:30:00"), "2016-10-30T00:30:00+00:00");
        assert_eq!(berlin("2016-10-30 03:30:00"), "2016-10-30T02:30:00+00:00");
        assert_eq!(berlin("2016-03-27 02:30:00"), "2016-03-27T01:30:00+00:00");
        // The remembered hour changes nothing.
        let mut times = Times::new("Europe/Berlin", None).unwrap();
        for minute in 0..(4 * 24 * 60) {
            let local = NaiveDate::from_ymd_opt(2016, 10, 28).unwrap().and_time(NaiveTime::MIN)
                + chrono::TimeDelta::minutes(minute);
            let text = local.format("%Y-%m-%d %H:%M").to_string();
            let fresh = Times::new("Europe/Berlin", None).unwrap().instant(&text);
            assert_eq!(times.instant(&text), fresh, "{text}");
        }
    }

    #[test]
    fn dates() {
        let mut times = Times::new("UTC", Some("%m/%d/%Y")).unwrap();
        assert_eq!(times.date("1/2/1970"), Ok(1));
        assert_eq!(times.date("1970-01-03"), Ok(2));
        assert_eq!(times.date("1969-12-31"), Ok(-1));
        assert_eq!(times.date("1970-01-03T00:00:00Z"), Ok(2));
        assert!(times.date("1970-01-03 nonsense").is_err());
        assert!(times.date("1970-13-03").is_err());
    }
}
