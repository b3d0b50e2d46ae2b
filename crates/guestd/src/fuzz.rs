//! Parsers of hostile bytes in uploads to a guest, each as a function of bytes: for the fuzz
//! targets in `fuzz/`, and for the tests below, which run everything that is in their corpora.

/// Unpacks a tar archive.
///
/// # Panics
/// When something was written beside the directory.
pub fn guest_archive(bytes: &[u8]) {
    crate::files::fuzz_archive(bytes);
}

/// Reads a multipart form, whose parts are separated by `--x`.
pub fn guest_form(bytes: &[u8]) {
    crate::files::fuzz_form(bytes);
}

#[cfg(test)]
mod tests {
    use testkit::corpus::replay_corpus;

    #[test]
    fn corpus_guest_archive() {
        replay_corpus("guest_archive", super::guest_archive);
    }

    #[test]
    fn corpus_guest_form() {
        replay_corpus("guest_form", super::guest_form);
    }
}
