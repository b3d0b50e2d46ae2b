//! Bytes that are not UTF-8 in text: names, arguments and variables of Linux are bytes, JSON and
//! the contracts are text.
//!
//! A byte that is not part of a UTF-8 character stands as U+10FFFD, `x` and two hexadecimal digits,
//! so that `caf\xe9` is `caf\u{10fffd}xE9`: Raku's encoding UTF-8 Clean-8. U+10FFFD is the last
//! private character, which no name has in practice; where one has it, its own four bytes are
//! escaped, so that every sequence of bytes has one text and none is lost. Text without U+10FFFD
//! stands for itself.
//!
//! Guests of before this take the escape for what it is: a file of such a name is not found there.

const ESCAPE: char = '\u{10fffd}';

/// Returns the text that stands for `bytes`.
#[must_use]
pub fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push(ESCAPE);
            text.push_str(&format!("x{byte:02X}"));
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ESCAPE => escape(&mut text, ESCAPE.encode_utf8(&mut [0; 4]).as_bytes()),
                other => text.push(other),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Returns the bytes that `text` stands for. An escape of an ASCII character stands for itself: no
/// NUL and no slash can come out of text that has none.
#[must_use]
pub fn from_text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(ESCAPE) {
        bytes.extend_from_slice(before.as_bytes());
        match escaped(after) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.extend_from_slice(ESCAPE.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Returns the byte of `xHH`, with which `text` begins.
fn escaped(text: &str) -> Option<u8> {
    let digits = text.strip_prefix('x')?.get(..2)?;
    let byte = digits
        .bytes()
        .all(|digit| digit.is_ascii_hexdigit())
        .then(|| u8::from_str_radix(digits, 16).ok())??;
    (!byte.is_ascii()).then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_for_itself() {
        for text in [
            "",
            "notes.txt",
            "\u{e4}\u{20ac}\u{1f600}",
            "a\\xE9%C3",
            "\u{fffd}",
        ] {
            assert_eq!(
                (
                    to_text(text.as_bytes()).as_str(),
                    from_text(text).as_slice()
                ),
                (text, text.as_bytes())
            );
        }
    }

    #[test]
    fn bytes_survive_whatever_they_are() {
        assert_eq!(to_text(b"caf\xe9.txt"), "caf\u{10fffd}xE9.txt");
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [
            &all[..],
            b"\xff\xfe",
            b"\xe2\x82",
            "\u{10fffd}".as_bytes(),
            "\u{10fffd}xE9".as_bytes(),
            b"x\xf4",
        ] {
            assert_eq!(from_text(&to_text(bytes)), bytes, "{bytes:?}");
        }
        // Pseudo-random, with many halves of characters.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            [0x41, 0xe2, 0x82, 0xac, 0xf4, 0x8f, 0xbf, 0xbd, 0x78, 0x45]
                [(state >> 24) as usize % 10]
        };
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length % 12).map(|_| next()).collect();
            assert_eq!(from_text(&to_text(&bytes)), bytes);
        }
    }

    #[test]
    fn escapes_of_ascii_are_no_escapes() {
        for text in [
            "\u{10fffd}x2F",
            "\u{10fffd}x00",
            "\u{10fffd}x",
            "\u{10fffd}",
            "\u{10fffd}x+9",
            "\u{10fffd}xE\u{e9}",
        ] {
            assert_eq!(from_text(text), text.as_bytes(), "{text:?}");
        }
    }
}
