//! What an archive has is in the file system.

use tar::EntryType;

use crate::world::{Tar, unpack};

#[test]
fn kinds_owners_modes_times_are_kept() {
    let large = vec![b'x'; 300_000];
    let value: Vec<u8> = (0..20).collect();
    let archive = Tar::new()
        .directory("./")
        .entry(b"dir/", EntryType::Directory, b"", |header| {
            header.set_mode(0o1777);
            header.set_uid(70_000);
        })
        .file("dir/large", &large)
        .hard_link("dir/again", "dir/large")
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"3000000000"),
            ("SCHILY.xattr.security.capability", &value),
            ("SCHILY.xattr.user.long", &[b'y'; 1000]),
            ("SCHILY.xattr.com.apple.provenance", b"x"),
        ])
        .entry(b"su", EntryType::Regular, b"#!", |header| {
            header.set_mode(0o4755)
        })
        .pax(&[("SCHILY.xattr.user.a", b"b\nc\n")])
        .file("short", b"")
        .symlink("link", "../../etc/passwd")
        .symlink("long", &"t/".repeat(40))
        .entry(b"null", EntryType::Char, b"", |header| {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .entry(b"disk", EntryType::Block, b"", |header| {
            header.set_device_major(259).unwrap();
            header.set_device_minor(70_000).unwrap();
        })
        .entry(b"pipe", EntryType::Fifo, b"", |_| {})
        .entry(b"odd\x01\xff\n\"", EntryType::Regular, b"odd", |_| {})
        .finish();
    let image = unpack(&archive).unwrap();
    assert_eq!(image.content("/dir/large"), large);
    assert_eq!(image.content("/dir/again"), large);
    let stat = |path: &str| image.debugfs(&format!("stat {path}"));
    let dir = stat("/dir");
    assert!(
        dir.contains("Mode:  01777") && dir.contains("User: 70000"),
        "{dir}"
    );
    // Its number as debugfs shows it, with a sign.
    let su = stat("/su");
    assert!(
        su.contains("Mode:  04755") && su.contains("User: -1294967296"),
        "{su}"
    );
    assert!(
        su.contains("1969") && su.contains("security.capability (20)"),
        "{su}"
    );
    assert!(
        su.contains("user.long (1000)") && !su.contains("apple"),
        "{su}"
    );
    // debugfs ends the value with a line of its own.
    assert_eq!(image.debugfs("ea_get -V /short user.a"), "b\nc\n\n");
    assert!(stat("/dir/large").contains("Links: 2"));
    assert!(stat("/link").contains("Fast link dest: \"../../etc/passwd\""));
    assert!(stat("/long").contains("Size: 80"));
    assert!(stat("/null").contains("Device major/minor number: 01:03"));
    assert!(stat("/disk").contains("259:70000"), "{}", stat("/disk"));
    assert!(stat("/pipe").contains("Type: FIFO"));
    let root = image.debugfs("ls -p /");
    assert!(
        root.contains("odd") && image.names("/").len() >= 9,
        "{root}"
    );
}

#[test]
fn sparse_files_keep_their_holes() {
    // Form 1.0 of GNU tar: a list before the data.
    let mut data = b"2\n4096\n512\n1073741824\n3\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(&[b'a'; 512]);
    data.extend_from_slice(b"end");
    let zeroes = vec![0; 1 << 20];
    let archive = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"holes"),
            ("GNU.sparse.realsize", b"1073741827"),
        ])
        .file("GNUSparseFile.0/holes", &data)
        .pax(&[
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.map", b"0,2,8190,2"),
        ])
        .file("map", b"abyz")
        .file("zeroes", &zeroes)
        .finish();
    let image = unpack(&archive).unwrap();
    let stat = image.debugfs("stat /holes");
    assert!(
        stat.contains("Size: 1073741827") && stat.contains("Blockcount: 16"),
        "{stat}"
    );
    let map = image.content("/map");
    assert!(map.len() == 8192 && map.starts_with(b"ab\0") && map.ends_with(b"\0yz"));
    assert!(image.debugfs("stat /zeroes").contains("Blockcount: 0"));
    assert_eq!(image.content("/zeroes"), zeroes);
}

#[test]
fn many_files_and_extents_are_whole() {
    let mut archive = Tar::new();
    for number in 0..3000 {
        archive = archive.file(&format!("many/a-name-of-some-length-{number}"), b"1");
    }
    // Every other block is a hole, so that each is an extent.
    let mut holes = vec![0; 4096 * 4000];
    for block in holes.chunks_mut(8192) {
        block[0] = 1;
    }
    let image = unpack(&archive.file("holes", &holes).finish()).unwrap();
    assert_eq!(image.names("/many").len(), 3000);
    assert_eq!(image.content("/many/a-name-of-some-length-2999"), b"1");
    assert_eq!(image.content("/holes"), holes);
}

#[test]
fn whole_archive_may_be_compressed() {
    use std::io::Write;
    let archive = Tar::new().file("a", b"content").finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&archive).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let (first, second) = archive.split_at(700);
    // Two frames, and one that is to be skipped.
    let zstd = [
        ruzstd::encoding::compress_to_vec(first, level),
        b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(),
        ruzstd::encoding::compress_to_vec(second, level),
    ]
    .concat();
    for archive in [gzip.finish().unwrap(), xz.finish().unwrap(), zstd] {
        let image = unpack(&archive).unwrap();
        assert_eq!(image.content("/a"), b"content");
    }
}
