//! Archives that want more than to be an image.

use oci::{Limits, PlannedResult};
use tar::EntryType;

use crate::world::{LIMITS, Tar, message, unpack, unpack_within};

#[test]
fn paths_that_leave_are_refused() {
    for path in ["../x", "a/../../x", "/../x"] {
        let error = message(unpack(&Tar::new().file(path, b"x").finish()));
        assert!(error.contains("leads out of the image"), "{path}: {error}");
    }
    let link = Tar::new().hard_link("shadow", "../../etc/shadow").finish();
    assert!(message(unpack(&link)).contains("leads out of the image"));
    let link = Tar::new().hard_link("shadow", "/etc/shadow").finish();
    assert!(message(unpack(&link)).contains("is missing"));
}

#[test]
fn links_are_followed_inside_only() {
    let archive = Tar::new()
        .symlink("out", "../../../../tmp")
        .file("out/file", b"inside")
        .symlink("lib", "usr/lib")
        .file("lib/so", b"so")
        .finish();
    let image = unpack(&archive).unwrap();
    assert_eq!(image.content("/tmp/file"), b"inside");
    assert_eq!(image.content("/usr/lib/so"), b"so");
    let circle = Tar::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", b"")
        .finish();
    assert!(message(unpack(&circle)).contains("more than 40 symbolic links"));
    let below = Tar::new().file("a", b"").file("a/x", b"").finish();
    assert!(message(unpack(&below)).contains("no directory"));
}

#[test]
fn limits_are_told() {
    let small = Limits {
        unpacked_bytes: 1 << 20,
        entries: 2,
        ..LIMITS
    };
    let large = Tar::new().file("a", &vec![1; 2 << 20]).finish();
    let error = message(unpack_within(&large, small));
    assert!(
        error.contains("1 MiB unpacked") && error.contains("AGENT_IMAGE_MAX_MB"),
        "{error}"
    );
    let many = Tar::new()
        .file("a", b"")
        .file("b", b"")
        .file("c", b"")
        .finish();
    assert!(message(unpack_within(&many, small)).contains("more than 2 files"));
    let name = [b'n'; 256];
    let long = Tar::new().pax(&[("path", &name)]).file("x", b"").finish();
    assert!(message(unpack(&long)).contains("more than 255 bytes"));
    let deep = b"d/".repeat(300);
    let deep = Tar::new().pax(&[("path", &deep)]).directory("x").finish();
    assert!(message(unpack(&deep)).contains("more than 256 directories"));
    let value = vec![b'v'; 5000];
    let huge = Tar::new()
        .pax(&[("SCHILY.xattr.user.huge", &value)])
        .file("x", b"")
        .finish();
    let text = message(unpack(&huge));
    assert!(
        text.contains("the file \"x\"") && text.contains("more than 4 KiB"),
        "{text}"
    );
}

/// Headers that say more than there is are refused at once, not when all of it was looked for.
#[test]
fn stated_sizes_count_before_bytes() {
    let endless = Tar::new()
        .entry(b"endless", EntryType::Regular, b"", |header| {
            header.set_size(1 << 40)
        })
        .finish();
    let ones = vec![1; 1 << 20];
    let endless = std::iter::once(&endless[..512]).chain(std::iter::repeat_n(&ones[..], 3));
    let text = message(unpack(&gzip(endless)));
    assert!(text.contains("AGENT_IMAGE_MAX_MB"), "{text}");
    // Two extended headers, whose sizes add up to less than each has.
    let wrapping = Tar::new()
        .entry(b"one", EntryType::XHeader, b"6 a=b\n", |_| {})
        .entry(b"two", EntryType::XHeader, b"", |header| {
            header.set_size(u64::MAX - 1)
        })
        .file("x", b"")
        .finish();
    let text = message(unpack(&wrapping));
    assert!(text.contains("of extended header"), "{text}");
}

#[test]
fn many_records_take_no_time() {
    let record = b"7 abc=\n".repeat(140_000);
    let archive = Tar::new()
        .entry(b"pax", EntryType::XHeader, &record, |_| {})
        .file("x", b"content")
        .finish();
    // With a time that depends on the square of their number this would be minutes.
    let short = Limits {
        time: std::time::Duration::from_secs(10),
        ..LIMITS
    };
    assert_eq!(
        unpack_within(&archive, short).unwrap().content("/x"),
        b"content"
    );
}

#[test]
fn what_ext4_has_not_is_named() {
    let file = Tar::new().file("lost+found", b"x").finish();
    assert!(message(unpack(&file)).contains("lost+found"));
    let device = Tar::new()
        .entry(b"odd", EntryType::Char, b"", |header| {
            header.set_device_major(4097).unwrap();
            header.set_device_minor(0).unwrap();
        })
        .finish();
    assert!(message(unpack(&device)).contains("device number"));
}

/// At byte 1080 of an archive may be what is there in an ext4 file system.
#[test]
fn archive_with_magic_of_ext4_is_archive() {
    let mut content = vec![b'x'; 1000];
    content[1080 - 512] = 0x53;
    content[1080 - 511] = 0xef;
    let image = unpack(&Tar::new().file("a", &content).finish()).unwrap();
    assert_eq!(image.content("/a"), content);
}

/// Compresses pieces of content, and returns what they become.
fn gzip<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for piece in pieces {
        gzip.write_all(piece).unwrap();
    }
    gzip.finish().unwrap()
}

#[test]
fn bombs_are_refused_by_ratio() {
    let file = Tar::new()
        .entry(b"bomb", EntryType::Regular, b"", |header| {
            header.set_size(300 << 20)
        })
        .finish();
    let ones = vec![1; 1 << 20];
    let bomb = std::iter::once(&file[..512]).chain(std::iter::repeat_n(&ones[..], 300));
    let error = message(unpack(&gzip(bomb)));
    assert!(error.contains("200 times"), "{error}");
}

#[test]
fn compressed_ext4_has_its_holes() {
    let whole = unpack(&Tar::new().file("a", b"content").finish()).unwrap();
    let file = std::fs::File::open(whole.path()).unwrap();
    let mut beginning = vec![0; 1 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut beginning, 0).unwrap();
    // As long as it says that it is, and then some: much more than 200 times what is sent.
    let zeroes = vec![0; 1 << 20];
    let pieces = std::iter::once(&beginning[..]).chain(std::iter::repeat_n(&zeroes[..], 600));
    let image = unpack(&gzip(pieces)).unwrap();
    assert_eq!(image.plan.result, PlannedResult::AsItIs { spooled: true });
}

#[test]
fn full_disk_is_no_setting() {
    let few = Limits {
        spool_bytes: 1 << 20,
        ..LIMITS
    };
    let archive = Tar::new().file("a", &vec![1; 2 << 20]).finish();
    let error = unpack_within(&gzip(std::iter::once(&archive[..])), few);
    let Err(oci::Error::Io(error)) = error.map(|_| ()) else {
        panic!("it was unpacked");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn what_is_no_image_is_named() {
    let whole = Tar::new().file("a", &[1; 5000]).finish();
    let mut twice = whole.clone();
    twice[0] ^= 1;
    for (archive, expected) in [
        (&b""[..], "is empty"),
        (b"#!/bin/sh\n", "it is no image"),
        (&[0; 1024], "no files"),
        (&[7; 100_000], "it is no image"),
        (&whole[..3000], "truncated"),
        (&whole[..whole.len() - 1024], "truncated"),
        (&twice, "it is no image"),
        (&whole[..100], "it is no image"),
        (b"\x1f\x8b\x08\0broken", "broken"),
        (b"\x28\xb5\x2f\xfdbroken", "broken"),
    ] {
        let error = message(unpack(archive));
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let archive = Tar::new()
        .file("a", b"first")
        .hard_link("b", "a")
        .file("a", b"second")
        .directory("c")
        .file("c/d", b"gone")
        .file("c", b"file")
        .finish();
    let image = unpack(&archive).unwrap();
    assert_eq!(image.content("/a"), b"second");
    assert_eq!(image.content("/b"), b"first");
    assert_eq!(image.content("/c"), b"file");
}
