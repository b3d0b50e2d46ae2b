//! `/etc/profile` in a guest whose `PATH` was chosen by its image or its sandbox.
//!
//! A login shell (`sh -l`, `bash -l`, a terminal) reads that file, and Debian's and others set
//! `PATH` there to a fixed value: what the image's configuration says is lost. Containers have the
//! same fault. A file in `/etc/profile.d` would change the disk, and so snapshots and exports; a
//! variable that shells read at start (`BASH_ENV`, `ENV`) reaches scripts, and not all login shells.
//!
//! So a copy of the file is mounted over it, with lines before and after it: directories of the
//! `PATH` that the shell was started with, which the file dropped, are put in front again. The copy
//! is in memory, and read-only, so that no change of it is lost unnoticed: the image's own file is
//! under it. It is left alone where it only adds to `PATH`, as that of Fedora, Arch and Alpine does.
//! A restored guest has the mount in its memory; one that boots mounts it again at its first
//! `/init`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cover;
use crate::user::read_bounded;

const PROFILE: &str = "etc/profile";
/// Files that it reads in most distributions.
const FURTHER: &str = "etc/profile.d";

/// Maximum number of bytes of a file that are read, and of files: more than any image has.
const LIMIT: u64 = 256 << 10;
const FILES_LIMIT: usize = 256;

/// First line of the cover, by which it is known.
const MARK: &str = "# Shown by Wrenn over the image's own /etc/profile";

const BEFORE: &str = r#", which is its middle: a login shell
# keeps the directories of PATH that it was started with. This file cannot be written; to change
# the image's own, type as root: umount /etc/profile
_wrenn_path=${PATH-}

"#;

const AFTER: &str = r#"
_wrenn_lost=
_wrenn_path=$_wrenn_path:
while [ -n "$_wrenn_path" ]; do
    _wrenn_dir=${_wrenn_path%%:*}
    _wrenn_path=${_wrenn_path#*:}
    case ":${PATH-}:" in
        *":$_wrenn_dir:"*) ;;
        *) [ -z "$_wrenn_dir" ] || _wrenn_lost=$_wrenn_lost$_wrenn_dir: ;;
    esac
done
PATH=$_wrenn_lost${PATH-}
export PATH
unset _wrenn_path _wrenn_lost _wrenn_dir
"#;

/// Keeps login shells from losing the `PATH` of their environment. A file that cannot be covered is
/// told in the log: shells that are no login shells work.
pub fn keep_path() {
    let root = Path::new("/");
    let Some(text) = cover_for(root) else { return };
    let path = root.join(PROFILE);
    let covered = cover::cover_file(&path, &text).and_then(|()| cover::make_read_only(&path));
    if let Err(error) = covered {
        tracing::warn!("/etc/profile sets PATH, and cannot be covered: {error}");
    }
}

/// Returns the text to mount over the file; `None` where it is not needed.
fn cover_for(root: &Path) -> Option<String> {
    let text = read_bounded(&root.join(PROFILE), LIMIT);
    if text.is_empty() || text.starts_with(MARK) || u64::try_from(text.len()).ok()? >= LIMIT {
        return None;
    }
    let further = further_files(root)
        .into_iter()
        .map(|path| read_bounded(&path, LIMIT));
    let sets_path = std::iter::once(text.clone())
        .chain(further)
        .any(|text| text.lines().any(is_fixed_path));
    sets_path.then(|| format!("{MARK}{BEFORE}{text}{AFTER}"))
}

fn further_files(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(FURTHER)).into_iter().flatten();
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
        .take(FILES_LIMIT)
        .collect()
}

/// Returns true for a line that sets `PATH` to a value without the former one.
fn is_fixed_path(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let value = line.strip_prefix("PATH=");
    value.is_some_and(|value| !value.contains("$PATH") && !value.contains("${PATH"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::test_image::image_with;

    const DEBIAN: &str = "if [ \"$(id -u)\" -eq 0 ]; then\n  PATH=\"/usr/local/sbin:/usr/bin:/bin\"\nelse\n  \
        PATH=\"/usr/bin:/bin\"\nfi\nexport PATH\n";

    /// Runs the cover of `profile` in a shell that was started with `path`.
    fn path_after(profile: &str, path: &str) -> String {
        let root = image_with(&[("etc/profile", profile)]);
        let text = cover_for(root.path()).expect("is needed");
        let script =
            format!("set -eu\n{text}\nprintf %s \"$PATH\"\nset | grep -c ^_wrenn_ >&2 || :");
        let done = Command::new("/bin/sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", path)
            .output()
            .expect("a shell");
        assert_eq!(String::from_utf8_lossy(&done.stderr), "0\n", "{script}");
        String::from_utf8(done.stdout).expect("text")
    }

    #[test]
    fn dropped_directories_come_first() {
        let fixed = "PATH=/usr/bin:/bin\n";
        for (profile, path, expected) in [
            (fixed, "/go/bin:/usr/bin:/bin", "/go/bin:/usr/bin:/bin"),
            (fixed, "/b:/usr/bin:/a b:/*", "/b:/a b:/*:/usr/bin:/bin"),
            (fixed, ":/usr/bin::", "/usr/bin:/bin"),
            (
                "PATH=/x:/bin\nPATH=/own:$PATH",
                "/bin:/go",
                "/go:/own:/x:/bin",
            ),
            (
                "PATH=\nPATH=/bin:/usr/bin",
                "/a:/a:/bin",
                "/a:/a:/bin:/usr/bin",
            ),
        ] {
            assert_eq!(path_after(profile, path), expected, "{profile:?} {path}");
        }
        let kept = path_after(DEBIAN, "/cargo/bin:/usr/bin:/bin");
        assert!(kept.starts_with("/cargo/bin:"), "{kept}");
    }

    #[test]
    fn only_fixed_path_is_covered() {
        let is_covered = |files: &[(&str, &str)]| cover_for(image_with(files).path()).is_some();
        let of_alpine = "append_path () {\n  case \":$PATH:\" in\n    *) PATH=\"${PATH:+$PATH:}$1\" ;;\n  esac\n}\n";
        let of_fedora = "pathmunge () {\n PATH=$1:$PATH\n}\nexport PATH USER\n";
        for text in [
            of_alpine,
            of_fedora,
            "",
            "umask 022\n",
            "MANPATH=/x\n# PATH=/y\n",
        ] {
            assert!(!is_covered(&[("etc/profile", text)]), "{text}");
        }
        for text in [DEBIAN, "  export PATH=/usr/bin", "PATH=$(getconf PATH)\n"] {
            assert!(is_covered(&[("etc/profile", text)]), "{text}");
        }
        let further = ("etc/profile.d/path.sh", "export PATH=/bin\n");
        assert!(is_covered(&[("etc/profile", "umask 022\n"), further]));
        assert!(!is_covered(&[further]));
        let root = image_with(&[("etc/profile", DEBIAN)]);
        let cover = cover_for(root.path()).expect("is needed");
        assert!(!is_covered(&[("etc/profile", &cover)]), "once is enough");
    }
}
