//! Bounded text: a model that gets a megabyte of a build log has no room left to think.

use serde_json::{Value, json};

/// Bytes of one answer.
pub const MAX_TEXT: usize = 32 * 1024;

/// Bytes of it that come from the beginning; errors stand at the end as a rule.
const HEAD: usize = 8 * 1024;

/// Output of a command: its beginning and its end, in bounded memory.
#[derive(Debug)]
pub struct Excerpt {
    head: Vec<u8>,
    /// The last bytes after `head`, as a ring.
    tail: std::collections::VecDeque<u8>,
    limit: usize,
    total: u64,
}

impl Excerpt {
    /// Keeps at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: std::collections::VecDeque::new(),
            limit,
            total: 0,
        }
    }

    fn head_limit(&self) -> usize {
        HEAD.min(self.limit / 4)
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.head_limit() - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        let keep = self.limit - self.head_limit();
        let rest = &rest[rest.len().saturating_sub(keep)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(keep);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Number of bytes that were pushed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Number of bytes that are not in the text.
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    /// Returns the text, with a mark where bytes were left out. Bytes that are not UTF-8 are
    /// replaced.
    #[must_use]
    pub fn into_text(self) -> String {
        let omitted = self.omitted();
        let mut bytes = self.head;
        if omitted == 0 {
            bytes.extend(self.tail);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let tail: Vec<u8> = self.tail.into();
        let tail = String::from_utf8_lossy(&tail);
        format!(
            "{head}\n[… {omitted} bytes are left out here; write long output to a file and read parts of it …]\n{tail}"
        )
    }
}

/// Drops the items of a list that do not fit into an answer, and returns their number.
pub fn drop_excess(items: &mut Vec<Value>) -> usize {
    let mut length = 0;
    let fits = |item: &&Value| {
        length += item.to_string().len();
        length <= MAX_TEXT
    };
    let fitting = items.iter().take_while(fits).count();
    let excess = items.len() - fitting;
    items.truncate(fitting);
    excess
}

/// Returns a list as an answer, which says how many items are left out of it.
pub fn bounded_list(name: &str, mut items: Vec<Value>) -> Value {
    let excess = drop_excess(&mut items);
    let mut answer = json!({ name: items });
    if excess > 0 {
        answer["omitted"] = json!(excess);
    }
    answer
}

/// Returns the last line that is not empty, at most `limit` characters of it.
#[must_use]
pub fn last_line(bytes: &[u8], limit: usize) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    let shown = line.chars().filter(|c| !c.is_control()).take(limit);
    Some(shown.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_bounded() {
        let items = |count| vec![json!("x".repeat(1000)); count];
        let all = bounded_list("files", items(3));
        assert_eq!(all, json!({ "files": items(3) }));
        let cut = bounded_list("files", items(100));
        assert!(cut["files"].to_string().len() <= MAX_TEXT + 100);
        assert_eq!(cut["omitted"], 100 - cut["files"].as_array().unwrap().len());
    }

    proptest! {
        #[test]
        fn excerpt_is_beginning_and_end(
            parts in prop::collection::vec(prop::collection::vec(b'a'..=b'z', 0..40), 0..20),
            limit in 4usize..100,
        ) {
            let all = parts.concat();
            let mut excerpt = Excerpt::new(limit);
            parts.iter().for_each(|part| excerpt.push(part));
            prop_assert_eq!(excerpt.total(), all.len() as u64);
            let omitted = excerpt.omitted();
            let text = excerpt.into_text();
            if all.len() <= limit {
                prop_assert_eq!(omitted, 0);
                prop_assert_eq!(text.into_bytes(), all);
            } else {
                prop_assert_eq!(omitted, (all.len() - limit) as u64);
                let all = String::from_utf8(all).unwrap();
                prop_assert!(text.starts_with(&all[..limit / 4]));
                prop_assert!(text.ends_with(&all[all.len() - (limit - limit / 4)..]));
            }
        }
    }

    #[test]
    fn progress_shows_last_line_with_text() {
        assert_eq!(
            last_line(b"one\n two \x1b[0m\n\n", 5),
            Some("two [".to_owned())
        );
        assert_eq!(last_line(b"\n \n", 5), None);
    }
}
