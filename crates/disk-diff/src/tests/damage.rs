//! What cannot be read, and what only the journal has.

use super::*;

/// Offset of a field of the superblock.
fn superblock(field: u64) -> u64 {
    1024 + field
}

/// A file system that was grown, and whose new superblock is in the journal alone.
#[test]
fn superblock_of_journal_counts() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4", "-b", "4096"]);
    let source = world.dir.path().join("block");
    fs::write(&source, &fs::read(&before).unwrap()[..BLOCK]).unwrap();
    let after = world.changed(&before, &format!("jo\njw -b 0 {}\njc\n", source.display()));
    write_at(&after, superblock(0), &12_u32.to_le_bytes());
    write_at(&after, superblock(4), &1_000_u32.to_le_bytes());
    assert!(open(&after).unwrap().was_replayed());
    assert_eq!(paths(&diff(&before, &after)), [""; 0]);
}

#[test]
fn fast_commits_are_told() {
    let world = World::new();
    let options = ["-t", "ext4", "-b", "4096", "-O", "fast_commit"];
    let before = world.image("before", &options);
    let source = world.dir.path().join("block");
    let bytes = fs::read(&before).unwrap();
    let motd = motd_block(&bytes);
    fs::write(&source, &bytes[motd * BLOCK..(motd + 1) * BLOCK]).unwrap();
    let after = world.changed(
        &before,
        &format!("jo\njw -b {motd} {}\njc\n", source.display()),
    );
    let journal = blocks(&after, "<8>");
    let header = journal[0] * BLOCK as u64;
    let bytes = fs::read(&after).unwrap();
    let word = |offset: u64| {
        let at = usize::try_from(header + offset).unwrap();
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    };
    write_at(&after, header + 0x28, &(word(0x28) | 0x20).to_be_bytes());
    write_at(&after, header + 0x54, &16_u32.to_be_bytes());
    let told = || {
        let fs = [&before, &after].map(|image| open(image).unwrap());
        diff_below(&fs[0], &fs[1], "/").1.incomplete
    };
    assert_eq!(told(), None);
    // Tag and length, features, and the transaction that would be next: one was replayed.
    let mut head = vec![9, 0, 8, 0, 0, 0, 0, 0];
    head.extend((word(0x18) + 1).to_le_bytes());
    let first = usize::try_from(word(0x10)).unwrap() - 16;
    write_at(&after, journal[first] * BLOCK as u64, &head);
    assert!(told().unwrap().contains("fast commits"));
}

/// Makes a journal without end: all its blocks are revocations of one transaction, which no commit
/// ends, and it says that it has four billion of them. Returns its blocks.
fn fill_with_revocations(image: &Path) -> Vec<u64> {
    let journal = blocks(image, "<8>");
    let header = journal[0] * BLOCK as u64;
    write_at(
        image,
        superblock(0x60),
        &[fs::read(image).unwrap()[1024 + 0x60] | 4],
    );
    write_at(image, header + 0x10, &u32::MAX.to_be_bytes());
    write_at(image, header + 0x18, &7_u32.to_be_bytes());
    write_at(image, header + 0x1c, &1_u32.to_be_bytes());
    let words = [0xc03b_3998, 5, 7, 4096_u32];
    let mut block: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    block.resize(BLOCK, 0x11);
    for number in &journal[1..] {
        write_at(image, number * BLOCK as u64, &block);
    }
    journal
}

#[test]
fn journal_without_end_is_read_once() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4", "-b", "4096"]);
    let after = world.changed(&before, "");
    fill_with_revocations(&after);
    assert!(open(&after).unwrap().was_replayed());
    assert_eq!(paths(&diff(&before, &after)), [""; 0]);
}

/// Its extents name the same blocks of revocations again and again, which no length bounds.
#[test]
fn journal_of_repeated_blocks_is_damage() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4", "-b", "4096"]);
    let after = world.changed(&before, "");
    let journal = fill_with_revocations(&after);
    let others = &journal[1..journal.len() - 1];
    let mut runs = others.windows(50);
    let first = runs.find(|run| run[49] == run[0] + 49).unwrap()[0];
    let length = 50_u16;
    // A node of extents, instead of the last block of the journal.
    let node = journal[journal.len() - 1];
    let count = 340_u16;
    let mut bytes = [0xf30a, count, count, 0, 0, 0]
        .map(u16::to_le_bytes)
        .concat();
    for index in 0..count {
        let (number, length, place) = match index {
            0 => (0, 1, journal[0]),
            index => (1 + u32::from(index - 1) * u32::from(length), length, first),
        };
        bytes.extend(number.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(u32::try_from(place).unwrap().to_le_bytes());
    }
    write_at(&after, node * BLOCK as u64, &bytes);
    let head = [0xf30a, 1, 4, 1, 0, 0].map(u16::to_le_bytes).concat();
    let index = [0, u32::try_from(node).unwrap(), 0]
        .map(u32::to_le_bytes)
        .concat();
    write_at(
        &after,
        inode_place(&after, 8) + 0x28,
        &[head, index].concat(),
    );
    let error = open(&after).unwrap_err().to_string();
    assert!(error.contains("more entries than blocks"), "{error}");
}

/// Returns where an inode of the first group is.
fn inode_place(image: &Path, number: u64) -> u64 {
    let bytes = fs::read(image).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let table = u64::from(word(BLOCK + 8));
    let size = u64::from(word(1024 + 0x58) & 0xffff);
    table * BLOCK as u64 + (number - 1) * size
}

/// Whatever number is asked for, also one with which a block ends.
#[test]
fn cut_directory_is_told() {
    let world = World::new();
    let image = world.image("image", &["-t", "ext4", "-b", "1024"]);
    let fs = open(&image).unwrap();
    let mut number = ROOT;
    for name in [&b"etc"[..], b"deep"] {
        let directory = fs.inode(number).unwrap();
        number = fs.find_entry(&directory, name).unwrap().unwrap();
    }
    let directory = fs.inode(number).unwrap();
    let count = fs.entries(&directory, usize::MAX).unwrap().by_name.len();
    assert_eq!(count, 701);
    for most in 0..count + 2 {
        let found = fs.entries(&directory, most).unwrap();
        assert_eq!(
            (found.by_name.len(), found.is_cut),
            (most.min(count), most < count)
        );
    }
}

/// Damages the first entry of a directory.
fn damage_directory(image: &Path, directory: &str) {
    let block = blocks(image, directory)[0];
    // The length of the entry `..`.
    write_at(image, block * BLOCK as u64 + 12 + 4, &[0, 0]);
}

#[test]
fn damaged_directory_is_not_empty() {
    let world = World::new();
    let options = ["-t", "ext4", "-b", "4096"];
    let before = world.image("before", &options);
    let after = world.changed(&before, "rm big\n");
    damage_directory(&after, "etc/deep");
    let fs = [&before, &after].map(|image| open(image).unwrap());
    let (changes, summary) = diff_below(&fs[0], &fs[1], "/");
    let told = paths(&changes);
    assert_eq!(told[..2], ["D /big", "? /etc/deep"]);
    assert!(
        told[2..]
            .iter()
            .all(|line| line.starts_with("? /etc/deep/")),
        "{told:?}"
    );
    assert_eq!(summary.unreadable, told.len() as u64 - 1);
    assert!(summary.incomplete.unwrap().contains("could not be read"));
    for (sides, expected) in [([0, 1], Side::After), ([1, 0], Side::Before)] {
        let [one, two] = sides.map(|index: usize| &fs[index]);
        for path in ["/etc/deep/er", "/etc/deep/none/at/all"] {
            match DiskSides::new(one, two, path.as_bytes(), false) {
                Err(NoSides::Unreadable(side, Error::Damaged(_))) => assert_eq!(side, expected),
                other => panic!("{path}: {other:?}"),
            }
        }
    }
}

/// Its block of attributes lies beyond the end of the disk.
#[test]
fn damaged_attributes_hide_no_file() {
    let world = World::new();
    let before = world.image("before", &["-t", "ext4", "-b", "4096"]);
    let after = world.changed(
        &before,
        "rm etc/motd\nset_inode_field etc file_acl 99999999\n",
    );
    let fs = [&before, &after].map(|image| open(image).unwrap());
    let (changes, summary) = diff_below(&fs[0], &fs[1], "/");
    assert_eq!(paths(&changes), ["? /etc", "D /etc/motd"]);
    assert_eq!(summary.unreadable, 1);
}

/// A long value is in an inode of its own, whose number and hash stay as they were.
#[test]
fn long_attribute_is_compared_by_content() {
    let world = World::new();
    let empty = world.image("empty", &["-t", "ext4", "-b", "4096", "-O", "ea_inode"]);
    let value = world.dir.path().join("value");
    fs::write(
        &value,
        [b"a long value ".repeat(500), b"end".to_vec()].concat(),
    )
    .unwrap();
    let commands = format!("ea_set -f {} etc/motd user.long\n", value.display());
    let before = world.dir.path().join("before");
    fs::rename(world.changed(&empty, &commands), &before).unwrap();
    let after = world.changed(&before, "");
    let bytes = fs::read(&after).unwrap();
    let at = bytes
        .windows(13)
        .position(|it| it == b"a long value ")
        .unwrap();
    write_at(&after, at as u64, b"b");
    let changes = diff(&before, &after);
    assert_eq!(paths(&changes), ["M /etc/motd"]);
    assert!(changes[0].are_attributes_changed && !changes[0].is_content_changed);
    assert_eq!(paths(&diff(&before, &before)), [""; 0]);
}

#[test]
fn reads_fail_after_deadline() {
    let world = World::new();
    let image = world.image("image", &["-t", "ext4"]);
    let disk = Disk::open(Layout::Raw, SIZE, vec![File::open(&image).unwrap()]).unwrap();
    let fs = FileSystem::open(disk, Instant::now()).unwrap();
    let sides = DiskSides::new(&fs, &fs, b"/etc/motd", false);
    assert!(matches!(
        sides,
        Err(NoSides::Unreadable(Side::Before, Error::TimeOver))
    ));
}
