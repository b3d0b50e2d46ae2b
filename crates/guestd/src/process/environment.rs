//! Environment that an image gives to every program, as a login of the image would: the files that
//! pam_env(8) and login(1) read, and a locale that can say every character where the image has one.

use std::collections::BTreeMap;
use std::path::Path;

use crate::user::read_bounded;

/// Where the agent has no PATH of its own: as PID 1.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The locale without a country, whose characters are UTF-8 all the same.
const UTF8: &str = "C.UTF-8";

/// Where glibc has it, under the names of different releases; musl has no other, and a loader.
const UTF8_FOLDERS: [&str; 2] = ["usr/lib/locale/C.utf8", "usr/lib/locale/C.UTF-8"];
const MUSL_LOADERS: [&str; 2] = ["lib/ld-musl-x86_64.so.1", "lib/ld-musl-aarch64.so.1"];

/// Files with `LANG` and its like: of Debian, of systemd.
const LOCALE_FILES: [&str; 2] = ["etc/default/locale", "etc/locale.conf"];

/// Most bytes of one file that are read.
const LIMIT: u64 = 64 << 10;

/// Variables for programs of user `uid` in the image at `root`.
pub fn of_image(root: &Path, uid: u32) -> BTreeMap<String, String> {
    let mut envs = BTreeMap::new();
    for file in LOCALE_FILES {
        let is_locale =
            |name: &str| name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_");
        envs.extend(assignments(&read(root, file)).filter(|(name, _)| is_locale(name)));
    }
    let of_system: BTreeMap<String, String> = assignments(&read(root, "etc/environment")).collect();
    envs.extend(of_system);
    let is_set = |name: &str| envs.get(name).is_some_and(|value| !value.is_empty());
    if !["LANG", "LC_ALL", "LC_CTYPE"].into_iter().any(is_set) && has_utf8(root) {
        envs.insert("LANG".to_owned(), UTF8.to_owned());
    }
    let own = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    let of_image = envs
        .remove("PATH")
        .or_else(|| of_login(root, uid))
        .unwrap_or_default();
    envs.insert("PATH".to_owned(), join_paths(&of_image, &own));
    envs
}

fn read(root: &Path, file: &str) -> String {
    read_bounded(&root.join(file), LIMIT)
}

fn has_utf8(root: &Path) -> bool {
    UTF8_FOLDERS.iter().any(|folder| root.join(folder).is_dir())
        || MUSL_LOADERS.iter().any(|file| root.join(file).exists())
}

/// `NAME=VALUE` and `export NAME=VALUE`, the value perhaps in quotes; comments begin with `#`.
fn assignments(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (name, value) = line
            .strip_prefix("export ")
            .unwrap_or(line)
            .split_once('=')?;
        let name = name.trim();
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let value = value.trim();
        let bare = |quote| {
            value
                .strip_prefix(quote)
                .and_then(|rest: &str| rest.strip_suffix(quote))
        };
        let value = bare('"').or_else(|| bare('\'')).unwrap_or(value);
        (is_name && !value.contains('\0')).then(|| (name.to_owned(), value.to_owned()))
    })
}

/// What login(1) gives: `ENV_SUPATH` or `ENV_PATH` of login.defs(5).
fn of_login(root: &Path, uid: u32) -> Option<String> {
    let key = if uid == 0 { "ENV_SUPATH" } else { "ENV_PATH" };
    let text = read(root, "etc/login.defs");
    let value = text.lines().find_map(|line| {
        let (name, value) = line.trim().split_once(char::is_whitespace)?;
        (name == key).then(|| value.trim())
    })?;
    Some(value.strip_prefix("PATH=").unwrap_or(value).to_owned())
}

/// The folders of `first`, then those of `second` that are not among them: what an image leaves out
/// for users, such as `/sbin`, stays within reach.
fn join_paths(first: &str, second: &str) -> String {
    let mut folders: Vec<&str> = Vec::new();
    for folder in first
        .split(':')
        .chain(second.split(':'))
        .filter(|folder| !folder.is_empty())
    {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.join(":")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn image(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent"))
                .and_then(|()| fs::write(path, text))
                .expect("a file");
        }
        root
    }

    fn envs(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        of_image(image(files).path(), 1000)
    }

    #[test]
    fn locale_is_utf8_where_image_has_it() {
        let lang = |files: &[(&str, &str)]| envs(files).remove("LANG");
        assert_eq!(lang(&[]), None);
        let installed = ("usr/lib/locale/C.utf8/LC_CTYPE", "");
        assert_eq!(lang(&[installed]).as_deref(), Some("C.UTF-8"));
        assert_eq!(
            lang(&[("lib/ld-musl-x86_64.so.1", "")]).as_deref(),
            Some("C.UTF-8")
        );
        let debian = (
            "etc/default/locale",
            "#  File generated by update-locale\nLANG=\"de_DE.UTF-8\"\nPATH=/no\n",
        );
        assert_eq!(lang(&[installed, debian]).as_deref(), Some("de_DE.UTF-8"));
        assert_eq!(
            lang(&[installed, ("etc/environment", "LC_ALL=POSIX\n")]),
            None
        );
        assert_eq!(
            lang(&[debian, ("etc/environment", "export LANG='fr_FR.UTF-8'\n")]).as_deref(),
            Some("fr_FR.UTF-8")
        );
    }

    #[test]
    fn environment_file_is_read_as_pam_reads_it() {
        let found = envs(&[(
            "etc/environment",
            "A=1\n# B=2\nexport C=\"x y\"\n D=\n-E=5\nF\nG='it=s'\n",
        )]);
        let found: Vec<_> = found
            .iter()
            .filter(|(name, _)| name.len() == 1)
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        assert_eq!(found, ["A=1", "C=x y", "D=", "G=it=s"]);
    }

    #[test]
    fn path_begins_with_that_of_image() {
        let path = |files: &[(&str, &str)], uid| {
            of_image(image(files).path(), uid)
                .remove("PATH")
                .expect("a PATH")
        };
        let login = (
            "etc/login.defs",
            "# x\nENV_SUPATH\tPATH=/root/bin:/sbin\nENV_PATH PATH=/opt/bin:/usr/bin\n",
        );
        assert!(path(&[login], 0).starts_with("/root/bin:/sbin:"));
        assert!(path(&[login], 1000).starts_with("/opt/bin:/usr/bin:"));
        let system = ("etc/environment", "PATH=\"/snap/bin:/usr/games\"\n");
        assert!(path(&[login, system], 1000).starts_with("/snap/bin:/usr/games:"));
        assert_eq!(join_paths("/a:/b:", "/b:/sbin:/a"), "/a:/b:/sbin");
    }
}
