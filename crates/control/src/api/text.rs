//! Bytes of a program as text, piece by piece: a character that a piece cuts in two is kept for the
//! next one.

/// UTF-8 decoder of a stream, which keeps an incomplete character until its other bytes come. Bytes
/// that are not UTF-8 become `U+FFFD`.
#[derive(Debug, Default)]
pub(crate) struct Utf8(Vec<u8>);

impl Utf8 {
    /// Appends `bytes` and returns all complete characters, without the incomplete one at the end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let complete = self.0.len() - cut_character(&self.0);
        let rest = self.0.split_off(complete);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }

    /// Returns the number of bytes of an incomplete last character.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the bytes of an incomplete last character as `U+FFFD`; empty if there are none.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// Returns the number of bytes at the end that begin a character whose rest may follow: at most
/// three.
pub(crate) fn cut_character(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    let begins = |&at: &usize| match std::str::from_utf8(&bytes[at..]) {
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
        Ok(_) => false,
    };
    (tail..bytes.len())
        .find(begins)
        .map_or(0, |at| bytes.len() - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However it is cut, the text is that of the whole, and what is complete is never held
        /// back.
        #[test]
        fn pieces_make_the_whole(pieces in proptest::collection::vec(
            prop_oneof![
                "\\PC{0,6}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..6),
            ], 0..8,
        ), cut in 1..5usize) {
            let whole = pieces.concat();
            let mut decoder = Utf8::default();
            let mut text = String::new();
            for piece in whole.chunks(cut) {
                text += &decoder.push(piece);
                prop_assert!(decoder.0.len() <= 3);
            }
            text += &decoder.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }

    #[test]
    fn a_character_in_two_pieces_is_one() {
        let mut decoder = Utf8::default();
        let euro = "€".as_bytes();
        assert_eq!(decoder.push(&euro[..1]), "");
        assert_eq!(decoder.push(&euro[1..]), "€");
    }
}
