//! Loads kernel modules when the kernel asks for one: this program is its `modprobe`
//! (`/proc/sys/kernel/modprobe`), so that an image needs none.
//!
//! The kernel starts `PROGRAM -q -- NAME` as root, outside of every container, and waits. NAME is a
//! module or one of the names that `modules.alias` gives it (`fs-overlay`, `char-major-10-229`,
//! `net-pf-16-proto-12`). The index of depmod(8) says which files are loaded first. Lines
//! `blacklist` and `options` of modprobe.d(5) of the image hold.

use std::collections::HashSet;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::user::read_bounded;

/// Path of this program as long as it runs: its file is gone after the boot.
pub const PROGRAM: &str = "/proc/1/exe";

/// Maximum number of bytes of an index that are read: `modules.alias` of a kernel with all its
/// drivers has some two million.
const INDEX_LIMIT: u64 = 16 << 20;

/// Folders of modprobe.d(5).
const SETTINGS: [&str; 3] = ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"];

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`: the kernel unpacks it, where it can.
const COMPRESSED: u32 = 4;

/// Deeper than any real chain: an index that names a circle must not hang us.
const MAX_DEPTH: usize = 32;

/// Returns the module that the kernel asks for, if the kernel started this program.
pub fn requested_module(args: impl IntoIterator<Item = OsString>) -> Option<String> {
    let args: Vec<_> = args.into_iter().skip(1).collect();
    match args.as_slice() {
        [quiet, end, name] if quiet == "-q" && end == "--" => name.to_str().map(str::to_owned),
        _ => None,
    }
}

/// Loads it; success also where it is in the kernel already.
pub fn run(name: &str) -> ExitCode {
    match load_module(name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Returns the release of the running kernel.
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|found| found.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Returns the directories in which modules of the running kernel may be; the first with an index
/// is used.
pub fn module_dirs() -> [PathBuf; 3] {
    ["/lib/modules", "/run/wrenn/modules", "/usr/lib/modules"]
        .map(|above| Path::new(above).join(kernel_release()))
}

/// Loads a module, by name or alias, and before it all that it needs.
///
/// # Errors
/// Not found where no index knows it; the kernel's error.
pub fn load_module(name: &str) -> io::Result<()> {
    let folder = module_dirs()
        .into_iter()
        .find(|folder| folder.join("modules.dep").exists());
    let folder = folder.ok_or(io::ErrorKind::NotFound)?;
    let index = Index::read(&folder);
    let settings = Settings::read();
    let modules = index.resolve(name, &settings);
    if modules.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // An alias can stand for several, of which one that works is enough.
    let results: Vec<_> = modules
        .iter()
        .map(|module| index.load_with_needs(&folder, module, &settings))
        .collect();
    let failed = results.iter().all(Result::is_err);
    results
        .into_iter()
        .find(|result| failed || result.is_ok())
        .unwrap_or(Ok(()))
}

/// Index files of depmod(8).
#[derive(Debug, Default)]
struct Index {
    dependencies: String,
    aliases: String,
    soft: String,
    builtin: String,
}

/// Settings of the image, of modprobe.d(5).
#[derive(Debug, Default)]
struct Settings {
    blacklist: HashSet<String>,
    options: Vec<(String, String)>,
}

impl Settings {
    fn read() -> Self {
        let mut settings = Self::default();
        for folder in SETTINGS {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "conf")
                {
                    settings.add(&read_bounded(&entry.path(), INDEX_LIMIT));
                }
            }
        }
        settings
    }

    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("blacklist"), Some(module)) => drop(self.blacklist.insert(canonical(module))),
                (Some("options"), Some(module)) => {
                    self.options
                        .push((canonical(module), words.collect::<Vec<_>>().join(" ")));
                }
                _ => {}
            }
        }
    }

    fn options_of(&self, module: &str) -> CString {
        let own = self
            .options
            .iter()
            .filter(|(name, _)| name == module)
            .map(|(_, options)| options.as_str());
        CString::new(own.collect::<Vec<_>>().join(" ")).unwrap_or_default()
    }
}

impl Index {
    fn read(folder: &Path) -> Self {
        let text = |name: &str| read_bounded(&folder.join(name), INDEX_LIMIT);
        Self {
            dependencies: text("modules.dep"),
            aliases: text("modules.alias"),
            soft: text("modules.softdep"),
            builtin: text("modules.builtin"),
        }
    }

    /// Returns the modules that `name` stands for: itself, or those with it as an alias.
    fn resolve(&self, name: &str, settings: &Settings) -> Vec<String> {
        let own = canonical(name);
        if self.file_of(&own).is_some() || self.is_builtin(&own) {
            return vec![own];
        }
        let of_line = |line: &str| {
            let mut words = line.strip_prefix("alias ")?.split_whitespace();
            let pattern = words.next()?;
            let module = canonical(words.next()?);
            let hit = matches(canonical(pattern).as_bytes(), own.as_bytes());
            (hit && !settings.blacklist.contains(&module)).then_some(module)
        };
        self.aliases.lines().filter_map(of_line).collect()
    }

    /// Returns the path of a module and those of its dependencies, as the index has them: the
    /// nearest first.
    fn file_of(&self, module: &str) -> Option<(&str, &str)> {
        self.dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| name_of(path) == module)
    }

    fn is_builtin(&self, module: &str) -> bool {
        self.builtin.lines().any(|path| name_of(path) == module)
    }

    fn load_with_needs(&self, folder: &Path, module: &str, settings: &Settings) -> io::Result<()> {
        let mut order = Vec::new();
        self.visit(module, &mut order, 0);
        for path in &order {
            let name = name_of(path);
            let loaded = insert(&folder.join(path), &settings.options_of(&name));
            // A soft dependency may fail.
            if name == module || self.is_need(module, path) {
                loaded?;
            }
        }
        Ok(())
    }

    fn is_need(&self, module: &str, path: &str) -> bool {
        self.file_of(module)
            .is_some_and(|(_, needs)| needs.split_whitespace().any(|need| need == path))
    }

    /// Appends a module and its dependencies to `order`, in the order in which they are loaded.
    fn visit<'a>(&'a self, module: &str, order: &mut Vec<&'a str>, depth: usize) {
        let Some((path, needs)) = self.file_of(module) else {
            return;
        };
        if order.contains(&path) || depth > MAX_DEPTH {
            return;
        }
        let (before, after) = self.soft_of(module);
        for need in before {
            self.visit(&need, order, depth + 1);
        }
        for need in needs.split_whitespace().rev() {
            self.visit(&name_of(need), order, depth + 1);
        }
        if !order.contains(&path) {
            order.push(path);
        }
        for need in after {
            self.visit(&need, order, depth + 1);
        }
    }

    /// Returns the modules of `softdep MODULE pre: A B post: C`, before and after.
    fn soft_of(&self, module: &str) -> (Vec<String>, Vec<String>) {
        let mut before = Vec::new();
        let mut after = Vec::new();
        for line in self.soft.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep")
                || words.next().map(canonical).as_deref() != Some(module)
            {
                continue;
            }
            let mut target = &mut before;
            for word in words {
                match word {
                    "pre:" => target = &mut before,
                    "post:" => target = &mut after,
                    name => target.push(canonical(name)),
                }
            }
        }
        (before, after)
    }
}

fn insert(path: &Path, options: &CString) -> io::Result<()> {
    let is_plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = if is_plain {
        ModuleInitFlags::empty()
    } else {
        ModuleInitFlags::from_bits_retain(COMPRESSED)
    };
    match finit_module(&File::open(path)?, options, flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Returns the module of a path: `kernel/net/tun.ko.xz` is `tun`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

/// Returns a module's name with underscores for hyphens, except within brackets.
fn canonical(name: &str) -> String {
    let mut is_set = false;
    let letter = |c: char| {
        match c {
            '[' => is_set = true,
            ']' => is_set = false,
            _ => {}
        }
        if c == '-' && !is_set { '_' } else { c }
    };
    name.chars().map(letter).collect()
}

/// Matches an alias against a pattern with `*`, `?`, and sets such as `[0-9A]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    match first {
        b'*' => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..])),
        b'?' => !text.is_empty() && matches(rest, &text[1..]),
        b'[' => match (
            rest.iter().position(|byte| *byte == b']'),
            text.split_first(),
        ) {
            (Some(end), Some((letter, text))) => {
                in_set(&rest[..end], *letter) && matches(&rest[end + 1..], text)
            }
            _ => false,
        },
        literal => text.first() == Some(literal) && matches(rest, &text[1..]),
    }
}

fn in_set(set: &[u8], letter: u8) -> bool {
    match set {
        [from, b'-', to, rest @ ..] => (*from..=*to).contains(&letter) || in_set(rest, letter),
        [one, rest @ ..] => *one == letter || in_set(rest, letter),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index {
            dependencies: "kernel/fs/overlayfs/overlay.ko:\n\
                           kernel/net/wireguard.ko: kernel/net/ip6_udp_tunnel.ko kernel/net/udp_tunnel.ko kernel/crypto/chacha-x86.ko\n\
                           kernel/net/ip6_udp_tunnel.ko:\nkernel/net/udp_tunnel.ko: kernel/net/ip6_udp_tunnel.ko\n\
                           kernel/crypto/chacha-x86.ko:\nkernel/crypto/soft.ko.xz:\n"
                .into(),
            aliases: "# x\nalias fs-overlay overlay\nalias rtnl-link-wireguard wireguard\nalias crypto-chacha[0-9]* chacha_x86\n\
                      alias crypto-chacha20 soft\n"
                .into(),
            soft: "softdep wireguard pre: soft post: none\n".into(),
            builtin: "kernel/fs/ext4/ext4.ko\n".into(),
        }
    }

    #[test]
    fn needs_are_loaded_first_and_once() {
        let index = index();
        let mut order = Vec::new();
        index.visit("wireguard", &mut order, 0);
        let names: Vec<_> = order.iter().map(|path| name_of(path)).collect();
        assert_eq!(
            names,
            [
                "soft",
                "chacha_x86",
                "ip6_udp_tunnel",
                "udp_tunnel",
                "wireguard"
            ]
        );
        assert!(index.is_need("wireguard", order[1]) && !index.is_need("wireguard", order[0]));
    }

    #[test]
    fn names_and_aliases_lead_to_modules() {
        let mut settings = Settings::default();
        let resolve = |name: &str, settings: &Settings| index().resolve(name, settings);
        assert_eq!(resolve("fs-overlay", &settings), ["overlay"]);
        assert_eq!(resolve("chacha-x86", &settings), ["chacha_x86"]);
        assert_eq!(resolve("ext4", &settings), ["ext4"]);
        assert_eq!(
            resolve("crypto-chacha20", &settings),
            ["chacha_x86", "soft"]
        );
        assert!(resolve("no-such", &settings).is_empty());
        settings
            .add("# x\nblacklist soft\noptions overlay metacopy=on\noptions overlay index=off\n");
        assert_eq!(resolve("crypto-chacha20", &settings), ["chacha_x86"]);
        assert_eq!(
            settings.options_of("overlay").to_str(),
            Ok("metacopy=on index=off")
        );
    }

    #[test]
    fn patterns_match_as_fnmatch_has_them() {
        let hit = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(
            hit("pci:v*d0000[0-9A-C]sv?", "pci:v1d0000Bsv1")
                && hit("*", "")
                && hit("a*b*", "axxbyy")
        );
        assert!(!hit("a[0-9]", "ax") && !hit("a?", "a") && !hit("a", "ab") && !hit("[", "["));
        assert_eq!(canonical("a-b[a-c]-d"), "a_b[a-c]_d");
    }

    #[test]
    fn only_words_of_kernel_ask() {
        let asked = |args: &[&str]| requested_module(args.iter().map(OsString::from));
        assert_eq!(
            asked(&["/proc/1/exe", "-q", "--", "fs-overlay"]).as_deref(),
            Some("fs-overlay")
        );
        for args in [
            &["envd"][..],
            &["envd", "-q", "--"],
            &["envd", "--", "-q", "x"],
            &["envd", "-q", "--", "a", "b"],
        ] {
            assert_eq!(asked(args), None);
        }
    }
}
