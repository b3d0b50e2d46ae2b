//! Which bytes of the output are kept, where they lie, and which stream each belongs to. Pure: the
//! bytes themselves are [`super::log`]'s.
//!
//! Both streams share one line of offsets, which begins at 0 and never repeats. Of it the last
//! `capacity` bytes are kept, the byte at offset N at position N modulo `capacity`.

use std::collections::VecDeque;

use crate::process::output::Source;

/// Maximum number of changes between streams that are kept, 4 MiB of memory: a command that
/// alternates byte by byte must not take more memory than disk. One less than a power of two, as
/// the queue holds one more for a moment.
const MAX_RUNS: usize = (256 << 10) - 1;

/// Consecutive bytes of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    source: Source,
}

/// Bytes that can be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the first byte.
    pub offset: u64,
    pub length: usize,
    pub source: Source,
    /// Number of bytes between the offset that was asked for and this one, which are gone.
    pub dropped: u64,
}

#[derive(Debug)]
pub struct Ring {
    capacity: u64,
    max_runs: usize,
    start: u64,
    end: u64,
    runs: VecDeque<Run>,
}

/// Returns the maximum of runs: they take at most as much memory as the bytes that they describe.
fn max_runs(capacity: u64) -> usize {
    let fitting = usize::try_from(capacity).unwrap_or(usize::MAX) / size_of::<Run>();
    fitting.clamp(1, MAX_RUNS)
}

impl Ring {
    /// Creates an empty ring of `capacity` bytes, at least one.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity: capacity.max(1),
            max_runs: max_runs(capacity),
            start: 0,
            end: 0,
            runs: VecDeque::new(),
        }
    }

    /// Returns the offset of the first byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the offset behind the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the number of bytes that are kept at most.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Drops the bytes in whose place the next `length` go.
    pub fn make_room(&mut self, length: u64) {
        let end = self.end.saturating_add(length);
        self.drop_before(end.saturating_sub(self.capacity));
    }

    /// Returns the position of an offset in the storage.
    pub fn position(&self, offset: u64) -> u64 {
        offset % self.capacity
    }

    /// Returns the number of bytes that lie side by side in the storage from an offset on.
    pub fn contiguous(&self, offset: u64) -> u64 {
        self.capacity - self.position(offset)
    }

    /// Appends `length` bytes of a stream. The oldest bytes go where there is no room.
    pub fn append(&mut self, source: Source, length: u64) {
        if length == 0 {
            return;
        }
        if self.runs.back().is_none_or(|run| run.source != source) {
            let start = self.end;
            self.runs.push_back(Run { start, source });
        }
        self.end += length;
        self.drop_excess();
    }

    /// Reduces the capacity, and drops what no longer fits.
    pub fn shrink(&mut self, capacity: u64) {
        self.capacity = capacity.max(1);
        self.max_runs = self.max_runs.min(max_runs(capacity));
        self.drop_excess();
        self.runs.shrink_to_fit();
    }

    fn drop_excess(&mut self) {
        let mut start = self.end.saturating_sub(self.capacity);
        if let Some(excess) = self.runs.len().checked_sub(self.max_runs)
            && excess > 0
        {
            start = start.max(self.runs[excess].start);
        }
        self.drop_before(start);
    }

    /// Drops the bytes before an offset.
    pub fn drop_before(&mut self, offset: u64) {
        self.start = self.start.max(offset.min(self.end));
        while self.runs.len() > 1 && self.runs[1].start <= self.start {
            self.runs.pop_front();
        }
    }

    /// Returns what can be read from `offset` on: at most `limit` bytes, of one stream, that lie
    /// side by side. `None` at the end.
    pub fn piece(&self, offset: u64, limit: usize) -> Option<Piece> {
        let from = offset.max(self.start);
        if from >= self.end {
            return None;
        }
        let next = self.runs.partition_point(|run| run.start <= from);
        let run = self.runs.get(next.checked_sub(1)?)?;
        let run_end = self.runs.get(next).map_or(self.end, |run| run.start);
        let length = (run_end - from)
            .min(self.contiguous(from))
            .min(limit as u64);
        Some(Piece {
            offset: from,
            length: usize::try_from(length).unwrap_or(limit),
            source: run.source,
            dropped: from - offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Model: every byte that was ever written, with its stream.
    type Line = Vec<(Source, u8)>;

    #[derive(Debug, Clone)]
    enum Step {
        Append(Source, Vec<u8>),
        Shrink(u64),
        Read(u64, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let source = prop_oneof![Just(Source::Stdout), Just(Source::Stderr)];
        let append = (source, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(source, bytes)| Step::Append(source, bytes));
        let step = prop_oneof![
            4 => append,
            1 => (1_u64..40).prop_map(Step::Shrink),
            3 => (0_u64..600, 1_usize..30).prop_map(|(offset, limit)| Step::Read(offset, limit)),
        ];
        prop::collection::vec(step, 1..40)
    }

    /// Storage as [`super::super::log`] has it.
    struct Stored {
        ring: Ring,
        bytes: Vec<u8>,
    }

    impl Stored {
        fn append(&mut self, source: Source, bytes: &[u8]) {
            let first = self.ring.end();
            self.ring.append(source, bytes.len() as u64);
            for (offset, byte) in (first..).zip(bytes) {
                let position = self.ring.position(offset);
                self.bytes[usize::try_from(position).unwrap()] = *byte;
            }
        }

        fn shrink(&mut self, capacity: u64) {
            let old: Vec<u8> = (0..self.ring.end())
                .map(|offset| self.bytes[usize::try_from(self.ring.position(offset)).unwrap()])
                .collect();
            self.ring.shrink(capacity);
            for offset in self.ring.start()..self.ring.end() {
                let position = self.ring.position(offset);
                self.bytes[usize::try_from(position).unwrap()] =
                    old[usize::try_from(offset).unwrap()];
            }
        }

        fn check(&self, line: &Line, mut offset: u64, limit: usize) {
            while let Some(piece) = self.ring.piece(offset, limit) {
                assert!((1..=limit).contains(&piece.length));
                assert_eq!(piece.offset, offset + piece.dropped);
                assert!(piece.dropped == 0 || piece.offset == self.ring.start());
                for at in piece.offset..piece.offset + piece.length as u64 {
                    let position = usize::try_from(self.ring.position(at)).unwrap();
                    let written = line[usize::try_from(at).unwrap()];
                    assert_eq!((piece.source, self.bytes[position]), written);
                }
                offset = piece.offset + piece.length as u64;
            }
            assert!(offset >= self.ring.end());
        }
    }

    /// Appends lines of both streams by turns; returns how many bytes are kept.
    fn alternate(ring: &mut Ring, length: u64) -> u64 {
        for _ in 0..200_000 {
            ring.append(Source::Stdout, length);
            ring.append(Source::Stderr, length);
        }
        ring.end() - ring.start()
    }

    #[test]
    fn short_lines_of_both_streams_fill_the_ring() {
        let capacity = 32 << 20;
        assert_eq!(alternate(&mut Ring::new(capacity), 130), capacity);
        let mut ring = Ring::new(capacity);
        assert_eq!(alternate(&mut ring, 1), MAX_RUNS as u64);
        assert!(ring.runs.capacity() <= MAX_RUNS + 1);
        ring.shrink(1600);
        assert_eq!(ring.end() - ring.start(), 100);
        assert!(ring.runs.capacity() < 1000);
    }

    proptest! {
        /// A reader gets the bytes that were written, from any offset and for any writes,
        /// or is told how many are gone.
        #[test]
        fn readers_get_what_was_written(
            capacity in 1_u64..50,
            max_runs in 1_usize..6,
            steps in steps(),
        ) {
            let ring = Ring { max_runs, ..Ring::new(capacity) };
            let mut stored = Stored { ring, bytes: vec![0; 64] };
            let mut line = Line::new();
            for step in steps {
                match step {
                    Step::Append(source, bytes) => {
                        stored.append(source, &bytes);
                        line.extend(bytes.iter().map(|byte| (source, *byte)));
                    }
                    Step::Shrink(capacity) => {
                        stored.shrink(capacity.min(stored.ring.capacity));
                    }
                    Step::Read(offset, limit) => {
                        stored.check(&line, offset.min(line.len() as u64), limit);
                    }
                }
                let ring = &stored.ring;
                prop_assert_eq!(ring.end(), line.len() as u64);
                prop_assert!(ring.end() - ring.start() <= ring.capacity);
                prop_assert!(ring.runs.len() <= max_runs);
            }
            stored.check(&line, 0, 7);
        }
    }
}
