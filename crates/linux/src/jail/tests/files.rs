//! What a jailed program can do with the files, directories and devices that it was given.

use std::os::unix::fs::{PermissionsExt, chown};

use super::*;

#[test]
fn jailed_loop_device_is_read_only() {
    // Not below /tmp, which can be a tmpfs.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, vec![7; 1 << 20]).unwrap();
    let device =
        crate::loopdev::attach(&file, crate::loopdev::Access::ReadOnlyDirect, "wrenn-test")
            .unwrap();
    let path = device.path().display().to_string();
    let run = |args: &[&str]| {
        let mut cell = Cell::new();
        cell.jail.show_device(&device.path()).unwrap();
        cell.run(args)
    };
    assert_eq!(run(&["cmp", "-n", "1", &path, &path]).1, Ended::Code(0));
    for args in [vec!["losetup", "-d", &path], vec!["losetup", "-c", &path]] {
        let (said, ended) = run(&args);
        assert!(
            matches!(ended, Ended::Code(1..)) && said.contains("not permitted"),
            "{args:?} {ended}: {said}"
        );
    }
    let (said, ended) = run(&[
        "dd",
        "if=/dev/urandom",
        &format!("of={path}"),
        "bs=4096",
        "count=1",
        "conv=notrunc",
    ]);
    assert!(
        matches!(ended, Ended::Code(1..)) && said.contains("not permitted"),
        "{ended}: {said}"
    );
    assert!(device.status().unwrap().is_some() && fs::read(&file).unwrap() == vec![7; 1 << 20]);
}

#[test]
fn file_size_limit_fails_the_write() {
    let dir = tempfile::tempdir().unwrap();
    let uid = user();
    let file = dir.path().join("disk");
    fs::write(&file, b"").unwrap();
    chown(&file, Some(uid), Some(uid)).unwrap();
    let mut jail = Jail::new(
        uid,
        uid,
        Limits {
            file_bytes: 64 << 10,
            ..Limits::default()
        },
    )
    .unwrap();
    jail.program(&busybox()).unwrap();
    jail.show_path(&file, Access::Write).unwrap();
    let args = [
        "dd",
        "if=/dev/urandom",
        &format!("of={}", file.display()),
        "bs=4096",
        "count=64",
    ];
    let spawn = Spawn {
        program: busybox(),
        args: args.iter().map(OsString::from).collect(),
        log: Some(dir.path().join("log")),
        jail: Some(jail),
        ..Spawn::default()
    };
    // With the default action of SIGXFSZ it would end with a signal.
    assert_eq!(
        spawn.spawn().unwrap().wait(LIMIT).unwrap(),
        Some(Ended::Code(1))
    );
    let said = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(
        said.contains("File too large") && fs::metadata(&file).unwrap().len() == 64 << 10,
        "{said}"
    );
}

#[test]
fn foreign_directory_permits_no_new_names() {
    let cell = || {
        let mut cell = Cell::new();
        let out = cell.dir.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::set_permissions(&out, fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(out.join("memory"), b"").unwrap();
        chown(out.join("memory"), Some(cell.uid), Some(cell.uid)).unwrap();
        cell.jail.show_path(&out, Access::OpenFiles).unwrap();
        let memory = out.join("memory").display().to_string();
        (cell, out, memory)
    };
    let (tried, _, memory) = cell();
    let (said, ended) = tried.run(&[
        "dd",
        "if=/dev/urandom",
        &format!("of={memory}"),
        "bs=4096",
        "count=1",
    ]);
    assert_eq!(ended, Ended::Code(0), "{said}");
    for attack in [vec!["ln", "-s", "../secret"], vec!["mkdir"], vec!["touch"]] {
        let (tried, out, _) = cell();
        let other = out.join("other").display().to_string();
        let (said, ended) = tried.run(&[attack.as_slice(), &[&other]].concat());
        assert!(
            matches!(ended, Ended::Code(1..)) && said.contains("denied"),
            "{attack:?} {ended}: {said}"
        );
    }
    for attack in [vec!["mv"], vec!["ln", "-sf"]] {
        let (tried, out, memory) = cell();
        let other = out.join("x").display().to_string();
        let (said, ended) = tried.run(&[attack.as_slice(), &[&memory, &other]].concat());
        assert!(
            matches!(ended, Ended::Code(1..)) && said.contains("denied"),
            "{attack:?} {ended}: {said}"
        );
    }
    let (tried, _, memory) = cell();
    assert!(matches!(
        tried.run(&["rm", "-f", &memory]).1,
        Ended::Code(1..)
    ));
}

/// What fills it stays in it, and is gone with the process.
#[test]
fn memory_directory_is_bounded() {
    let fill = |args: &[&str]| {
        let mut cell = Cell::new();
        let run = cell.dir.path().join("work");
        let mount = memory_dir(cell.uid, cell.uid, 1 << 20, 16).unwrap();
        let held = mount.try_clone().unwrap();
        cell.jail.trees.retain(|tree| tree.path != run);
        cell.jail.attach(&run, mount);
        let (process, dir) = cell.start(args, None);
        let ended = process.wait(LIMIT).unwrap().expect("it ends");
        assert_eq!(
            fs::read_dir(dir.path().join("work")).unwrap().count(),
            0,
            "nothing is on the host"
        );
        let said = fs::read_to_string(dir.path().join("log")).unwrap();
        (rustix::fs::fstatvfs(&held).unwrap(), ended, said)
    };
    let (found, ended, said) = fill(&["dd", "if=/dev/urandom", "of=file", "bs=65536", "count=64"]);
    assert!(
        ended == Ended::Code(1) && said.contains("No space"),
        "{ended}: {said}"
    );
    assert_eq!(
        (found.f_blocks * found.f_frsize, found.f_bfree),
        (1 << 20, 0)
    );
    let names: Vec<String> = (0..32).map(|number| number.to_string()).collect();
    let args: Vec<&str> = std::iter::once("touch")
        .chain(names.iter().map(String::as_str))
        .collect();
    let (found, ended, said) = fill(&args);
    assert!(
        ended == Ended::Code(1) && said.contains("No space"),
        "{ended}: {said}"
    );
    assert_eq!((found.f_files, found.f_ffree), (16, 0));
}
