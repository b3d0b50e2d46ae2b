//! Keepalives of streams on which nothing happens (E2B contract 2.3).

use std::time::Duration;

use http::HeaderMap;

/// Interval where the client does not ask for one.
const DEFAULT: Duration = Duration::from_secs(90);

/// Longest interval that a client can ask for; a longer one would be none at all, and could not be
/// added to a clock.
const LONGEST: Duration = Duration::from_secs(3600);

/// The header that says, in whole seconds.
const HEADER: &str = "keepalive-ping-interval";

/// Returns the keepalive interval that a request asks for; the default unless it is a positive
/// number of seconds.
pub fn keepalive_interval(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(HEADER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    seconds
        .filter(|s| *s > 0)
        .map_or(DEFAULT, |s| Duration::from_secs(s).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_seconds_within_bounds() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, value.parse().expect("a header"));
            keepalive_interval(&headers)
        };
        assert_eq!(of("50"), Duration::from_secs(50));
        assert_eq!(of("18446744073709551615"), LONGEST);
        for odd in ["0", "-1", "soon", ""] {
            assert_eq!(of(odd), DEFAULT);
        }
        assert_eq!(keepalive_interval(&HeaderMap::new()), DEFAULT);
    }
}
