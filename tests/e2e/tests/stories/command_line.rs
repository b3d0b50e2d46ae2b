//! `wrenn` as a Unix tool, with a real guest behind it: exit codes, signals, bytes, large and
//! sparse files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use e2e::{Finished, Platform, Wrenn};

/// One sandbox for all of it: a boot costs more than everything here.
#[test]
fn command_line_is_that_of_a_unix_tool() {
    let platform = Platform::start();
    let wrenn = platform.cli();
    let id = wrenn.create(&[]);
    let host = tempfile::tempdir().unwrap();
    exit_codes(&wrenn, &id);
    streams(&wrenn, &id);
    signals(&wrenn, &id);
    bytes(&wrenn, &id, host.path());
    large_files(&wrenn, &id, host.path());
    sparse_files(&wrenn, &id, host.path());
    platform.finish();
}

fn exit_codes(wrenn: &Wrenn, id: &str) {
    for (command, code) in [
        (["no-such-program"].as_slice(), 127),
        (&["/no/such/program"], 127),
        (&["/etc/hosts"], 126),
        (&["/etc"], 126),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 143),
    ] {
        let ended = wrenn.run([&["exec", id, "--"], command].concat());
        assert_eq!(ended.code, code, "{command:?}: {}", ended.stderr);
    }
    let count = wrenn.run(
        ["exec", id, "--", "sh", "-c", "echo $#", "sh"]
            .into_iter()
            .chain(vec!["src/x.py"; 5000]),
    );
    assert_eq!(count.succeeded().text(), "5000");
    let longest = "x".repeat(131_071);
    assert_eq!(
        wrenn
            .run(["exec", id, "--", "printf", "%s", &longest])
            .succeeded()
            .text(),
        longest
    );
}

/// Cases of other tools' trackers and test suites.
fn streams(wrenn: &Wrenn, id: &str) {
    // What a program writes last arrives, however fast it ends (kubectl 1361).
    let whole = wrenn
        .run(["exec", id, "--", "head", "-c", "20000000", "/dev/zero"])
        .succeeded();
    assert_eq!(whole.stdout.len(), 20_000_000);
    // A child that keeps the output open keeps nobody (moby 33039).
    assert_eq!(
        wrenn.sh(id, "sleep 300 & echo started").succeeded().text(),
        "started"
    );
    // Errors that come after the end of the output (openssh, stderr-after-eof.sh).
    let late = wrenn.sh(id, "exec 1>&-; sleep 0.2; echo late >&2; exit 5");
    assert_eq!((late.code, late.stderr.trim()), (5, "late"));
    // A directory that is not there, and a user (docker/cli, TestExec…).
    assert_eq!(wrenn.run(["exec", "-w", "/no/such", id, "true"]).code, 125);
    assert_eq!(wrenn.run(["exec", "-u", "nobody-x", id, "true"]).code, 125);
    assert_eq!(
        wrenn.run(["exec", "-w", "/root", id, "true"]).code,
        126,
        "not allowed to enter"
    );
    assert_eq!(
        wrenn
            .run([
                "exec",
                "-e",
                "A=",
                id,
                "sh",
                "-c",
                "echo ${A-unset}${A:+set}"
            ])
            .succeeded()
            .text(),
        ""
    );
}

fn signals(wrenn: &Wrenn, id: &str) {
    let script = "trap 'echo cleaned; exit 3' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = wrenn
        .command(["exec", id, "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(lines.next().unwrap().unwrap(), "cleaned");
    assert_eq!(child.wait().unwrap().code(), Some(3));

    let script = "trap 'echo cleaned > /tmp/cleaned; exit 3' TERM; while :; do sleep 0.05; done";
    let late = wrenn.run(["exec", "--timeout", "1", id, "--", "sh", "-c", script]);
    assert_eq!(late.code, 124, "{}", late.stderr);
    assert_eq!(
        wrenn.sh(id, "cat /tmp/cleaned").succeeded().text(),
        "cleaned"
    );
}

fn bytes(wrenn: &Wrenn, id: &str, host: &std::path::Path) {
    let odd = OsStr::from_bytes(b"caf\xe9.txt");
    let with = |args: &[&OsStr]| wrenn.run(args).succeeded();
    let printed = with(&[
        "exec".as_ref(),
        id.as_ref(),
        "printf".as_ref(),
        "%s".as_ref(),
        odd,
    ]);
    assert_eq!(printed.stdout, odd.as_bytes());
    let variable = OsStr::from_bytes(b"N=caf\xe9.txt");
    let script = r#"printf %s "$N""#;
    let printed = with(&[
        "exec".as_ref(),
        "-e".as_ref(),
        variable,
        id.as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
    ]);
    assert_eq!(printed.stdout, odd.as_bytes());

    fs::write(host.join(odd), "coffee").unwrap();
    let inside = |path: &[u8]| -> OsString {
        OsStr::from_bytes(&[id.as_bytes(), b":", path].concat()).to_owned()
    };
    with(&["cp".as_ref(), host.join(odd).as_os_str(), &inside(b"/tmp/")]);
    let listed: Finished = wrenn.sh(id, "cd /tmp && ls caf* | od -An -tx1");
    assert_eq!(
        listed.succeeded().text().trim(),
        "63 61 66 e9 2e 74 78 74 0a"
    );
    fs::remove_file(host.join(odd)).unwrap();
    with(&[
        "cp".as_ref(),
        &inside(b"/tmp/caf\xe9.txt"),
        host.as_os_str(),
    ]);
    assert_eq!(fs::read_to_string(host.join(odd)).unwrap(), "coffee");
}

/// Larger than the limit of any route (100 MiB of `files/write`).
fn large_files(wrenn: &Wrenn, id: &str, host: &std::path::Path) {
    let (large, back) = (host.join("large"), host.join("back"));
    let data: Vec<u8> = (0..26_500_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(&large, &data).unwrap();
    let inside = format!("{id}:/tmp/large");
    let _ = wrenn
        .run(["cp", large.to_str().unwrap(), &inside])
        .succeeded();
    assert_eq!(
        wrenn.sh(id, "stat -c %s /tmp/large").succeeded().text(),
        data.len().to_string()
    );
    let _ = wrenn
        .run(["cp", &inside, back.to_str().unwrap()])
        .succeeded();
    assert!(fs::read(&back).unwrap() == data, "the bytes are the same");
    let _ = wrenn.sh(id, "rm /tmp/large").succeeded();
}

/// 256 MiB with 8 KiB of data, as a file and in a directory.
fn sparse_files(wrenn: &Wrenn, id: &str, host: &std::path::Path) {
    let tree = host.join("tree");
    fs::create_dir(&tree).unwrap();
    let disk = File::create(tree.join("disk")).unwrap();
    disk.set_len(256 << 20).unwrap();
    disk.write_all_at(&[7; 8192], 100 << 20).unwrap();
    let (file, dir) = (tree.join("disk"), format!("{id}:/home/user/tree"));
    let _ = wrenn.run(["cp", tree.to_str().unwrap(), &dir]).succeeded();
    let _ = wrenn
        .run(["cp", file.to_str().unwrap(), &format!("{id}:alone")])
        .succeeded();
    let sizes = wrenn
        .sh(id, "stat -c '%s %b' tree/disk alone")
        .succeeded()
        .text();
    for line in sizes.lines() {
        let (length, blocks) = line.split_once(' ').unwrap();
        assert_eq!(length, "268435456");
        assert!(blocks.parse::<u64>().unwrap() * 512 < 50 << 20, "{sizes}");
    }
    let _ = wrenn
        .run([
            "cp",
            &format!("{id}:tree/disk"),
            host.join("alone").to_str().unwrap(),
        ])
        .succeeded();
    let _ = wrenn
        .run(["cp", &dir, host.join("whole").to_str().unwrap()])
        .succeeded();
    for copy in [host.join("alone"), host.join("whole/disk")] {
        let facts = fs::metadata(&copy).unwrap();
        assert!(
            facts.len() == 256 << 20 && facts.blocks() * 512 < 50 << 20,
            "{copy:?}: {} blocks",
            facts.blocks()
        );
        let mut piece = [0; 8192];
        File::open(&copy)
            .unwrap()
            .read_exact_at(&mut piece, 100 << 20)
            .unwrap();
        assert!(piece == [7; 8192]);
    }
}
