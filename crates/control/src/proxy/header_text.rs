//! Header values as text, byte for byte: each byte is the character of its number (ISO 8859-1), and
//! back. The proxy looks for ASCII alone; all other bytes are forwarded unchanged.

use http::HeaderValue;

/// Returns the bytes of `value` as characters.
pub fn from_value(value: &HeaderValue) -> String {
    value
        .as_bytes()
        .iter()
        .map(|byte| char::from(*byte))
        .collect()
}

/// Converts text that [`from_value`] made to a value. `None` for text with other characters, or
/// with line breaks.
pub fn to_value(text: &str) -> Option<HeaderValue> {
    let bytes: Option<Vec<u8>> = text
        .chars()
        .map(|character| u8::try_from(u32::from(character)).ok())
        .collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (b' '..=255).filter(|byte| *byte != 127).collect();
        let value = HeaderValue::from_bytes(&all).unwrap();
        assert_eq!(to_value(&from_value(&value)).unwrap(), value);
        assert_eq!((to_value("\u{100}"), to_value("a\r\nb")), (None, None));
    }
}
