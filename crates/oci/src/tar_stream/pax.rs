//! Extended headers (POSIX, "pax Extended Header"): records `LENGTH KEY=VALUE\n`, whose values have
//! any bytes.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use super::Attributes;
use crate::error::{Result, invalid, limit, printable};
use crate::limits::{MAX_ATTRIBUTES, MAX_EXTENTS};

/// Prefix of extended attributes, as star, GNU tar and Go's archive/tar write them.
const ATTRIBUTE: &str = "SCHILY.xattr.";
/// Prefix of access lists in the form of acl(5), as star, bsdtar and `tar --acls` write them.
const ACCESS_LIST: &str = "SCHILY.acl.";
/// Records that may come several times, in order: stretches of sparse files of form 0.0.
const SPARSE_PAIR: [&str; 2] = ["GNU.sparse.offset", "GNU.sparse.numbytes"];

/// Records of the headers that hold for an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Records of [`SPARSE_PAIR`], in order.
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Records of the headers for all entries, which these outrank.
    global: Option<Arc<Self>>,
}

impl Pax {
    pub(super) fn parse(mut content: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !content.is_empty() {
            let ((key, value), rest) = split_record(content)
                .ok_or_else(|| invalid("the archive is broken: a record of an extended header"))?;
            content = rest;
            if SPARSE_PAIR.iter().any(|pair| key == pair.as_bytes()) {
                if pax.pairs.len() >= 2 * MAX_EXTENTS {
                    return Err(limit("an extended header has too many records"));
                }
                pax.pairs.push((key.to_vec(), value.to_vec()));
            } else {
                pax.records.insert(key.to_vec(), value.to_vec());
            }
        }
        Ok(pax)
    }

    /// Lets these records outrank those of all entries.
    pub(super) fn over(self, global: Arc<Self>) -> Self {
        Self {
            global: Some(global),
            ..self
        }
    }

    /// Adds the records of an earlier header that these do not replace.
    pub(super) fn with_rest_of(mut self, earlier: &Self) -> Self {
        for (key, value) in &earlier.records {
            let entry = self.records.entry(key.clone());
            entry.or_insert_with(|| value.clone());
        }
        self
    }

    fn get_bytes(&self, key: &[u8]) -> Option<&[u8]> {
        match (self.records.get(key), &self.global) {
            (Some(value), _) => Some(value),
            (None, Some(global)) => global.get_bytes(key),
            (None, None) => None,
        }
    }

    /// Returns a value; an empty one takes back what an earlier header has set.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let value = self.get_bytes(key.as_bytes());
        value.filter(|value| !value.is_empty())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(number).transpose()
    }

    pub(super) fn sparse_name(&self) -> Option<&[u8]> {
        self.get("GNU.sparse.name")
    }

    /// Returns all values of a record that may come several times.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        let pairs = self.pairs.iter();
        let found = pairs.filter(|(found, _)| found == key.as_bytes());
        found.map(|(_, value)| number(value)).collect()
    }

    /// Returns seconds since the Unix epoch, rounded down, and nanoseconds.
    pub(super) fn time(&self, key: &str) -> Result<Option<(i64, u32)>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let broken = || invalid(format!("{} is no time", printable(value)));
        let text = std::str::from_utf8(value).map_err(|_| broken())?;
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_negative = seconds.starts_with('-');
        let seconds: i64 = seconds.parse().map_err(|_| broken())?;
        let digits: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        let nanos = u32::from_str(&digits).map_err(|_| broken())?;
        if is_negative && nanos > 0 {
            let seconds = seconds.checked_sub(1).ok_or_else(broken)?;
            return Ok(Some((seconds, 1_000_000_000 - nanos)));
        }
        Ok(Some((seconds, nanos)))
    }

    /// Returns extended attributes.
    ///
    /// # Errors
    /// What is wrong with them, to follow the name of the file.
    pub(super) fn attributes(&self) -> std::result::Result<Attributes, &'static str> {
        let records = self.records.iter();
        let global = self.global.as_deref();
        let global = global.into_iter().flat_map(|global| &global.records);
        let global = global.filter(|(key, _)| !self.records.contains_key(*key));
        let mut attributes = Attributes::new();
        let mut bytes = 0;
        for (key, value) in records.chain(global) {
            if let Some(name) = key.strip_prefix(ATTRIBUTE.as_bytes()) {
                bytes += (name.len() + value.len()) as u64;
                attributes.push((name.to_vec(), value.clone()));
            } else if key.starts_with(ACCESS_LIST.as_bytes()) && !is_of_mode(value) {
                return Err(
                    "an access list as text, which is not read; archive it as an attribute: tar --xattrs \
                     --xattrs-include='*'",
                );
            }
            if bytes > MAX_ATTRIBUTES {
                return Err("extended attributes of more than 4 KiB");
            }
        }
        Ok(attributes)
    }
}

/// Returns true if an access list says no more than the permission bits.
fn is_of_mode(list: &[u8]) -> bool {
    let mut entries = list.split(|byte| matches!(byte, b'\n' | b','));
    let bits = [&b"user::"[..], b"group::", b"other::"];
    entries.all(|entry| {
        let entry = entry.trim_ascii();
        entry.is_empty() || bits.iter().any(|bits| entry.starts_with(bits))
    })
}

pub(super) fn number(value: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        invalid(format!(
            "{} in an extended header is no number",
            printable(value)
        ))
    })
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits the first record off: key, value, and the rest.
fn split_record(content: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = content.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&content[..space]).ok()?.parse().ok()?;
    let record = content.get(space + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((
        (&record[..equals], &record[equals + 1..]),
        &content[length..],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_any_bytes() {
        let pax = Pax::parse(b"30 SCHILY.xattr.user.a=x\ny=\0\xff\n13 path=/a/b\n").unwrap();
        assert_eq!(pax.get("path"), Some(&b"/a/b"[..]));
        let expected = (b"user.a".to_vec(), b"x\ny=\0\xff".to_vec());
        assert_eq!(pax.attributes().unwrap(), [expected]);
    }

    #[test]
    fn local_records_outrank_global_ones() {
        let earlier = Pax::parse(b"6 a=1\n6 b=1\n6 c=1\n").unwrap();
        let global = Pax::parse(b"6 b=2\n").unwrap().with_rest_of(&earlier);
        // An empty value takes back one for all entries.
        let local = Pax::parse(b"5 c=\n6 d=3\n").unwrap();
        let pax = local.over(Arc::new(global));
        let values = ["a", "b", "c", "d"].map(|key| pax.get(key));
        assert_eq!(values, [Some(&b"1"[..]), Some(b"2"), None, Some(b"3")]);
    }

    #[test]
    fn access_lists_beyond_mode_are_refused() {
        let attributes = |value: &str| {
            let record = format!("SCHILY.acl.access={value}\n");
            let length = record.len() + 3;
            let pax = Pax::parse(format!("{length:02} {record}").as_bytes()).unwrap();
            pax.attributes()
        };
        assert_eq!(
            attributes("user::rw-\ngroup::r--\nother::r--\n"),
            Ok(Vec::new())
        );
        assert!(
            attributes("user::rw-,user:app:rw-")
                .unwrap_err()
                .contains("--xattrs")
        );
    }

    #[test]
    fn broken_records_are_refused() {
        for content in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"x a=b\n",
            b"0 a=b\n",
            b"6 ab\n\n",
            b"6 a=b",
            b"1",
            b" a=b\n",
        ] {
            assert!(Pax::parse(content).is_err(), "{}", content.escape_ascii());
        }
    }

    #[test]
    fn times_before_epoch_round_down() {
        for (text, expected) in [
            ("1.5", (1, 500_000_000)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.5", (-1, 500_000_000)),
            ("7", (7, 0)),
            ("7.0000000019", (7, 1)),
        ] {
            let record = format!("mtime={text}\n");
            let length = record.len() + 3;
            let pax = Pax::parse(format!("{length:02} {record}").as_bytes()).unwrap();
            assert_eq!(pax.time("mtime").unwrap(), Some(expected), "{text}");
        }
    }
}
