//! The `Range` header (RFC 9110 section 14), one range only.

/// Part of a file of known size that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Whole file: no range, several ranges, or one that cannot be read, all of which a server may
    /// ignore.
    Whole,
    /// Range from byte `start` on, `length` bytes long (never 0).
    Some { start: u64, length: u64 },
    /// The range lies behind the end: 416.
    Outside,
}

/// Reads the header's value for a file of `size` bytes. An empty file is always sent whole.
pub fn parse_range(header: Option<&str>, size: u64) -> Part {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    if size == 0 || spec.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = spec.split_once('-') else {
        return Part::Whole;
    };
    match (number(first), number(last)) {
        (Ok(Some(start)), Ok(last)) => {
            let last = last.unwrap_or(u64::MAX);
            if last < start {
                Part::Whole
            } else if start >= size {
                Part::Outside
            } else {
                Part::Some {
                    start,
                    length: last.min(size - 1) - start + 1,
                }
            }
        }
        (Ok(None), Ok(Some(0))) => Part::Outside,
        (Ok(None), Ok(Some(tail))) => {
            let length = tail.min(size);
            Part::Some {
                start: size - length,
                length,
            }
        }
        _ => Part::Whole,
    }
}

/// Parses a number of digits only; `None` if there is none.
fn number(text: &str) -> Result<Option<u64>, ()> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(());
    }
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range() {
        let part = |text| parse_range(Some(text), 10);
        assert_eq!(
            part("bytes=0-0"),
            Part::Some {
                start: 0,
                length: 1
            }
        );
        assert_eq!(
            part("bytes=3-"),
            Part::Some {
                start: 3,
                length: 7
            }
        );
        assert_eq!(
            part("bytes=3-99999999999999999999999"),
            Part::Some {
                start: 3,
                length: 7
            }
        );
        assert_eq!(
            part("bytes=-4"),
            Part::Some {
                start: 6,
                length: 4
            }
        );
        assert_eq!(
            part("bytes=-40"),
            Part::Some {
                start: 0,
                length: 10
            }
        );
    }

    #[test]
    fn behind_the_end() {
        assert_eq!(parse_range(Some("bytes=10-"), 10), Part::Outside);
        assert_eq!(parse_range(Some("bytes=-0"), 10), Part::Outside);
    }

    #[test]
    fn what_is_ignored() {
        for text in [
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=-",
            "bytes=+1-2",
        ] {
            assert_eq!(parse_range(Some(text), 10), Part::Whole, "{text}");
        }
        assert_eq!(parse_range(Some("bytes=0-"), 0), Part::Whole);
        assert_eq!(parse_range(None, 10), Part::Whole);
    }
}
