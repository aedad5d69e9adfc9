//! The grammar of JSON values (RFC 8259, to the letter): where each one ends.

use wide::u8x16;

/// How deep objects and arrays may stand in each other.
const DEPTH_MAX: usize = 64;

/// What is wrong, and where in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

impl Fault {
    pub(crate) fn end(at: usize) -> Fault {
        Fault {
            at,
            what: "the object is cut off",
        }
    }

    pub(crate) fn expected(bytes: &[u8], at: usize, what: &'static str) -> Fault {
        if at >= bytes.len() {
            Fault::end(at)
        } else {
            Fault { at, what }
        }
    }

    pub(crate) fn reason(self, start: usize, end: usize) -> String {
        if self.at >= end {
            "the object is cut off".to_owned()
        } else {
            format!("{} at byte {} of the row", self.what, self.at - start + 1)
        }
    }
}

/// The inside of a string.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) escaped: bool,
}

/// The first place from `at` on that holds no white space.
pub(crate) fn after_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Reads a string from its opening quote; returns its inside, and what follows.
pub(crate) fn string(bytes: &[u8], at: usize) -> Result<(Text, usize), Fault> {
    if bytes.get(at) != Some(&b'"') {
        return Err(Fault::expected(bytes, at, "expected a name between quotes"));
    }
    let start = at + 1;
    let mut end = start;
    let mut escaped = false;
    loop {
        end = plain_until(bytes, end);
        match bytes.get(end) {
            None => return Err(Fault::end(end)),
            Some(b'"') => {
                return Ok((Text { start, end, escaped }, end + 1));
            }
            Some(b'\\') => {
                escaped = true;
                end += 1;
                match bytes.get(end) {
                    None => return Err(Fault::end(end)),
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => end += 1,
                    Some(b'u') => {
                        for digit in end + 1..end + 5 {
                            match bytes.get(digit) {
                                None => return Err(Fault::end(digit)),
                                Some(byte) if byte.is_ascii_hexdigit() => {}
                                Some(_) => {
                                    return Err(Fault {
                                        at: digit,
                                        what: "not a unicode escape",
                                    });
                                }
                            }
                        }
                        end += 5;
                    }
                    Some(_) => {
                        return Err(Fault {
                            at: end,
                            what: "unknown escape",
                        });
                    }
                }
            }
            Some(0..0x20) => {
                return Err(Fault {
                    at: end,
                    what: "a control character inside a text",
                });
            }
            Some(_) => {}
        }
    }
}

/// The first place from `at` on that is no plain character of a string: a quote, a backslash, a control character
/// or the end. Sixteen bytes are looked at together.
#[inline]
pub(crate) fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    let [quote, backslash, last_control] = [b'"', b'\\', 0x1f].map(u8x16::splat);
    while let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        let block = u8x16::from(*block);
        let special = block.simd_eq(quote) | block.simd_eq(backslash) | block.simd_eq(block.min(last_control));
        let special = special.to_bitmask();
        if special != 0 {
            return at + special.trailing_zeros() as usize;
        }
        at += 16;
    }
    while bytes
        .get(at)
        .is_some_and(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\'))
    {
        at += 1;
    }
    at
}

/// Resolves the escapes of a string that [`string`] has accepted.
pub(crate) fn unescape(text: &str, at: usize, out: &mut String) -> Result<(), Fault> {
    let mut rest = text;
    while let Some(found) = rest.find('\\') {
        out.push_str(&rest[..found]);
        let escape = rest.as_bytes().get(found + 1).copied().unwrap_or_default();
        let mut length = 2;
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let unit = |from: usize| {
                    let digits = rest.get(from..from + 4)?;
                    u16::from_str_radix(digits, 16).ok()
                };
                let mut units = [unit(found + 2).unwrap_or(0xd800), 0];
                let mut count = 1;
                length = 6;
                if (0xd800..0xdc00).contains(&units[0])
                    && rest.get(found + 6..found + 8) == Some("\\u")
                    && let Some(low) = unit(found + 8)
                {
                    units[1] = low;
                    count = 2;
                    length = 12;
                }
                match char::decode_utf16(units[..count].iter().copied()).next() {
                    Some(Ok(character)) => out.push(character),
                    _ => {
                        return Err(Fault {
                            at,
                            what: "half of a surrogate pair in the text",
                        });
                    }
                }
            }
            other => out.push(char::from(other)),
        }
        rest = &rest[found + length..];
    }
    out.push_str(rest);
    Ok(())
}

/// Reads a number or a literal; returns what follows.
#[inline]
pub(crate) fn scalar(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    if bytes[at].is_ascii_lowercase() {
        for literal in [&b"true"[..], b"false", b"null"] {
            if bytes[at..].starts_with(literal) {
                return Ok(at + literal.len());
            }
        }
    }
    let digits = |from: usize| {
        let mut end = from;
        while matches!(bytes.get(end), Some(b'0'..=b'9')) {
            end += 1;
        }
        if end == from {
            Err(Fault::expected(bytes, end, "expected a value"))
        } else {
            Ok(end)
        }
    };
    let whole = if bytes[at] == b'-' { at + 1 } else { at };
    let mut end = digits(whole)?;
    if bytes[whole] == b'0' && end > whole + 1 {
        return Err(Fault {
            at: whole,
            what: "a number that begins with 0",
        });
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
        end = digits(end + 1 + usize::from(signed))?;
    }
    Ok(end)
}

/// Checks the object or array at `at`; returns what follows.
pub(crate) fn nested(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    // What is open, innermost last: the closing brackets.
    let mut open = Vec::new();
    loop {
        // At a value, or at the end of an empty object or array.
        at = after_space(bytes, at);
        let mut closes = false;
        match bytes.get(at) {
            None => return Err(Fault::end(at)),
            Some(bracket @ (b'{' | b'[')) => {
                if open.len() == DEPTH_MAX {
                    return Err(Fault {
                        at,
                        what: "objects and arrays stand too deep in each other",
                    });
                }
                open.push(if *bracket == b'{' { b'}' } else { b']' });
                at = after_space(bytes, at + 1);
                if bytes.get(at) == open.last() {
                    closes = true;
                } else {
                    at = name(bytes, at, *bracket == b'{')?;
                    continue;
                }
            }
            Some(b'"') => at = string(bytes, at)?.1,
            Some(_) => at = scalar(bytes, at)?,
        }
        // After a value: what closes, closes; a comma leads to the next one.
        loop {
            at = after_space(bytes, at);
            if closes || bytes.get(at) == open.last() {
                closes = false;
                open.pop();
                at += 1;
                if open.is_empty() {
                    return Ok(at);
                }
                continue;
            }
            if bytes.get(at) != Some(&b',') {
                return Err(Fault::expected(bytes, at, "expected a comma or a closing bracket"));
            }
            at = name(bytes, after_space(bytes, at + 1), open.last() == Some(&b'}'))?;
            break;
        }
    }
}

/// Passes the name of a member, where there is one, and its colon.
fn name(bytes: &[u8], at: usize, in_object: bool) -> Result<usize, Fault> {
    if !in_object {
        return Ok(at);
    }
    let at = after_space(bytes, string(bytes, at)?.1);
    if bytes.get(at) != Some(&b':') {
        return Err(Fault::expected(bytes, at, "expected a colon"));
    }
    Ok(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let mut out = String::new();
        unescape(r#"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00z"#, 0, &mut out).unwrap();
        assert_eq!(out, "a\"\\/\u{8}\u{c}\n\r\té😀z");
        for text in [r"\ud83d", r"\ud83dx", r"\ude00", r"\ud83d\u0041"] {
            assert!(unescape(text, 0, &mut String::new()).is_err(), "{text}");
        }
    }
}
