//! Extends [`std::error`].

use std::error::Error;
use std::iter;

/// Returns the text of `error` and of its sources in one line, separated by colons.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for source in sources(error) {
        text = format!("{text}: {source}");
    }
    text
}

/// Iterates over the sources of `error`, the root cause last.
pub fn sources(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(error.source(), |&source| source.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read")]
    struct Inner(#[source] io::Error);

    #[test]
    fn chain_names_all_sources() {
        let error = Outer(Inner(io::Error::other("disk")));
        assert_eq!(chain(&error), "cannot start: cannot read: disk");
        assert_eq!(sources(&error).last().unwrap().to_string(), "disk");
    }
}
