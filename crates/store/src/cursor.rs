//! Cursors: the end of a page of the list, as opaque text for URLs.

use std::fmt;
use std::str::FromStr;

use model::{InvalidValue, SandboxId};

/// The last row of a page; the next page begins after it.
///
/// As text: 16 hex digits of the time, a dot, the id. One cursor has one spelling, and it needs no
/// escaping in URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    pub id: SandboxId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.created_at, self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        parse(text).ok_or_else(|| {
            InvalidValue::new(
                "cursor",
                "must be the text that came with the page before, unchanged; or leave it out",
            )
        })
    }
}

fn parse(text: &str) -> Option<Cursor> {
    let (time, id) = text.split_once('.')?;
    // from_str_radix alone would also take "+1", "A" and "1".
    if time.len() != 16
        || !time
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    let created_at = u64::from_str_radix(time, 16).ok()?.cast_signed();
    Some(Cursor {
        created_at,
        id: id.parse().ok()?,
    })
}
