//! Memories over many generations, against a model that simply keeps every page.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::memory_files::{self, BASE, DIFF, MEMORY, MemoryLayout};

/// Pages of the memories here.
const PAGES: usize = 256;
const BYTES: u64 = PAGES as u64 * PAGE;

/// What a guest does with a stretch of its pages between two snapshots.
#[derive(Debug, Clone)]
enum Act {
    /// Writes a byte to all of it. With 0 it is zeroes, which is what freed pages become as well.
    Fill(usize, usize, u8),
    /// One byte somewhere in the page.
    Touch(usize, usize, u8),
}

fn act() -> impl Strategy<Value = Act> {
    let byte = prop_oneof![Just(0), any::<u8>()];
    prop_oneof![
        (0..PAGES, 1..20_usize, byte.clone())
            .prop_map(|(page, count, byte)| Act::Fill(page, count, byte)),
        (0..PAGES, 0..4096_usize, byte).prop_map(|(page, at, byte)| Act::Touch(page, at, byte)),
    ]
}

/// A guest: all of its memory, and the pages that it has written to since it was restored.
struct Guest {
    memory: Vec<u8>,
    written: [bool; PAGES],
}

impl Guest {
    fn acts(&mut self, act: &Act) {
        match *act {
            Act::Fill(page, count, byte) => {
                let end = (page + count).min(PAGES);
                self.memory[page * 4096..end * 4096].fill(byte);
                self.written[page..end].fill(true);
            }
            Act::Touch(page, at, byte) => {
                self.memory[page * 4096 + at] = byte;
                self.written[page] = true;
            }
        }
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        let pages = (0_u64..).zip(self.written).filter(|(_, written)| *written);
        pages
            .map(|(page, _)| page * PAGE..(page + 1) * PAGE)
            .collect()
    }
}

/// The directory of a snapshot of `guest`, which was restored from the full memory file `base`.
fn snapshot(guest: &Guest, base: &Path) -> (TempDir, Seal) {
    let dir = tempfile::tempdir().unwrap();
    fs::hard_link(base, dir.path().join(BASE)).unwrap();
    let read = |buffer: &mut [u8], at| {
        let at = usize::try_from(at).unwrap();
        buffer.copy_from_slice(&guest.memory[at..at + buffer.len()]);
        Ok(())
    };
    let seal = write(&dir.path().join(DIFF), BYTES, &guest.ranges(), read).unwrap();
    let manifest = serde_json::json!({"memory": MemoryLayout::Layers(vec![seal]), "memory_mb": 1});
    fs::write(dir.path().join("snapshot.json"), manifest.to_string()).unwrap();
    (dir, seal)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_page_is_right_over_generations(
        generations in prop::collection::vec(prop::collection::vec(act(), 0..12), 1..10),
        compacts in any::<u16>(),
    ) {
        let first = tempfile::tempdir().unwrap();
        let file = File::create(first.path().join(MEMORY)).unwrap();
        file.set_len(BYTES).unwrap();
        // Every snapshot with what it holds: none may change when later ones are made.
        let mut kept = vec![(first, vec![0; PAGES * 4096])];
        let mut guest = Guest { memory: vec![0; PAGES * 4096], written: [false; PAGES] };
        for (number, acts) in generations.iter().enumerate() {
            acts.iter().for_each(|act| guest.acts(act));
            let (dir, seal) = snapshot(&guest, &kept.last().unwrap().0.path().join(MEMORY));
            let pages = guest.ranges().len() as u64;
            prop_assert!(seal.bytes == (1 + pages) * PAGE, "only what was written is written");
            if compacts >> number & 1 == 1 {
                memory_files::merge_memory(dir.path(), &CancellationToken::new()).unwrap();
            } else {
                memory_files::ensure_full(dir.path(), &MemoryLayout::Layers(vec![seal]), BYTES).unwrap();
            }
            kept.push((dir, guest.memory.clone()));
            guest.written.fill(false);
        }
        for (dir, memory) in &kept {
            prop_assert!(fs::read(dir.path().join(MEMORY)).unwrap() == *memory);
        }
    }
}

#[test]
fn altered_diff_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join(MEMORY);
    File::create(&path).unwrap().set_len(BYTES).unwrap();
    let mut guest = Guest {
        memory: vec![0; PAGES * 4096],
        written: [false; PAGES],
    };
    guest.acts(&Act::Fill(3, 4, 9));
    let (dir, seal) = snapshot(&guest, &path);
    let diff = dir.path().join(DIFF);
    let good = fs::read(&diff).unwrap();
    let mut flipped = good.clone();
    flipped[2 * 4096] ^= 1;
    for bad in [
        &flipped[..],
        &good[..good.len() - 1],
        &[&good[..], &[0]].concat(),
        b"",
    ] {
        fs::write(&diff, bad).unwrap();
        let error = memory_files::ensure_full(dir.path(), &MemoryLayout::Layers(vec![seal]), BYTES)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            3,
            "nothing is left"
        );
    }
    fs::write(&diff, &good).unwrap();
    assert!(
        memory_files::ensure_full(dir.path(), &MemoryLayout::Layers(vec![seal]), BYTES + PAGE)
            .is_err()
    );
    memory_files::ensure_full(dir.path(), &MemoryLayout::Layers(vec![seal]), BYTES).unwrap();
    assert!(fs::read(dir.path().join(MEMORY)).unwrap() == guest.memory);
}

#[test]
fn invalid_index_is_refused() {
    let numbers = |numbers: &[u64]| -> Vec<u8> {
        MAGIC
            .iter()
            .copied()
            .chain(numbers.iter().flat_map(|number| number.to_le_bytes()))
            .collect()
    };
    let read = |bytes: &[u8]| read_index(&mut io::Cursor::new(bytes), 1 << 20, BYTES);
    assert_eq!(
        read(&numbers(&[BYTES, 1, PAGE, 2 * PAGE])).unwrap(),
        std::iter::once(PAGE..3 * PAGE).collect::<Vec<_>>()
    );
    for bad in [
        vec![BYTES + 1, 0],
        vec![BYTES, u64::MAX],
        vec![BYTES, 1, 0],
        vec![BYTES, 1, 7, PAGE],
        vec![BYTES, 1, 0, PAGE + 1],
        vec![BYTES, 1, BYTES, PAGE],
        vec![BYTES, 1, u64::MAX - 4095, PAGE],
        vec![BYTES, 2, PAGE, PAGE, 0, PAGE],
    ] {
        assert!(read(&numbers(&bad)).is_err(), "{bad:?}");
    }
    assert!(read(b"WRENNDF2").is_err());
}

/// A directory with a difference for each generation over one base, and the memory that they are
/// of.
fn layers(generations: &[Vec<Act>]) -> (TempDir, MemoryLayout, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let mut guest = Guest {
        memory: vec![0; PAGES * 4096],
        written: [false; PAGES],
    };
    guest.acts(&Act::Fill(0, PAGES / 2, 5));
    fs::write(dir.path().join(BASE), &guest.memory).unwrap();
    let mut seals = Vec::new();
    for (number, acts) in generations.iter().enumerate() {
        guest.written.fill(false);
        acts.iter().for_each(|act| guest.acts(act));
        let read = |buffer: &mut [u8], at| {
            let at = usize::try_from(at).unwrap();
            buffer.copy_from_slice(&guest.memory[at..at + buffer.len()]);
            Ok(())
        };
        seals.push(
            write(
                &dir.path().join(memory_files::diff_name(number)),
                BYTES,
                &guest.ranges(),
                read,
            )
            .unwrap(),
        );
    }
    let memory = MemoryLayout::Layers(seals);
    let manifest = serde_json::json!({"memory": memory, "memory_mb": 1});
    fs::write(dir.path().join("snapshot.json"), manifest.to_string()).unwrap();
    (dir, memory, guest.memory)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn merged_layers_keep_every_page(
        generations in prop::collection::vec(prop::collection::vec(act(), 0..8), 1..5),
    ) {
        let (dir, memory, expected) = layers(&generations);
        for (name, seal) in memory.file_names().iter().skip(1).zip(memory.diffs()) {
            let file = File::open(dir.path().join(name)).unwrap();
            let content = fs::read(dir.path().join(name)).unwrap();
            let stretches = read_stretches(&file, seal.bytes, BYTES).unwrap();
            let end = stretches.iter().fold(PAGE, |at, (range, place)| if *place == at { at + range.end - range.start } else { 0 });
            prop_assert_eq!(end, content.len() as u64);
        }
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        let stopped = memory_files::merge_memory(dir.path(), &cancelled);
        prop_assert!(stopped.is_err() && fs::read_dir(dir.path()).unwrap().count() == 2 + generations.len());
        prop_assert!(memory.check_files(dir.path(), BYTES).is_ok());
        memory_files::merge_memory(dir.path(), &CancellationToken::new()).unwrap();
        prop_assert!(fs::read(dir.path().join(MEMORY)).unwrap() == expected);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the layers are gone");
        prop_assert!(memory.check_files(dir.path(), BYTES).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Snapshots of one guest that runs on, each over the diffs of the one before. A page that the
    /// guest gave back is that of the base again.
    #[test]
    fn diff_over_earlier_keeps_every_page(
        generations in prop::collection::vec(
            (prop::collection::vec(act(), 0..8), prop::collection::vec(0..PAGES, 0..3)),
            1..6,
        ),
        compares_base in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let base = vec![5; PAGES * 4096];
        let mut guest = Guest { memory: base.clone(), written: [false; PAGES] };
        fs::write(dir.path().join(BASE), &base).unwrap();
        let mut seals = Vec::new();
        for (acts, given_back) in &generations {
            let before = Guest { memory: guest.memory.clone(), written: guest.written };
            acts.iter().for_each(|act| guest.acts(act));
            for page in given_back {
                guest.memory[page * 4096..][..4096].fill(5);
                guest.written[*page] = false;
            }
            let read = |buffer: &mut [u8], at| {
                let at = usize::try_from(at).unwrap();
                buffer.copy_from_slice(&guest.memory[at..at + buffer.len()]);
                Ok(())
            };
            let base = compares_base.then(|| File::open(dir.path().join(BASE)).unwrap());
            // A guest that was booted does not know which pages are its own.
            let written = if compares_base { Vec::new() } else { guest.ranges() };
            let earlier = EarlierMemory::open(dir.path(), base, &seals, BYTES).unwrap();
            let changed = earlier.changed_ranges(&written, read).unwrap();
            let name = memory_files::diff_name(seals.len());
            let seal = write(&dir.path().join(name), BYTES, &changed, read).unwrap();
            prop_assert_eq!(seal.bytes, file_bytes(&changed));
            for page in changed.iter().flat_map(|range| range.start / PAGE..range.end / PAGE) {
                let page = usize::try_from(page).unwrap();
                let content = page * 4096..(page + 1) * 4096;
                prop_assert!(
                    guest.memory[content.clone()] != before.memory[content]
                        || !compares_base && !before.written[page],
                    "page {} is in the layers below already", page
                );
            }
            seals.push(seal);
        }
        let memory = MemoryLayout::Layers(seals);
        let manifest = serde_json::json!({"memory": memory, "memory_mb": 1});
        fs::write(dir.path().join("snapshot.json"), manifest.to_string()).unwrap();
        memory_files::merge_memory(dir.path(), &CancellationToken::new()).unwrap();
        prop_assert!(fs::read(dir.path().join(MEMORY)).unwrap() == guest.memory);
    }
}
