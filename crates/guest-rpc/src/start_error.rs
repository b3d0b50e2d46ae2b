//! The text with which a guest agent refuses to start a program. It is part of the contract: hosts
//! read the system's error number from it, also from guests that are old.

use std::io;

/// Returns the text: `cannot start 'NAME': REASON (os error NUMBER)`.
#[must_use]
pub fn text(program: &str, error: &io::Error) -> String {
    format!("cannot start '{program}': {error}")
}

/// Returns the error number of such a text; `None` for any other text.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    let (_, number) = text
        .strip_prefix("cannot start '")?
        .rsplit_once(" (os error ")?;
    number.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_read_back_from_text() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(number(&text("a (os error 13)' b", &error)), Some(2));
        assert_eq!(number("cannot start 'x': no idea"), None);
        assert_eq!(number("cwd '/x' does not exist (os error 2)"), None);
    }
}
