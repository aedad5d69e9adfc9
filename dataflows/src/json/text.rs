//! Scalars as JSON text, without allocating.

use std::io::Write;

/// The largest magnitude below which every integer is a double.
const EXACT_MAX: u64 = 1 << 53;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

pub(super) fn label(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 3);
    string(name, &mut out);
    out.push(b':');
    out
}

pub(super) fn string(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut written = 0;
    for (position, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..position]);
        written = position + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(control >> 4)]);
                out.push(DIGITS[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

pub(super) fn hexadecimal(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in value {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out.push(b'"');
}

pub(super) fn signed(value: i64, out: &mut Vec<u8>) {
    let magnitude = value.unsigned_abs();
    quoted_if(magnitude > EXACT_MAX, out, |out| {
        if value < 0 {
            out.push(b'-');
        }
        digits(magnitude, 1, out);
    });
}

pub(super) fn unsigned(value: u64, out: &mut Vec<u8>) {
    quoted_if(value > EXACT_MAX, out, |out| digits(value, 1, out));
}

pub(super) fn double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        // `Debug`, unlike `Display`, takes an exponent where digits would be many.
        let _ = write!(out, "{value:?}");
    } else {
        not_finite(value.is_nan(), value > 0.0, out);
    }
}

pub(super) fn real(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() {
        let _ = write!(out, "{value:?}");
    } else {
        not_finite(value.is_nan(), value > 0.0, out);
    }
}

/// Writes `value / 10^scale` as a string with all its digits.
pub(super) fn decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    out.push(b'"');
    if value < 0 {
        out.push(b'-');
    }
    let places = usize::from(scale.unsigned_abs());
    let mut buffer = [0u8; 40];
    let mut start = buffer.len();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let all = &buffer[start..];
    if scale <= 0 {
        out.extend_from_slice(if all.is_empty() { b"0" } else { all });
        if !all.is_empty() {
            out.resize(out.len() + places, b'0');
        }
    } else {
        let whole = all.len().saturating_sub(places);
        out.extend_from_slice(if whole == 0 { b"0" } else { &all[..whole] });
        out.push(b'.');
        out.resize(out.len() + places.saturating_sub(all.len()), b'0');
        out.extend_from_slice(&all[whole..]);
    }
    out.push(b'"');
}

/// Writes an instant as RFC 3339 in UTC; `per_second` is the unit of `value`.
pub(super) fn timestamp(value: i64, per_second: i64, out: &mut Vec<u8>) {
    let seconds = value.div_euclid(per_second);
    let fraction = value.rem_euclid(per_second);
    out.push(b'"');
    civil_day(seconds.div_euclid(86_400), out);
    out.push(b'T');
    civil_time(seconds.rem_euclid(86_400), fraction, per_second, out);
    out.extend_from_slice(b"Z\"");
}

/// Writes a day counted from the epoch as an ISO 8601 date.
pub(super) fn date(days: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    civil_day(days, out);
    out.push(b'"');
}

/// Writes a time of day; `per_second` is the unit of `value`.
pub(super) fn time(value: i64, per_second: i64, out: &mut Vec<u8>) {
    out.push(b'"');
    civil_time(
        value.div_euclid(per_second),
        value.rem_euclid(per_second),
        per_second,
        out,
    );
    out.push(b'"');
}

fn quoted_if(quoted: bool, out: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>)) {
    if quoted {
        out.push(b'"');
    }
    write(out);
    if quoted {
        out.push(b'"');
    }
}

fn not_finite(nan: bool, positive: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(match (nan, positive) {
        (true, _) => b"\"NaN\"",
        (false, true) => b"\"Infinity\"",
        (false, false) => b"\"-Infinity\"",
    });
}

/// Writes at least `width` digits.
fn digits(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = [b'0'; 20];
    let mut start = buffer.len();
    let mut rest = value;
    while rest > 0 {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let start = start.min(buffer.len() - width);
    out.extend_from_slice(&buffer[start..]);
}

/// Days to year, month and day of the proleptic Gregorian calendar, counted from
/// March so that the leap day is a year's last.
fn civil_day(days: i64, out: &mut Vec<u8>) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // ISO 8601 has years outside 0-9999 carry a sign.
    if year < 0 {
        out.push(b'-');
    } else if year > 9999 {
        out.push(b'+');
    }
    digits(year.unsigned_abs(), 4, out);
    out.push(b'-');
    digits(month as u64, 2, out);
    out.push(b'-');
    digits(day as u64, 2, out);
}

fn civil_time(seconds: i64, fraction: i64, per_second: i64, out: &mut Vec<u8>) {
    for (position, part) in [seconds / 3_600, seconds / 60 % 60, seconds % 60]
        .into_iter()
        .enumerate()
    {
        if position > 0 {
            out.push(b':');
        }
        digits(part as u64, 2, out);
    }
    if fraction == 0 {
        return;
    }
    let mut fraction = fraction as u64;
    let mut places = per_second.ilog10() as usize;
    while places > 3 && fraction.is_multiple_of(1_000) {
        fraction /= 1_000;
        places -= 3;
    }
    out.push(b'.');
    digits(fraction, places, out);
}
