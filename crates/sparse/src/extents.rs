//! Extents of a file that hold data, as its file system knows them.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::{BLOCK, HOLE, MAX_EXTENTS};

/// Returns where the first `length` bytes of a file hold data, in blocks of an archive; `None`
/// where the file has no holes, or its file system cannot tell.
///
/// # Errors
/// Errors of `lseek(2)`.
pub fn data_extents(file: &File, length: u64) -> io::Result<Option<Vec<Range<u64>>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < length => start,
            // Beyond the last data there is only a hole.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?.min(length);
        let aligned = start - start % BLOCK..at.next_multiple_of(BLOCK).min(length);
        match found.last_mut() {
            Some(Range { end, .. }) if *end >= aligned.start => *end = aligned.end,
            _ => found.push(aligned),
        }
    }
    if found.len() == 1 && found[0] == (0..length) || length == 0 {
        return Ok(None);
    }
    Ok(Some(merge(found)))
}

/// Closes the smallest holes until there are few enough extents.
fn merge(mut extents: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut hole = HOLE as u64;
    while extents.len() > MAX_EXTENTS {
        hole *= 2;
        extents.dedup_by(|next, before| {
            let is_near = next.start - before.end < hole;
            if is_near {
                before.end = next.end;
            }
            is_near
        });
    }
    extents
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn extents_are_those_of_file() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(data_extents(&file, 0).unwrap(), None);
        file.set_len(1 << 20).unwrap();
        assert_eq!(data_extents(&file, 1 << 20).unwrap(), Some(Vec::new()));
        file.write_all_at(&[1; 10], 300_000).unwrap();
        let found = data_extents(&file, 1 << 20).unwrap().unwrap();
        assert!(
            found.len() == 1
                && found[0].contains(&300_000)
                && found[0].end - found[0].start <= 64 * 1024,
            "{found:?}"
        );
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        assert_eq!(data_extents(&file, 1 << 20).unwrap(), None);
    }

    #[test]
    fn too_many_extents_are_merged() {
        let many: Vec<_> = (0..100_000u64).map(|n| n * 8192..n * 8192 + 4096).collect();
        let merged = merge(many);
        assert!(merged.len() <= MAX_EXTENTS && merged[0].start == 0);
        assert_eq!(merged.last().unwrap().end, 99_999 * 8192 + 4096);
    }
}
