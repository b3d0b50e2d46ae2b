//! Our words on the kernel command line.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Settings of the host on the kernel command line; other words are the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline {
    /// `wrenn.root=`: block device of the root file system.
    pub root: PathBuf,
    /// `wrenn.dns=`: name servers, comma-separated, used where the image has none.
    pub dns: Vec<IpAddr>,
    /// `wrenn.hostname=`.
    pub hostname: Option<String>,
}

impl Cmdline {
    /// Reads `/proc/cmdline`.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/cmdline")?))
    }

    fn parse(text: &str) -> Self {
        // The last one wins, as with the kernel's own parameters.
        let value = |key: &str| {
            text.split_ascii_whitespace()
                .rev()
                .find_map(|word| word.strip_prefix(key))
        };
        let dns = value("wrenn.dns=").unwrap_or("8.8.8.8,8.8.4.4");
        Self {
            root: value("wrenn.root=").unwrap_or("/dev/vda").into(),
            dns: dns
                .split(',')
                .filter_map(|address| address.parse().ok())
                .collect(),
            hostname: value("wrenn.hostname=")
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_our_words_among_others() {
        let text = "console=ttyS0 wrenn.root=/dev/vdb wrenn.dns=1.1.1.1,bad,::1 wrenn.hostname=box panic=1\n";
        let line = Cmdline::parse(text);
        assert_eq!(line.root, PathBuf::from("/dev/vdb"));
        assert_eq!(
            line.dns,
            [
                "1.1.1.1".parse::<IpAddr>().expect("v4"),
                "::1".parse().expect("v6")
            ]
        );
        assert_eq!(line.hostname.as_deref(), Some("box"));
    }

    #[test]
    fn has_defaults() {
        let line = Cmdline::parse("quiet");
        assert_eq!(line.root, PathBuf::from("/dev/vda"));
        assert_eq!((line.dns.len(), line.hostname), (2, None));
    }
}
