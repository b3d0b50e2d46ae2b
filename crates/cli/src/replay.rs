//! Queries in output that a terminal has answered before.
//!
//! A program asks the terminal what it is, where its cursor is, which colours it has; the terminal
//! types the answer. Where a terminal is shown output from before it was attached, the answers would
//! be input for a program that no longer waits for them, so queries are left out of it. Sequences
//! are those of ECMA-48 and xterm; anything else passes as it is.

use bytes::Bytes;

/// Most bytes of an unfinished sequence that are held back; a longer one passes.
const MAX_HELD: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const ENQ: u8 = 0x05;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// Filter for output from before the terminal was attached.
#[derive(Debug, Default)]
pub struct ReplayFilter {
    /// Offset at which output ended when the terminal was attached, once it is known.
    end: Option<u64>,
    state: State,
    /// Bytes of the sequence that has begun.
    held: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    Escape,
    /// CSI: up to a final byte.
    Control,
    /// OSC, DCS and others: up to ST, or BEL.
    Text,
    /// ESC in a text: its end if a backslash follows.
    TextEscape,
}

impl ReplayFilter {
    /// Notes the end of the output when the terminal was attached, the first time.
    pub fn note_end(&mut self, end: u64) {
        self.end.get_or_insert(end);
    }

    /// Returns a piece, which ends at `next_offset`, without the queries that it has before the end
    /// noted.
    pub fn filter_before_end(&mut self, piece: Bytes, next_offset: u64) -> Bytes {
        let Some(end) = self.end else { return piece };
        let later = usize::try_from(next_offset.saturating_sub(end)).unwrap_or(usize::MAX);
        let at = piece.len().saturating_sub(later);
        if at == 0 && self.held.is_empty() {
            return piece;
        }
        let mut shown = self.filter(&piece[..at]);
        if next_offset >= end {
            shown.extend(self.finish());
        }
        shown.extend_from_slice(&piece[at..]);
        shown.into()
    }

    /// Returns the bytes of a piece that are no queries. The begin of a sequence is held back.
    fn filter(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut passed = Vec::with_capacity(piece.len());
        for &byte in piece {
            self.push(byte, &mut passed);
        }
        passed
    }

    /// Returns what was held back, at the end of the output to filter.
    fn finish(&mut self) -> Vec<u8> {
        self.state = State::Ground;
        std::mem::take(&mut self.held)
    }

    fn push(&mut self, byte: u8, passed: &mut Vec<u8>) {
        let is_cancelled = matches!(byte, CAN | SUB);
        if is_cancelled || (byte == ESC && matches!(self.state, State::Escape | State::Control)) {
            passed.append(&mut self.held);
            self.state = State::Ground;
        }
        if self.state == State::TextEscape && byte != b'\\' {
            // Not an end: the ESC begins a sequence of its own.
            self.held.pop();
            passed.append(&mut self.held);
            self.held.push(ESC);
            self.state = State::Escape;
        }
        if self.state == State::Ground && byte != ESC {
            if byte != ENQ {
                passed.push(byte);
            }
            return;
        }
        self.held.push(byte);
        self.state = match (self.state, byte) {
            (State::Ground, _) => State::Escape,
            (State::Escape, b'[') => State::Control,
            (State::Escape, b']' | b'P' | b'_' | b'^' | b'X') => State::Text,
            // Intermediate bytes, up to a final one.
            (State::Escape, 0x20..=0x2f) => State::Escape,
            (State::Control, 0x40..=0x7e) | (State::Escape | State::TextEscape, _) => State::Ground,
            (State::Text, BEL) => State::Ground,
            (State::Text, ESC) => State::TextEscape,
            (state, _) => state,
        };
        if self.state == State::Ground && is_query(&self.held) {
            self.held.clear();
        }
        if self.state == State::Ground || self.held.len() > MAX_HELD {
            self.state = State::Ground;
            passed.append(&mut self.held);
        }
    }
}

/// Returns true for a whole sequence that a terminal answers.
fn is_query(sequence: &[u8]) -> bool {
    match sequence {
        [ESC, b'Z'] => true,
        [ESC, b'[', parameters @ .., last] => is_control_query(parameters, *last),
        [ESC, b'P', text @ ..] => is_status_query(text),
        [ESC, b']', text @ ..] => is_text_query(text),
        _ => false,
    }
}

/// CSI: device attributes, status and position, version, modes, keyboard, window, checksum.
fn is_control_query(parameters: &[u8], last: u8) -> bool {
    let private = parameters.first().copied().unwrap_or_default();
    let intermediate = parameters.last().copied().unwrap_or_default();
    match last {
        b'c' => private != b'?',
        b'n' => private != b'>',
        b'q' => private == b'>',
        b'u' | b'S' | b'm' => private == b'?',
        b'p' | b'w' => intermediate == b'$',
        b'y' => intermediate == b'*',
        b'x' => intermediate != b'$' && intermediate != b'*',
        b't' => {
            let first = parameters.split(|byte| *byte == b';').next();
            let first = first.and_then(|number| std::str::from_utf8(number).ok());
            let number: Option<u8> = first.and_then(|number| number.parse().ok());
            matches!(number, Some(11 | 13..=16 | 18..=21))
        }
        _ => false,
    }
}

/// DCS: DECRQSS and XTGETTCAP.
fn is_status_query(text: &[u8]) -> bool {
    let begin = text
        .iter()
        .position(|byte| !matches!(byte, b'0'..=b'9' | b';'));
    let body = begin.map_or(text, |begin| &text[begin..]);
    body.starts_with(b"$q") || body.starts_with(b"+q")
}

/// OSC: a parameter is `?`, as of colours and the clipboard; not of a title.
fn is_text_query(text: &[u8]) -> bool {
    let text = text.strip_suffix(&[BEL]).unwrap_or(text);
    let text = text.strip_suffix(&[ESC, b'\\']).unwrap_or(text);
    let mut parameters = text.split(|byte| *byte == b';');
    let is_title = matches!(parameters.next(), Some(b"0" | b"1" | b"2"));
    !is_title && parameters.any(|parameter| parameter == b"?")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequences that terminals answer, and some that they do not.
    const QUERIES: &[&str] = &[
        "\x1b[c",
        "\x1b[0c",
        "\x1b[>c",
        "\x1b[=0c",
        "\x1b[6n",
        "\x1b[?6n",
        "\x1b[>0q",
        "\x1b[?u",
        "\x1b[?2026$p",
        "\x1b[18t",
        "\x1b[0x",
        "\x1b[?4m",
        "\x1bP$qm\x1b\\",
        "\x1bP+q544e\x1b\\",
        "\x1b]11;?\x07",
        "\x1b]10;?\x1b\\",
        "\x1b]4;1;?\x07",
        "\x1b]52;c;?\x07",
        "\x1bZ",
        "\x05",
    ];
    const OTHERS: &[&str] = &[
        "plain ä\r\n",
        "\x1b[1;31m",
        "\x1b[?25l",
        "\x1b[?1049h",
        "\x1b[2J",
        "\x1b[>1u",
        "\x1b[4S",
        "\x1b[22;0t",
        "\x1b[1 q",
        "\x1b]0;?\x07",
        "\x1b]8;;http://a/?\x1b\\",
        "\x1b(B",
        "\x1b7",
        "\x1b[12\x1b[1m",
        "\x1b[6\x18n",
        "\x1b]11;\x1b[1m",
    ];

    #[test]
    fn replay_leaves_queries_out() {
        let all: String = QUERIES
            .iter()
            .zip(OTHERS.iter().cycle())
            .map(|(a, b)| format!("{a}{b}"))
            .collect();
        let others: String = OTHERS.iter().cycle().take(QUERIES.len()).copied().collect();
        for size in [1, 2, 3, 7, all.len()] {
            let mut filter = ReplayFilter::default();
            let mut passed: Vec<u8> = all
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| filter.filter(piece))
                .collect();
            passed.extend(filter.finish());
            assert_eq!(
                String::from_utf8(passed).unwrap(),
                others,
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn queries_after_end_pass() {
        let mut filter = ReplayFilter::default();
        let query = || Bytes::from_static(b"a\x1b[6n");
        assert_eq!(
            filter.filter_before_end(query(), 5),
            query(),
            "no end is known"
        );
        filter.note_end(13);
        filter.note_end(100);
        assert_eq!(filter.filter_before_end(query(), 10), b"a"[..]);
        assert_eq!(
            filter.filter_before_end(query(), 15),
            query(),
            "the end cuts it"
        );
        assert_eq!(filter.filter_before_end(query(), 20), query());
    }

    #[test]
    fn unfinished_sequences_pass() {
        let mut filter = ReplayFilter::default();
        assert_eq!(filter.filter(b"a\x1b[6"), b"a");
        assert_eq!(filter.finish(), b"\x1b[6");
        assert_eq!(filter.filter(b"n"), b"n");
        let long = [b"\x1b]52;c;".to_vec(), vec![b'x'; 2 * MAX_HELD]].concat();
        assert_eq!(filter.filter(&long), long);
    }
}
