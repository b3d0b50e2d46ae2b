//! Escapes in what is typed on a raw terminal, as ssh(1) has them: `~` after a line's end, and a
//! character that says what to do. Pure.

use bytes::Bytes;

/// What an escape asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `~.`
    Detach,
    /// `~?`
    Help,
    /// `~^Z`
    Suspend,
}

/// Help for `~?`.
pub const HELP: &str = "\
Supported escape sequences:
  ~.   detach; the command runs on
  ~^Z  suspend wrenn
  ~?   this message
  ~~   send the escape character by typing it twice
(Escapes are recognized immediately after a newline.)";

/// Ctrl-Z.
const SUSPEND: u8 = 0x1a;

/// Finds escapes in typed bytes, however these are cut.
#[derive(Debug)]
pub struct Escapes {
    /// `None`: there are no escapes.
    character: Option<u8>,
    at_line_start: bool,
    is_pending: bool,
}

impl Escapes {
    pub fn new(character: Option<u8>) -> Self {
        Self {
            character,
            at_line_start: true,
            is_pending: false,
        }
    }

    /// Returns the bytes for the command, and what the user asks for besides.
    pub fn filter(&mut self, typed: &[u8]) -> (Bytes, Vec<Action>) {
        let Some(character) = self.character else {
            return (Bytes::copy_from_slice(typed), Vec::new());
        };
        let mut passed = Vec::with_capacity(typed.len() + 1);
        let mut actions = Vec::new();
        for &byte in typed {
            if std::mem::take(&mut self.is_pending) {
                let action = match byte {
                    b'.' => Some(Action::Detach),
                    b'?' => Some(Action::Help),
                    SUSPEND => Some(Action::Suspend),
                    _ => None,
                };
                if let Some(action) = action {
                    // The line is as empty as before.
                    actions.push(action);
                    continue;
                }
                // Once for the escape character twice.
                if byte != character {
                    passed.push(character);
                }
            } else if self.at_line_start && byte == character {
                self.is_pending = true;
                continue;
            }
            passed.push(byte);
            self.at_line_start = matches!(byte, b'\r' | b'\n');
        }
        (passed.into(), actions)
    }
}

/// Parses an escape character: one of ASCII, `^` and a letter, or `none`.
pub fn parse_escape(text: &str) -> Result<EscapeChar, String> {
    let character = match text.as_bytes() {
        b"none" => None,
        [character] if character.is_ascii_graphic() => Some(*character),
        [b'^', letter] if letter.is_ascii_alphabetic() => Some(letter & 0x1f),
        _ => return Err("must be one character, ^ and a letter, or none".to_owned()),
    };
    Ok(EscapeChar(character))
}

/// The escape character of a session; `None`: it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EscapeChar(pub Option<u8>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(typed: &[&str]) -> (String, Vec<Action>) {
        let mut escapes = Escapes::new(Some(b'~'));
        let mut passed = Vec::new();
        let mut all = Vec::new();
        for piece in typed {
            let (bytes, actions) = escapes.filter(piece.as_bytes());
            passed.extend(bytes);
            all.extend(actions);
        }
        (String::from_utf8(passed).unwrap(), all)
    }

    #[test]
    fn escapes_are_those_of_ssh() {
        use Action::{Detach, Help, Suspend};
        for (typed, passed, actions) in [
            (&["~."][..], "", vec![Detach]),
            (&["ls\r~", "."], "ls\r", vec![Detach]),
            (&["ls ~/.", "\r"], "ls ~/.\r", vec![]),
            (&["cd ~.\r"], "cd ~.\r", vec![]),
            (&["~?~?", "~\u{1a}"], "", vec![Help, Help, Suspend]),
            (&["~~."], "~.", vec![]),
            (&["~~\r~~~."], "~\r~~.", vec![]),
            (&["~x.\n~."], "~x.\n", vec![Detach]),
        ] {
            assert_eq!(filter(typed), (passed.to_owned(), actions), "{typed:?}");
        }
    }

    #[test]
    fn escape_characters_are_parsed() {
        for (text, character) in [("none", None), ("%", Some(b'%')), ("^B", Some(2))] {
            assert_eq!(parse_escape(text), Ok(EscapeChar(character)));
        }
        for text in ["", "ab", "^1", "\u{e4}"] {
            assert!(parse_escape(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(typed in "[a~.?\r]{0,24}", at in 0_usize..24) {
            let at = at.min(typed.len());
            prop_assert_eq!(filter(&[&typed]), filter(&[&typed[..at], &typed[at..]]));
        }

        #[test]
        fn bytes_without_escapes_pass(typed in prop::collection::vec(any::<u8>(), 0..64)) {
            let (passed, actions) = Escapes::new(None).filter(&typed);
            prop_assert_eq!((&passed[..], actions), (&typed[..], vec![]));
            let typed: Vec<u8> = typed.into_iter().filter(|byte| *byte != b'~').collect();
            let (passed, actions) = Escapes::new(Some(b'~')).filter(&typed);
            prop_assert_eq!((&passed[..], actions), (&typed[..], vec![]));
        }
    }
}
