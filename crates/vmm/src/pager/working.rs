//! Working set: the pages that a guest touched first after a restore, to be prefetched for the next
//! one.
//!
//! | offset | bytes | content, numbers with the lowest byte first |
//! |---|---|---|
//! | 0 | 8 | `WRENNWS1` |
//! | 8 | 8 | bytes of the whole memory |
//! | 16 | 8 | number of ranges |
//! | 24 | 16 each | ranges in order: where one begins, and its bytes; whole pages |
//! | then | 4 | CRC-32 of all before it |
//!
//! It is only a hint: a damaged file or one that does not fit is ignored.

use std::collections::BTreeSet;
use std::ops::Range;

use linux::pages::PAGE;

const MAGIC: &[u8; 8] = b"WRENNWS1";
const HEAD: usize = 24;
const ENTRY: usize = 16;

/// Maximum number of recorded pages: 128 MiB.
const MOST: usize = 32_768;

/// Maximum length of the file, bytes.
pub(super) const LIMIT: u64 = (HEAD + MOST * ENTRY + 4) as u64;

/// Pages that were asked for.
#[derive(Debug, Default)]
pub(super) struct Recording(BTreeSet<u64>);

impl Recording {
    pub(super) fn add(&mut self, range: &Range<u64>) {
        for page in range.start / PAGE..range.end / PAGE {
            if self.0.len() >= MOST {
                break;
            }
            self.0.insert(page);
        }
    }

    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for page in &self.0 {
            match ranges.last_mut() {
                Some(last) if last.end == page * PAGE => last.end += PAGE,
                _ => ranges.push(page * PAGE..(page + 1) * PAGE),
            }
        }
        ranges
    }
}

/// Encodes the content of the file.
pub(super) fn encode(bytes: u64, ranges: &[Range<u64>]) -> Vec<u8> {
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.start, range.end - range.start]);
    let numbers = [bytes, ranges.len() as u64].into_iter().chain(numbers);
    let mut content: Vec<u8> = MAGIC
        .iter()
        .copied()
        .chain(numbers.flat_map(u64::to_le_bytes))
        .collect();
    content.extend(crc32fast::hash(&content).to_le_bytes());
    content
}

/// Decodes the content of the file; `None` if it is no working set of a memory of that many bytes.
pub(super) fn decode(content: &[u8], bytes: u64) -> Option<Vec<Range<u64>>> {
    let (content, sum) = content.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (numbers, rest) = content.strip_prefix(MAGIC)?.as_chunks::<8>();
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|number| u64::from_le_bytes(*number))
        .collect();
    let (head, ranges) = numbers.split_first_chunk::<2>()?;
    let (ranges, odd) = ranges.as_chunks::<2>();
    if head != &[bytes, ranges.len() as u64] || !rest.is_empty() || !odd.is_empty() {
        return None;
    }
    let mut last = 0;
    let range = |[start, length]: &[u64; 2]| {
        let end = start
            .checked_add(*length)
            .filter(|end| *end <= bytes && *start >= last)?;
        last = end;
        (start % PAGE == 0 && length % PAGE == 0).then_some(*start..end)
    };
    ranges.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 512 << 20;

    proptest! {
        #[test]
        fn working_set_reads_back_as_written(asked in prop::collection::vec((0..1000_u64, 1..20_u64), 0..100)) {
            let mut recording = Recording::default();
            for (page, count) in &asked {
                recording.add(&(page * PAGE..(page + count) * PAGE));
            }
            let ranges = recording.ranges();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            for page in 0..1020 {
                let wanted = asked.iter().any(|(first, count)| (*first..first + count).contains(&page));
                prop_assert_eq!(ranges.iter().any(|range| range.contains(&(page * PAGE))), wanted);
            }
            prop_assert_eq!(decode(&encode(BYTES, &ranges), BYTES), Some(ranges));
        }

        #[test]
        fn anything_else_is_refused(content in prop::collection::vec(any::<u8>(), 0..100), flip in 0..60_usize) {
            prop_assert_eq!(decode(&content, BYTES), None);
            let mut damaged = encode(BYTES, &[0..PAGE, 3 * PAGE..5 * PAGE]);
            damaged[flip] ^= 1;
            prop_assert_eq!(decode(&damaged, BYTES), None);
        }
    }

    #[test]
    fn working_set_fits_one_memory_only() {
        let mut recording = Recording::default();
        recording.add(&(0..1 << 40));
        let ranges = recording.ranges();
        assert!(
            ranges.len() == 1 && ranges[0] == (0..MOST as u64 * PAGE),
            "{ranges:?}"
        );
        let good = encode(BYTES, &ranges);
        assert!(decode(&good, BYTES).is_some() && decode(&good, BYTES + PAGE).is_none());
        for bad in [PAGE..PAGE + 1, BYTES..BYTES + PAGE, 1..PAGE + 1] {
            assert_eq!(
                decode(&encode(BYTES, std::slice::from_ref(&bad)), BYTES),
                None,
                "{bad:?}"
            );
        }
        assert_eq!(
            decode(&encode(BYTES, &[PAGE..2 * PAGE, 0..PAGE]), BYTES),
            None
        );
    }
}
