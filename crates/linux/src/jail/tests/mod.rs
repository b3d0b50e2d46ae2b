//! Jails seen from outside, in `/proc`, and from inside, with the programs of busybox.

mod files;

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::libc;
use tempfile::TempDir;

use super::*;
use crate::process::{self, Ended, Process, Spawn};
use crate::{netns, programs};

const LIMIT: Duration = Duration::from_secs(20);

/// A user that no other process of this machine has.
fn user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    2_050_000_000 + std::process::id() % 10_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A directory of the jail's user, with a jail that shows it.
struct Cell {
    dir: TempDir,
    uid: u32,
    jail: Jail,
}

impl Cell {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uid = user();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        chown(&work, Some(uid), Some(uid)).unwrap();
        let mut jail = Jail::new(uid, uid, Limits::default()).unwrap();
        jail.program(&busybox()).unwrap();
        jail.show_path(&work, Access::Write).unwrap();
        Self { dir, uid, jail }
    }

    fn start(self, args: &[&str], netns: Option<&str>) -> (Process, TempDir) {
        let spawn = Spawn {
            program: busybox(),
            args: args.iter().map(OsString::from).collect(),
            netns: netns.map(str::to_owned),
            log: Some(self.dir.path().join("log")),
            cwd: Some(self.dir.path().join("work")),
            oom_score_adj: Some(500),
            jail: Some(self.jail),
            ..Spawn::default()
        };
        (spawn.spawn().unwrap(), self.dir)
    }

    /// What one of busybox's programs says, and how it ends.
    fn run(self, args: &[&str]) -> (String, Ended) {
        let (process, dir) = self.start(args, None);
        let ended = process.wait(LIMIT).unwrap().expect("it ends");
        (fs::read_to_string(dir.path().join("log")).unwrap(), ended)
    }
}

fn busybox() -> PathBuf {
    programs::find("busybox").expect("busybox; type: apt-get install busybox-static")
}

fn proc(process: &Process, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", process.pid())).unwrap()
}

fn field<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .expect("the field");
    line.split_ascii_whitespace().collect()
}

fn namespace(pid: &str, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

#[test]
fn jailed_process_has_no_privileges() {
    let cell = Cell::new();
    let uid = cell.uid.to_string();
    let (process, dir) = cell.start(&["sleep", "60"], None);
    let status = proc(&process, "status");
    assert_eq!(field(&status, "Uid:"), [uid.as_str(); 4]);
    assert_eq!(field(&status, "Gid:"), [uid.as_str(); 4]);
    assert!(field(&status, "Groups:").is_empty());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(&status, set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs:"), ["1"]);
    assert_eq!(field(&status, "Seccomp:"), ["2"]);
    assert_eq!(
        field(&status, "NSpid:"),
        [process.pid().to_string().as_str(), "1"]
    );
    let limits = proc(&process, "limits");
    for (name, limit) in [
        ("core file size", "0"),
        ("processes", "256"),
        ("open files", "1024"),
        ("locked memory", "0"),
    ] {
        assert_eq!(
            field(&limits, &format!("Max {name}"))[..2],
            [limit; 2],
            "{name}"
        );
    }
    assert_eq!(proc(&process, "oom_score_adj").trim(), "500");
    for kind in ["mnt", "pid", "net", "ipc"] {
        assert_ne!(
            namespace(&process.pid().to_string(), kind),
            namespace("self", kind),
            "{kind}"
        );
    }
    let open = fs::read_dir(format!("/proc/{}/fd", process.pid()))
        .unwrap()
        .count();
    assert_eq!(open, 3, "standard input, output and error");
    process.kill().unwrap();
    process.wait(LIMIT).unwrap();
    drop(dir);
}

#[test]
fn jail_has_only_given_mounts() {
    let cell = Cell::new();
    let (process, dir) = cell.start(&["sleep", "60"], None);
    let table = proc(&process, "mountinfo");
    let mut places: Vec<&str> = table
        .lines()
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    places.sort_unstable();
    let work = dir.path().join("work");
    let program = busybox();
    let given = [
        Path::new("/"),
        Path::new(SYSTEM),
        Path::new(LOADER_CACHE),
        &work,
        &program,
    ];
    assert!(
        places.iter().all(|place| given.contains(&Path::new(place))),
        "{table}"
    );
    assert!(places.len() >= 3 && places.contains(&"/"), "{table}");
    for line in table
        .lines()
        .filter(|line| !line.contains(work.to_str().unwrap()))
    {
        assert!(line.split(' ').nth(5).unwrap().starts_with("ro,"), "{line}");
        assert!(
            !line.contains(" shared:") && !line.contains(" master:"),
            "{line}"
        );
    }
    process.kill().unwrap();
    process.wait(LIMIT).unwrap();
}

#[test]
fn jailed_program_finds_nothing_of_host() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    let secret = secret.path().to_str().unwrap();
    let us = std::process::id().to_string();
    let busybox = busybox().display().to_string();
    let attempts: [&[&str]; 10] = [
        &["cat", secret],
        &["cat", "/etc/shadow"],
        &["cat", "/etc/passwd"],
        &["cat", "/proc/1/status"],
        &["ls", "/root"],
        &["kill", "-9", &us],
        &["mkdir", "/x"],
        &["touch", &busybox],
        &["mount", "-t", "tmpfs", "t", "/dev"],
        &["chroot", "/", &busybox, "true"],
    ];
    for args in attempts {
        let (said, ended) = Cell::new().run(args);
        assert!(
            matches!(ended, Ended::Code(1..)),
            "{args:?} ended with {ended}: {said}"
        );
    }
}

#[test]
fn jailed_program_has_given_files() {
    let (said, ended) = Cell::new().run(&["ls", "/"]);
    assert_eq!(ended, Ended::Code(0), "{said}");
    let names: Vec<&str> = said
        .lines()
        .filter(|name| !ALIASES.contains(&format!("/{name}").as_str()))
        .collect();
    assert!(names.contains(&"dev") && names.contains(&"usr"), "{said}");
    assert!(
        !["proc", "sys", "root", "home", "run"]
            .iter()
            .any(|name| names.contains(name)),
        "{said}"
    );
    let cell = Cell::new();
    let uid = cell.uid.to_string();
    let (said, _) = cell.run(&["ls", "-n", "/dev"]);
    let nodes: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("crw-------"))
        .collect();
    assert!(
        nodes.len() == 2 && nodes.iter().all(|node| node.contains(&uid)),
        "{said}"
    );
    assert_eq!(
        Cell::new().run(&["touch", "file"]),
        (String::new(), Ended::Code(0))
    );
    assert_eq!(
        Cell::new()
            .run(&["dd", "if=/dev/urandom", "of=/dev/null", "count=1"])
            .1,
        Ended::Code(0)
    );
}

#[test]
fn jailed_program_starts_no_other() {
    let busybox = busybox().display().to_string();
    let (said, ended) = Cell::new().run(&["env", &busybox, "true"]);
    assert!(
        matches!(ended, Ended::Code(1..)) && said.contains("not implemented"),
        "{ended}: {said}"
    );
}

/// What `true` of busybox needs, and no `getuid`, of which it says what the kernel says.
const OF_TRUE: &[Call] = &[
    Call::any_arguments(libc::SYS_brk),
    Call::any_arguments(libc::SYS_mmap),
    Call::any_arguments(libc::SYS_mprotect),
    Call::any_arguments(libc::SYS_munmap),
    Call::any_arguments(libc::SYS_arch_prctl),
    Call::any_arguments(libc::SYS_set_tid_address),
    Call::any_arguments(libc::SYS_set_robust_list),
    Call::any_arguments(libc::SYS_prlimit64),
    Call::any_arguments(libc::SYS_readlink),
    Call::any_arguments(libc::SYS_getrandom),
    Call::any_arguments(libc::SYS_write),
    Call::any_arguments(libc::SYS_rt_sigaction),
    Call::any_arguments(libc::SYS_rt_sigprocmask),
    Call::any_arguments(libc::SYS_exit_group),
];

#[test]
fn unlisted_calls_fail_or_are_logged() {
    let run = |enforcement, args: &[&str]| {
        let mut cell = Cell::new();
        cell.jail
            .allow_syscalls(Syscalls::Only(&[OF_TRUE], enforcement));
        cell.run(args)
    };
    assert_eq!(
        run(Enforcement::Enforce, &["true"]),
        (String::new(), Ended::Code(0))
    );
    let (said, ended) = run(Enforcement::Enforce, &["mkdir", "x"]);
    assert!(
        ended == Ended::Code(1) && said.contains("not implemented"),
        "{ended}: {said}"
    );
    assert_eq!(
        run(Enforcement::Log, &["mkdir", "x"]),
        (String::new(), Ended::Code(0))
    );
    // Nor does this let programs start.
    assert!(
        run(Enforcement::Log, &["env", "/bin/true"])
            .0
            .contains("not implemented")
    );
}

#[test]
fn jails_are_isolated_from_each_other() {
    let one = Cell::new();
    let file = one.dir.path().join("work/file");
    fs::write(&file, b"one's own").unwrap();
    let (sleeper, _dir) = one.start(&["sleep", "60"], None);
    for args in [
        ["cat", file.to_str().unwrap()],
        ["kill", &sleeper.pid().to_string()],
        ["kill", "2"],
    ] {
        let (said, ended) = Cell::new().run(&args);
        assert!(
            matches!(ended, Ended::Code(1..)),
            "{args:?} ended with {ended}: {said}"
        );
    }
    assert_eq!(sleeper.has_ended().unwrap(), None);
    sleeper.kill().unwrap();
    assert_eq!(sleeper.wait(LIMIT).unwrap(), Some(Ended::Signal(9)));
}

#[test]
fn jail_enters_its_netns_and_cgroup() {
    let name = format!("wtest-jail-{}", std::process::id());
    netns::create(&name).unwrap();
    let mut cell = Cell::new();
    let tree = crate::cgroup::Tree::prepare("wtest-jail").unwrap();
    let group = tree.map(|tree| tree.group(&name));
    if let Some(group) = &group {
        let limits = crate::cgroup::Limits {
            cpu_percent: 100,
            weight: 100,
            memory_bytes: 1 << 30,
            swap_bytes: 0,
            tasks: 50,
        };
        crate::cgroup::create(group, &limits).unwrap();
        cell.jail.cgroup(group).unwrap();
    }
    let (process, _dir) = cell.start(&["sleep", "60"], Some(&name));
    let outside = netns::enter(&name, || fs::read_link("/proc/thread-self/ns/net")).unwrap();
    assert_eq!(namespace(&process.pid().to_string(), "net"), outside);
    if let Some(group) = &group {
        let wanted = format!("0::/wtest-jail/{name}");
        assert!(
            proc(&process, "cgroup").lines().any(|line| line == wanted),
            "{}",
            proc(&process, "cgroup")
        );
        crate::cgroup::remove(group).unwrap();
        let _ = fs::remove_dir(group.parent().unwrap());
    }
    process.kill().unwrap();
    process.wait(LIMIT).unwrap();
    netns::remove(&name).unwrap();
}

#[test]
fn unreadable_files_are_refused_before_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut jail = Jail::new(user(), user(), Limits::default()).unwrap();
    let path = dir.path().join("image");
    assert_eq!(
        jail.show_path(&path, Access::Read).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    fs::write(&path, b"image").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let shut = jail.show_path(&path, Access::Read).unwrap_err();
    assert!(
        shut.kind() == io::ErrorKind::PermissionDenied && shut.to_string().contains("chmod o+r"),
        "{shut}"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    jail.show_path(&path, Access::Read).unwrap();
    assert!(jail.show_path(&path, Access::Write).is_err());
    assert_eq!(
        jail.show_device(&path).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert!(jail.program(&dir.path().join("none")).is_err());
    assert!(Jail::new(0, 1, Limits::default()).is_err());
}

#[test]
fn read_only_file_rejects_its_owner() {
    let mut cell = Cell::new();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, b"image").unwrap();
    // Even for its owner.
    chown(&image, Some(cell.uid), None).unwrap();
    cell.jail.show_path(&image, Access::Read).unwrap();
    let (said, ended) = cell.run(&["dd", "if=/dev/null", &format!("of={}", image.display())]);
    assert!(
        ended == Ended::Code(1) && said.contains("Read-only"),
        "{ended}: {said}"
    );
    assert_eq!(fs::read(&image).unwrap(), b"image");
    let spawn = Spawn {
        program: "/nonexistent".into(),
        jail: Some(Cell::new().jail),
        ..Spawn::default()
    };
    assert_eq!(spawn.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn statically_linked_programs_need_no_libraries() {
    assert!(needs_libraries(&File::open("/proc/self/exe").unwrap()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, b"#!/bin/sh").unwrap();
    assert!(needs_libraries(&File::open(&script).unwrap()).unwrap());
    process::probe_jail(user()).unwrap();
}
