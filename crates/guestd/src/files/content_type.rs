//! The `Content-Type` of a file, from its name, else from its first bytes.

use std::ffi::OsStr;
use std::path::Path;

/// Bytes of the head that are looked at (as in the WHATWG's sniffing standard).
const SNIFFED: usize = 512;

const BY_EXTENSION: &[(&str, &str)] = &[
    ("avif", "image/avif"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp4", "video/mp4"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webp", "image/webp"),
    ("xml", "text/xml; charset=utf-8"),
    ("zip", "application/zip"),
];

/// Guesses the media type of the file at `path`, which begins with `head`.
pub fn guess_content_type(path: &Path, head: &[u8]) -> &'static str {
    let extension = path
        .extension()
        .and_then(OsStr::to_str)
        .map(str::to_ascii_lowercase);
    let known = extension.and_then(|ext| BY_EXTENSION.iter().find(|(name, _)| *name == ext));
    match known {
        Some((_, content_type)) => content_type,
        None if is_text(&head[..head.len().min(SNIFFED)]) => "text/plain; charset=utf-8",
        None => "application/octet-stream",
    }
}

fn is_text(head: &[u8]) -> bool {
    let printable =
        |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r' | b'\x0c' | b'\x1b');
    let whole = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character that the cut fell into.
        Err(e) => e.error_len().is_none(),
    };
    whole && head.iter().all(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_first_then_content() {
        let guess = |path: &str, head: &[u8]| guess_content_type(Path::new(path), head);
        assert_eq!(guess("/a/B.JSON", b"\0"), "application/json");
        assert_eq!(guess("/a/b", b"text"), "text/plain; charset=utf-8");
        assert_eq!(
            guess("/a/b", "ä".as_bytes().split_at(1).0),
            "text/plain; charset=utf-8"
        );
        assert_eq!(guess("/a/b", b"\x7fELF\0"), "application/octet-stream");
        assert_eq!(guess("/a/b.bin", b"\xff\xfe"), "application/octet-stream");
    }
}
