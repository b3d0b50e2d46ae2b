//! Attributes of files on the wire, flags of opens, and the lines that `ls -l` of a client shows.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::packet::{Answer, Code, Fields, Refusal};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 1 << 31;

/// Permission bits with set-user-id, set-group-id and sticky.
const MODE_BITS: u32 = 0o7777;

/// Age up to which a time is shown with its hour, as by ls(1).
const RECENT: Duration = Duration::from_secs(182 * 24 * 60 * 60);

/// Last second of the year 9999, the latest that is shown.
const LATEST: u64 = 253_402_300_799;

/// Attributes that a client sets; `None` leaves one as it is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub size: Option<u64>,
    /// Numbers of user and group.
    pub owner: Option<(u32, u32)>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Last access and last modification, in seconds since 1970.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub fn read(fields: &mut Fields<'_>) -> Result<Self, Refusal> {
        let flags = fields.u32()?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(fields.u64()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.mode = Some(fields.u32()? & MODE_BITS);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((fields.u32()?, fields.u32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..fields.u32()? {
                fields.bytes()?;
                fields.bytes()?;
            }
        }
        Ok(attributes)
    }
}

/// Appends the attributes of a file.
pub fn put_attributes(answer: &mut Answer, metadata: &Metadata) {
    let seconds = |time: i64| u32::try_from(time).unwrap_or(if time < 0 { 0 } else { u32::MAX });
    answer.put_u32(SIZE | OWNER | PERMISSIONS | TIMES);
    answer.put_u64(metadata.size());
    answer.put_u32(metadata.uid());
    answer.put_u32(metadata.gid());
    answer.put_u32(metadata.mode());
    answer.put_u32(seconds(metadata.atime()));
    answer.put_u32(seconds(metadata.mtime()));
}

/// Flags of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub create: bool,
    pub truncate: bool,
    pub exclusive: bool,
}

impl OpenFlags {
    pub fn from_bits(bits: u32) -> Self {
        let has = |bit: u32| bits & bit != 0;
        Self {
            read: has(1),
            write: has(2),
            append: has(4),
            create: has(8),
            truncate: has(16),
            exclusive: has(32),
        }
    }

    /// Returns the options of open(2), with the mode of a file that is made.
    ///
    /// # Errors
    /// Combinations that mean nothing.
    pub fn options(self, mode: Option<u32>) -> Result<OpenOptions, Refusal> {
        let writes = self.write || self.append;
        if !self.read && !writes {
            return Err(Refusal::new(
                Code::Failure,
                "an open has to read or to write",
            ));
        }
        if (self.create || self.truncate) && !writes {
            return Err(Refusal::new(
                Code::Failure,
                "an open that makes or truncates a file has to write",
            ));
        }
        let mut options = OpenOptions::new();
        options
            .read(self.read)
            .write(writes)
            .append(self.append)
            .create(self.create)
            .create_new(self.create && self.exclusive)
            .truncate(self.truncate && !self.append)
            .mode(mode.unwrap_or(0o666));
        Ok(options)
    }
}

/// Returns the line of a file that clients print as they get it.
pub fn long_name(name: &str, metadata: &Metadata, now: SystemTime) -> String {
    format!(
        "{} {:>4} {:<8} {:<8} {:>8} {} {name}",
        mode_text(metadata.mode()),
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.size(),
        time_text(metadata.mtime(), now),
    )
}

/// Returns type and permission bits as ls(1) shows them.
fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// Returns a time in UTC as ls(1) shows it: with the hour if it is recent, else with the year.
fn time_text(seconds: i64, now: SystemTime) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LATEST);
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    // As in "Sun, 06 Nov 1994 08:49:37 GMT".
    let text = httpdate::fmt_http_date(time);
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, hour, _] = words[..] else {
        return text;
    };
    let is_recent = now.duration_since(time).is_ok_and(|age| age < RECENT);
    let last = if is_recent {
        hour.get(..5).unwrap_or(hour)
    } else {
        year
    };
    format!("{month} {day} {last:>5}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_by_ls() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o120_777, "lrwxrwxrwx"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o010_600, "prw-------"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }

    #[test]
    fn times_are_shown_as_by_ls() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(time_text(784_111_777, now), "Nov 06 08:49");
        assert_eq!(time_text(700_000_000, now), "Mar 07  1992");
        assert_eq!(time_text(-1, now), "Jan 01  1970");
        assert_eq!(time_text(i64::MAX, now), "Dec 31  9999");
    }

    #[test]
    fn open_flags_follow_draft() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        let open = |bits: u32| -> Result<std::fs::File, Refusal> {
            Ok(OpenFlags::from_bits(bits).options(None)?.open(&path)?)
        };
        let code = |bits: u32| open(bits).map(drop).map_err(|refusal| refusal.code);
        assert_eq!(code(1), Err(Code::NoSuchFile));
        assert_eq!(code(0), Err(Code::Failure), "neither reads nor writes");
        assert_eq!(code(1 | 8), Err(Code::Failure), "makes without writing");
        assert_eq!(code(2 | 8 | 32), Ok(()));
        assert_eq!(code(2 | 8 | 32), Err(Code::Failure), "is there");
        std::fs::write(&path, b"abc").expect("writes");
        assert_eq!(code(2 | 4 | 8), Ok(()));
        assert_eq!(std::fs::read(&path).expect("reads"), b"abc");
        assert_eq!(code(2 | 8 | 16), Ok(()));
        assert_eq!(std::fs::read(&path).expect("reads"), b"");
    }

    #[test]
    fn attributes_are_read_in_order() {
        let mut bytes = Vec::new();
        for word in [SIZE | OWNER | PERMISSIONS | TIMES | EXTENDED, 1, 2, 3, 4] {
            bytes.extend_from_slice(&u32::to_be_bytes(word));
        }
        for word in [0o100_755_u32, 5, 6, 1, 0, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        let read = Attributes::read(&mut Fields::new(&bytes)).expect("is whole");
        let expected = Attributes {
            size: Some((1 << 32) | 2),
            owner: Some((3, 4)),
            mode: Some(0o755),
            times: Some((5, 6)),
        };
        assert_eq!(read, expected);
        for length in 0..bytes.len() {
            let cut = Attributes::read(&mut Fields::new(&bytes[..length]));
            assert_eq!(cut, Err(Refusal::malformed()), "{length}");
        }
    }
}
