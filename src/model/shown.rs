//! Names and paths as they are shown, in text and in JSON alike. They are bytes; what is shown says which bytes, and can
//! be turned back into them:
//!
//! - `\\` is a backslash,
//! - `\xNN` is a byte that is part of no UTF-8 character,
//! - `\u{N}` is a control character, or one that changes the direction of the text around it,
//! - anything else is itself.

use std::fmt::Write;

pub fn path(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                c if is_safe(c) => shown.push(c),
                c => shown.extend(c.escape_unicode()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Neither a control nor what changes the direction or the lines of the text around it.
pub fn is_safe(c: char) -> bool {
    let odd = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    !c.is_control() && !odd
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes that are shown like this; written from the description above.
    fn meant(shown: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut rest = shown;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c != '\\' {
                bytes.extend(c.to_string().bytes());
            } else if let Some(after) = rest.strip_prefix('\\') {
                bytes.push(b'\\');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('x') {
                bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
                rest = &after[2..];
            } else {
                let (number, after) = rest.strip_prefix("u{")?.split_once('}')?;
                bytes.extend(char::from_u32(u32::from_str_radix(number, 16).ok()?)?.to_string().bytes());
                rest = after;
            }
        }
        Some(bytes)
    }

    #[test]
    fn what_looks_alike_is_shown_differently() {
        for (bytes, expected) in [
            (&b"a\nb"[..], "a\\u{a}b"),
            (b"a\\nb", "a\\\\nb"),
            (b"x\xff", "x\\xff"),
            (b"x\\xff", "x\\\\xff"),
            (b"\x1b[2J\r\t", "\\u{1b}[2J\\u{d}\\u{9}"),
            ("\u{202e}é\u{7f}\u{85}".as_bytes(), "\\u{202e}é\\u{7f}\\u{85}"),
            (b"a/b c\"'", "a/b c\"'"),
        ] {
            assert_eq!(path(bytes), expected);
        }
    }

    proptest! {
        #[test]
        fn every_name_can_be_read_back_from_what_is_shown(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                "[\\\\xu{}a0-9f\\n\u{202e}é]{0,20}".prop_map(String::into_bytes),
            ],
        ) {
            let shown = path(&bytes);
            prop_assert!(shown.chars().all(is_safe));
            // So two that are shown alike are the same.
            prop_assert_eq!(meant(&shown), Some(bytes));
        }
    }
}
