//! Version of the installed Firecracker, and the check that guests may be trusted to it.

use std::path::{Path, PathBuf};

use semver::Version;

/// Oldest version that is accepted: in older ones the serial console of a restored guest can stall,
/// and their log has no limit.
const OLDEST: Version = Version::new(1, 16, 0);

/// Known vulnerabilities: the first affected version, the first fixed one, and the description.
const HOLES: [(Version, Version, &str); 3] = [
    (
        Version::new(1, 15, 0),
        Version::new(1, 15, 1),
        "CVE-2026-5747: a guest can write outside of its memory",
    ),
    (
        Version::new(1, 13, 0),
        Version::new(1, 14, 4),
        "CVE-2026-5747: a guest can write outside of its memory",
    ),
    (
        Version::new(0, 0, 0),
        Version::new(1, 16, 0),
        "a guest can make it use any amount of the host's memory through its source of random numbers",
    ),
];

/// Reason why a Firecracker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "Firecracker is not installed; put it on the PATH or its path into FIRECRACKER_BIN, or set AGENT_VMM=qemu"
    )]
    Missing,
    #[error("{} does not tell its version", .0.display())]
    Unknown(PathBuf, #[source] std::io::Error),
    #[error(
        "Firecracker {found} is refused ({hole}); install {OLDEST} or newer, or set AGENT_VMM=qemu"
    )]
    Refused { found: Version, hole: &'static str },
}

/// Returns the version of a program, if it may be used.
pub(crate) fn check(program: &Path) -> Result<Version, Error> {
    let unknown = |error| Error::Unknown(program.to_owned(), error);
    let line = linux::programs::version(program).map_err(unknown)?;
    let found =
        parse(&line).ok_or_else(|| unknown(std::io::Error::other(format!("it says {line:?}"))))?;
    judge(found)
}

/// Parses `Firecracker v1.16.1`, also without the `v`.
fn parse(line: &str) -> Option<Version> {
    let version = line.strip_prefix("Firecracker ")?.trim();
    Version::parse(version.strip_prefix('v').unwrap_or(version)).ok()
}

fn judge(found: Version) -> Result<Version, Error> {
    // A development version counts as the release that it leads to.
    let release = Version::new(found.major, found.minor, found.patch);
    match HOLES
        .iter()
        .find(|(first, fixed, _)| (first..fixed).contains(&&release))
    {
        Some((_, _, hole)) => Err(Error::Refused { found, hole }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vulnerable_versions_are_refused() {
        for (line, hole) in [
            ("Firecracker v1.15.0", "CVE-2026-5747"),
            ("Firecracker v1.14.3", "CVE-2026-5747"),
            ("Firecracker v1.14.4", "random numbers"),
            ("Firecracker v1.12.1", "random numbers"),
            ("Firecracker 0.25.2", "random numbers"),
        ] {
            let text = judge(parse(line).unwrap()).unwrap_err().to_string();
            assert!(text.contains(hole) && text.contains("1.16.0"), "{text}");
        }
    }

    #[test]
    fn good_versions_are_taken() {
        for line in [
            "Firecracker v1.16.0",
            "Firecracker v1.16.1",
            "Firecracker v1.17.0-dev",
            "Firecracker v2.0.0",
        ] {
            assert!(judge(parse(line).unwrap()).is_ok(), "{line}");
        }
        assert!(
            HOLES
                .iter()
                .all(|(first, fixed, _)| first < fixed && *fixed <= OLDEST)
        );
    }

    #[test]
    fn other_programs_are_not_firecracker() {
        assert_eq!(parse("QEMU emulator version 7.2.0"), None);
        assert_eq!(parse(""), None);
        assert!(matches!(
            check(Path::new("/nonexistent/firecracker")),
            Err(Error::Unknown(..))
        ));
    }
}
