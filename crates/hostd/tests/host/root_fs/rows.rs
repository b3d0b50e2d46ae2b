//! Rows of the corpus. Each is one kind of image that exists, or that somebody will make.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::Row;
use crate::image_files::{add_files, busybox, fill_with_shell, run};

/// A name server that a guest reaches is named.
pub(super) const RESOLVES: (&str, &str) = (
    "$0 grep -c ^nameserver /etc/resolv.conf && ! $0 grep 127.0.0.53 /etc/resolv.conf",
    "1",
);
/// The machine's own name is in `/etc/hosts`.
pub(super) const NAMED: (&str, &str) = (
    "$0 grep -q \"127.0.1.1 $($0 hostname)\" /etc/hosts && echo named",
    "named",
);
/// Everybody may write to `/tmp`.
pub(super) const TMP: (&str, &str) = ("$0 stat -L -c %a /tmp", "1777");

const ROOT: (&str, &str) = ("root", "0 0 / /");
const NUMBER: (&str, &str) = ("1000", "1000 0 / /");

impl Row {
    /// A row of an image with a shell in `/bin`.
    pub(super) const fn new(name: &'static str, fill: fn(&Path)) -> Self {
        Self {
            name,
            options: &[],
            fill,
            change: |_| (),
            program: "/bin/busybox",
            users: &[ROOT, NUMBER],
            facts: &[RESOLVES, NAMED, TMP],
        }
    }

    const fn program(self, program: &'static str) -> Self {
        Self { program, ..self }
    }

    pub(super) const fn options(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    pub(super) const fn change(self, change: fn(&Path)) -> Self {
        Self { change, ..self }
    }

    const fn users(self, users: &'static [(&'static str, &'static str)]) -> Self {
        Self { users, ..self }
    }

    pub(super) const fn facts(self, facts: &'static [(&'static str, &'static str)]) -> Self {
        Self { facts, ..self }
    }
}

/// Returns images by what is in them.
pub fn contents() -> Vec<Row> {
    let mut all = content();
    all.extend(users());
    all.extend(names());
    all.extend(contents_of_files());
    all.extend(special_dirs());
    all
}

/// Images by what is in them: one program, no shell, another C library, an init system.
fn content() -> Vec<Row> {
    vec![
        Row::new("scratch", |root| {
            fs::copy(busybox(), root.join("busybox")).unwrap();
        })
        .program("/busybox")
        .users(&[ROOT, ("70000:678", "70000 678 / /")]),
        Row::new("no-shell", |root| {
            add_files(
                root,
                &[("etc/passwd", "app:x:1000:1000::/:/sbin/nologin\n")],
            );
            fs::copy(busybox(), root.join("busybox")).unwrap();
        })
        .program("/busybox")
        .users(&[ROOT, ("app", "1000 1000 / /")])
        .facts(&[RESOLVES, ("[ -e /bin/sh ] || echo none", "none")]),
        Row::new("musl", |root| {
            fill_with_shell(root, &[]);
            let source = root.join("hello.c");
            let text = "#include <stdio.h>\nint main(void) { puts(\"of musl\"); return 0; }\n";
            fs::write(&source, text).unwrap();
            let program = root.join("hello");
            run(
                "musl-gcc",
                &[source.to_str().unwrap(), "-o", program.to_str().unwrap()],
            );
            fs::create_dir(root.join("lib")).unwrap();
            fs::copy(
                "/lib/ld-musl-x86_64.so.1",
                root.join("lib/ld-musl-x86_64.so.1"),
            )
            .unwrap();
        })
        .facts(&[("/hello; echo $LANG", "of musl\nC.UTF-8"), RESOLVES]),
        Row::new("systemd-wished", |root| {
            let unit = "[Unit]\nDescription=x\n";
            let init = "#!/bin/sh\necho started > /started\n";
            let files = [
                ("lib/systemd/systemd", init),
                ("etc/systemd/system/default.target", unit),
                ("etc/inittab", "::sysinit:/started\n"),
                ("init", init),
            ];
            fill_with_shell(root, &files);
            fs::create_dir(root.join("sbin")).unwrap();
            symlink("/lib/systemd/systemd", root.join("sbin/init")).unwrap();
            for path in ["lib/systemd/systemd", "init"] {
                fs::set_permissions(root.join(path), Permissions::from_mode(0o755)).unwrap();
            }
        })
        .facts(&[
            (
                "readlink /sbin/init; [ -e /started ] || echo no",
                "/lib/systemd/systemd\nno",
            ),
            RESOLVES,
        ]),
        Row::new("usr-merged", |root| {
            fill_with_shell(root, &[("usr/lib/kept", "kept")]);
            fs::rename(root.join("bin"), root.join("usr/bin")).unwrap();
            for name in ["bin", "lib", "sbin"] {
                fs::create_dir_all(root.join("usr").join(name)).unwrap();
                symlink(format!("usr/{name}"), root.join(name)).unwrap();
            }
        })
        .facts(&[
            (
                "readlink /bin; readlink /sbin; cat /lib/kept",
                "usr/bin\nusr/sbin\nkept",
            ),
            RESOLVES,
            TMP,
        ]),
        Row::new("split-usr", |root| {
            fill_with_shell(root, &[("usr/sbin/own", "#!/bin/sh\necho of /usr/sbin\n")]);
            let own = root.join("usr/sbin/own");
            fs::set_permissions(own, Permissions::from_mode(0o755)).unwrap();
        })
        .facts(&[("own", "of /usr/sbin"), RESOLVES]),
        Row::new("preloaded", |root| {
            let files = [
                ("etc/ld.so.preload", "/no/such/library.so\n"),
                ("etc/ld.so.conf", "/no/such\n"),
            ];
            fill_with_shell(root, &files);
        }),
        Row::new("own-modules", |root| {
            fill_with_shell(root, &[("lib/modules/1.2.3/modules.dep", "kept")]);
        })
        .facts(&[("cat /lib/modules/1.2.3/modules.dep", "kept"), RESOLVES]),
    ]
}

/// Images by their users.
fn users() -> Vec<Row> {
    vec![
        Row::new("no-passwd", |root| fill_with_shell(root, &[]))
            .users(&[ROOT, NUMBER, ("1000:50", "1000 50 / /")]),
        Row::new("no-users", |root| {
            fill_with_shell(root, &[("etc/passwd", ""), ("etc/group", ""), ("etc/shadow", "")]);
        }),
        Row::new("uid-beyond-16-bits", |root| {
            let passwd = "big:x:4000000000:4000000001::/data:/bin/sh\n";
            fill_with_shell(root, &[("etc/passwd", passwd), ("data/file", "")]);
            let ids = (Some(4_000_000_000), Some(4_000_000_001));
            for path in ["data", "data/file"] {
                chown(root.join(path), ids.0, ids.1).unwrap();
            }
        })
        .users(&[
            ROOT,
            ("big", "4000000000 4000000001 /data /data"),
            ("4294967294:70000", "4294967294 70000 / /"),
        ])
        .facts(&[("stat -c '%u %g' /data/file", "4000000000 4000000001"), TMP]),
        Row::new("odd-passwd", |root| {
            let passwd = "# comment\n\nshort:x\n::1:1:::\n+::::::\nbad:x:many:1::/:\r\nwide:x:1:1:a:b:c:d:e\n\
                app:x:1000:1000:Ünï:/:/bin/sh\nminus:x:-1:-1::/:\napp:x:7:7::/:\nlast:x:8:9::/:/bin/sh";
            fill_with_shell(root, &[("etc/group", "broken\nstaff:x:50:app,last\n:\n")]);
            let bytes = [passwd.as_bytes(), b"\nraw:x:9:9:\xff\xfe:/:/bin/sh\n"].concat();
            fs::write(root.join("etc/passwd"), bytes).unwrap();
        })
        .users(&[
            ROOT,
            ("app", "1000 1000 / /"),
            ("last", "8 9 / /"),
            ("raw", "9 9 / /"),
            ("last:staff", "8 50 / /"),
        ]),
        Row::new("homes-and-shells-missing", |root| {
            let passwd = "root:x:0:0::/root:/usr/bin/zsh\napp:x:1000:1000::/home/app:/bin/fish\n\
                file:x:1001:1001::/etc/passwd:\nrelative:x:1002:1002::home:\n";
            fill_with_shell(root, &[("etc/passwd", passwd)]);
        })
        .users(&[
            ("root", "0 0 /root /"),
            ("app", "1000 1000 /home/app /"),
            ("file", "1001 1001 /etc/passwd /"),
        ]),
    ]
}

/// Images by the files that name things: name servers, hosts, paths.
fn names() -> Vec<Row> {
    vec![
        Row::new("resolver-dangling-link", |root| {
            fill_with_shell(root, &[]);
            let target = "../run/systemd/resolve/stub-resolv.conf";
            symlink(target, root.join("etc/resolv.conf")).unwrap();
        })
        .facts(&[
            RESOLVES,
            (
                "readlink /etc/resolv.conf",
                "../run/systemd/resolve/stub-resolv.conf",
            ),
        ]),
        Row::new("resolver-stub", |root| {
            let text = "nameserver 127.0.0.53\noptions edns0\n";
            fill_with_shell(root, &[("etc/resolv.conf", text)]);
        })
        .facts(&[RESOLVES, ("grep options /etc/resolv.conf", "options edns0")]),
        Row::new("resolver-directory", |root| {
            fill_with_shell(root, &[("etc/resolv.conf/kept", "kept")]);
        })
        .facts(&[("cat /etc/resolv.conf/kept", "kept"), NAMED]),
        Row::new("resolver-pipe", |root| {
            fill_with_shell(root, &[]);
            run("mkfifo", &[root.join("etc/resolv.conf").to_str().unwrap()]);
        }),
        Row::new("resolver-circle", |root| {
            fill_with_shell(root, &[]);
            symlink("resolv.conf", root.join("etc/resolv.conf")).unwrap();
        })
        .facts(&[("readlink /etc/resolv.conf", "resolv.conf"), NAMED]),
        Row::new("hosts-dangling-link", |root| {
            fill_with_shell(root, &[]);
            symlink("../run/hosts", root.join("etc/hosts")).unwrap();
        })
        .facts(&[RESOLVES, ("readlink /etc/hosts", "../run/hosts"), NAMED]),
        Row::new("hosts-directory-and-pipe", |root| {
            fill_with_shell(root, &[("etc/hosts/kept", "kept")]);
            run("mkfifo", &[root.join("etc/machine-id").to_str().unwrap()]);
        })
        .facts(&[RESOLVES, ("cat /etc/hosts/kept", "kept")]),
    ]
}

/// Images whose files say what no program expects.
fn contents_of_files() -> Vec<Row> {
    vec![
        Row::new("etc-link", |root| {
            fill_with_shell(root, &[]);
            fs::create_dir_all(root.join("usr/etc")).unwrap();
            fs::remove_dir(root.join("etc")).unwrap();
            symlink("usr/etc", root.join("etc")).unwrap();
        })
        .facts(&[RESOLVES, NAMED, ("readlink /etc", "usr/etc")]),
        Row::new("deep-path", |root| {
            let mut path = String::from("PATH=\"");
            for number in 0..900 {
                path += &format!("/opt/vendor/package-{number}/bin:");
            }
            let deep = "opt/".to_owned() + &"d/".repeat(60);
            path += &format!("/{deep}\"\n");
            let program = format!("{deep}own");
            let files = [
                ("etc/environment", path.as_str()),
                (program.as_str(), "#!/bin/sh\necho deep\n"),
            ];
            fill_with_shell(root, &files);
            fs::set_permissions(root.join(&program), Permissions::from_mode(0o755)).unwrap();
        })
        .facts(&[("own", "deep")]),
        Row::new("all-odd", |root| {
            let long = "x".repeat(300);
            let large = "A=1\n".repeat(100_000);
            let files = [
                ("etc/hostname", long.as_str()),
                (
                    "etc/environment",
                    "\u{0}\u{1}=\nA\u{0}B=1\n=\nGOOD=1\nPATH=\n",
                ),
                ("etc/default/locale", large.as_str()),
                ("etc/login.defs", "ENV_PATH\nENV_SUPATH \n\u{0}"),
                (
                    "etc/sysctl.conf",
                    "no.such = 1\nkernel.\n = \nvm.swappiness = many\n",
                ),
                (
                    "etc/tmpfiles.d/odd.conf",
                    "d\nd /run/../x 9999\nL+ /run/%b - - - - /\nz\nd /run/own 0750\n",
                ),
                ("etc/nsswitch.conf", "hosts: nothing\n"),
                ("etc/mtab", "a file\n"),
                ("etc/profile", "exit 3\n"),
                ("etc/inputrc/x", ""),
            ];
            fill_with_shell(root, &files);
            let odd = root.join(std::ffi::OsStr::from_bytes(b"n\xff\n\x1b[31m"));
            fs::write(odd, "x").unwrap();
        })
        .facts(&[
            (
                "echo $GOOD; stat -c %a /run/own; cat /etc/mtab",
                "1\n750\na file",
            ),
            ("ls -A / | grep -c 31m", "1"),
            RESOLVES,
            NAMED,
            TMP,
        ]),
        Row::new("set-id-and-devices", |root| {
            fill_with_shell(root, &[("set", "x"), ("caps", "x")]);
            fs::set_permissions(root.join("set"), Permissions::from_mode(0o6755)).unwrap();
            run(
                "mknod",
                &[root.join("null").to_str().unwrap(), "c", "1", "3"],
            );
            fs::hard_link(root.join("set"), root.join("hard")).unwrap();
            let sparse = fs::File::create(root.join("sparse")).unwrap();
            sparse.set_len(1 << 30).unwrap();
        })
        .facts(&[
            (
                "stat -c '%a %h' /set; stat -c '%F' /null; echo x > /null",
                "6755 2\ncharacter special file",
            ),
            ("stat -c '%s %b' /sparse", "1073741824 0"),
        ]),
    ]
}

/// Images whose directories for kernel, processes and temporary files are not what they should be.
fn special_dirs() -> Vec<Row> {
    vec![
        Row::new("proc-and-run-links", |root| {
            fill_with_shell(root, &[("var/kept", "kept")]);
            for (name, target) in [
                ("proc", "var/proc"),
                ("sys", "/var/sys"),
                ("dev", "/var/dev"),
                ("run", "/data/run"),
                ("tmp", "var/tmp"),
            ] {
                fs::remove_dir(root.join(name)).unwrap();
                symlink(target, root.join(name)).unwrap();
            }
        })
        .facts(&[
            RESOLVES,
            NAMED,
            TMP,
            (
                "readlink /proc; readlink /run; readlink /tmp; cat /var/kept",
                "var/proc\n/data/run\nvar/tmp\nkept",
            ),
            (
                "echo x > /dev/null; cat /proc/sys/kernel/ostype; ls -d /sys/kernel",
                "Linux\n/sys/kernel",
            ),
        ]),
        Row::new("dev-full-of-files", |root| {
            let files = [
                ("dev/null", "a file"),
                ("dev/console", ""),
                ("dev/pts/0", ""),
            ];
            fill_with_shell(root, &files);
            for number in 0..200 {
                fs::write(root.join(format!("dev/file{number}")), "").unwrap();
            }
        })
        .facts(&[
            (
                "echo x > /dev/null; stat -c %F /dev/null",
                "character special file",
            ),
            TMP,
        ]),
        Row::new("own-run", |root| {
            let files = [
                ("run/own/kept", "kept"),
                ("run/lock/own", ""),
                ("var/x", ""),
            ];
            fill_with_shell(root, &files);
            symlink("../run", root.join("var/run")).unwrap();
            chown(root.join("run/own"), Some(70_000), Some(50)).unwrap();
        })
        .facts(&[
            (
                "cat /var/run/own/kept; stat -c '%u %g' /run/own; ls /run/lock",
                "kept70000 50\nown",
            ),
            RESOLVES,
        ]),
        Row::new("no-dirs", |root| {
            fill_with_shell(root, &[]);
            for name in ["dev", "proc", "sys", "run", "etc", "tmp"] {
                fs::remove_dir(root.join(name)).unwrap();
            }
        }),
        Row::new("private-tmp", |root| {
            fill_with_shell(root, &[("tmp/kept", "kept")]);
            fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o750)).unwrap();
        })
        .facts(&[("stat -c %a /tmp; cat /tmp/kept", "750\nkept")]),
    ]
}
