//! `/etc/resolv.conf`: the name servers of the sandbox, where the image names none that can be
//! reached.
//!
//! Images say all kinds of things there: nothing; the stub of systemd-resolved or of dnsmasq, which
//! would listen on loopback and is not started here; a link into `/run`, where nothing is after a
//! boot; the name server of the machine that the image was built on, which is private, and no
//! sandbox reaches private addresses. Only a public name server is taken for the wish of the image.
//! Other lines (`search`, `options`) stay.
//!
//! A link is not replaced: its target is made. A file that cannot be written (a read-only or full
//! disk, an immutable file) is covered by a file in memory, mounted over it.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::cover::{cover_file, follow_links};

/// Maximum number of bytes that are read: more than any real file has.
const LIMIT: u64 = 64 << 10;

/// Writes `/etc/resolv.conf` where it names no server that a guest can reach.
pub fn write_name_servers(servers: &[IpAddr]) {
    let path = Path::new("/etc/resolv.conf");
    if let Err(error) = write(Path::new("/"), path, servers) {
        match cover_file(path, &content(path, servers)) {
            Ok(()) => eprintln!(
                "envd: /etc/resolv.conf cannot be written ({error}); another is mounted over it"
            ),
            Err(second) => eprintln!(
                "envd: /etc/resolv.conf cannot be written ({error}), nor covered ({second})"
            ),
        }
    }
}

fn write(root: &Path, path: &Path, servers: &[IpAddr]) -> io::Result<()> {
    if servers.is_empty() || names_public_server(&read(path)) {
        return Ok(());
    }
    let content = content(path, servers);
    let target = follow_links(root, path)?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    // Whole or not at all: a full disk must not leave half a file.
    let new = target.with_extension("wrenn-new");
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            fs::rename(&new, &target)
        });
    if written.is_err() {
        // The error that is answered says more.
        let _ = fs::remove_file(&new);
    }
    written
}

fn read(path: &Path) -> String {
    let mut text = Vec::new();
    // A pipe in its place must not hold the boot.
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    if let Ok(file) = opened {
        let _ = io::Read::read_to_end(&mut io::Read::take(file, LIMIT), &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Returns the address of a `nameserver` line; empty if it has none. `None` for other lines.
fn name_server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
}

fn names_public_server(text: &str) -> bool {
    let addresses = text.lines().filter_map(name_server);
    // A zone (`fe80::1%eth0`) belongs to a link of another machine.
    addresses
        .filter_map(|address| address.parse().ok())
        .any(|address: IpAddr| is_public(address.to_canonical()))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_shared =
                (u32::from(v4) & 0xffc0_0000) == u32::from(Ipv4Addr::new(100, 64, 0, 0));
            let is_local = v4.is_loopback() || v4.is_private() || v4.is_link_local();
            let is_many = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast();
            !is_shared && !is_local && !is_many
        }
        IpAddr::V6(v6) => {
            let is_local = v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local();
            let is_many = v6.is_unspecified() || v6.is_multicast();
            !is_local && !is_many
        }
    }
}

/// Returns the image's lines without its name servers, and the name servers of the sandbox.
fn content(path: &Path, servers: &[IpAddr]) -> String {
    let text = read(path);
    let kept = text
        .lines()
        .filter(|line| name_server(line).is_none())
        .map(|line| format!("{line}\n"));
    kept.chain(
        servers
            .iter()
            .map(|server| format!("nameserver {server}\n")),
    )
    .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OURS: &str = "nameserver 9.9.9.9\n";

    /// Content of the file after a boot, and whether it is still a link.
    fn after(prepare: impl FnOnce(&Path)) -> (String, bool) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let etc = root.path().join("etc");
        fs::create_dir(&etc).expect("a folder");
        let path = etc.join("resolv.conf");
        prepare(&path);
        write(
            root.path(),
            &path,
            &["9.9.9.9".parse().expect("an address")],
        )
        .expect("can be written");
        let target = follow_links(root.path(), &path).expect("no circle");
        (
            fs::read_to_string(target).expect("is there"),
            path.is_symlink(),
        )
    }

    fn text_after(text: &str) -> String {
        after(|path| fs::write(path, text).expect("a file")).0
    }

    #[test]
    fn missing_and_empty_files_name_ours() {
        assert_eq!(after(|_| ()), (OURS.to_owned(), false));
        assert_eq!(text_after("# nothing\n"), format!("# nothing\n{OURS}"));
    }

    #[test]
    fn public_name_server_of_image_stays() {
        for text in [
            "nameserver 1.2.3.4\n",
            "nameserver 127.0.0.1\nnameserver\t2606:4700::1111 # x\n",
        ] {
            assert_eq!(text_after(text), text);
        }
    }

    #[test]
    fn unreachable_name_servers_are_replaced() {
        for address in [
            "127.0.0.53",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "10.0.2.3",
            "192.168.1.1",
            "172.17.0.1",
            "100.100.100.100",
            "169.254.169.253",
            "fe80::1%eth0",
            "fd00::1",
            "::ffff:127.0.0.1",
            "localhost",
            "",
        ] {
            assert_eq!(
                text_after(&format!("nameserver {address}\n")),
                OURS,
                "{address}"
            );
        }
    }

    #[test]
    fn search_and_options_of_image_stay() {
        let stub = "# of systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n";
        assert_eq!(
            text_after(stub),
            format!("# of systemd-resolved\noptions edns0 trust-ad\nsearch example.org\n{OURS}")
        );
    }

    #[test]
    fn dangling_links_get_their_targets() {
        let dangling =
            |target: &'static str| move |path: &Path| symlink(target, path).expect("a link");
        assert_eq!(
            after(dangling("../run/systemd/resolve/stub-resolv.conf")),
            (OURS.to_owned(), true)
        );
        assert_eq!(
            after(dangling("/run/resolvconf/resolv.conf")),
            (OURS.to_owned(), true)
        );
        let chain = |path: &Path| {
            symlink("other", path).expect("a link");
            symlink("../run/a/b", path.with_file_name("other")).expect("a link");
        };
        assert_eq!(after(chain), (OURS.to_owned(), true));
    }

    #[test]
    fn circle_of_links_is_an_error() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let path = root.path().join("resolv.conf");
        symlink("resolv.conf", &path).expect("a link");
        assert!(
            write(
                root.path(),
                &path,
                &["9.9.9.9".parse().expect("an address")]
            )
            .is_err()
        );
    }
}
