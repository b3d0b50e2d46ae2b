//! Short-lived programs of the distribution, run to their end. Never through a shell.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs that the platform starts, and the Debian package that has each.
pub const NEEDED: [(&str, &str); 3] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mke2fs", "e2fsprogs"),
];

/// Whole environment of a started program. Ours holds secrets (AGENT_TOKEN, DATABASE_URL, API
/// keys), which a program that runs foreign code, or parses its output, must not have.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("LANG", "C.UTF-8"),
];

/// Creates a command with [`ENVIRONMENT`] and nothing of ours. Every program is started from here,
/// or by [`crate::exec`].
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(ENVIRONMENT);
    command
}

/// Returns the first executable file of that name on the PATH, or in the usual system directories,
/// which are not on the PATH of every user.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(PathBuf::from);
    let mut candidates = std::env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join(program));
    candidates.find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Returns the first line that `program --version` prints.
///
/// # Errors
/// When it cannot be started or fails.
pub fn version(program: &Path) -> io::Result<String> {
    let output = command(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()?;
    let line = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    if output.status.success() {
        Ok(line)
    } else {
        Err(io::Error::other(format!("it ends with {}", output.status)))
    }
}

fn run(program: &str, args: &[&OsStr]) -> io::Result<()> {
    let path = find(program).ok_or_else(|| missing(program))?;
    let output = command(&path)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{program} failed: {}",
        stderr.lines().next().unwrap_or("it gave no reason")
    )))
}

/// Creates a file system (ext4 without a journal) in the file `image`, `bytes` long, with `label`
/// and the content of the directory `from`, owned by root. Nothing is mounted.
///
/// # Errors
/// `NotFound` when `mke2fs` is not installed; otherwise the text is its error, for example that the
/// content does not fit.
pub fn create_ext4(from: &Path, image: &Path, label: &str, bytes: u64) -> io::Result<()> {
    File::create(image)?.set_len(bytes)?;
    let args: [&OsStr; 15] = [
        "-q".as_ref(),
        "-F".as_ref(),
        "-t".as_ref(),
        "ext4".as_ref(),
        "-O".as_ref(),
        // A kernel reads it without replaying or writing anything; and it never grows.
        "^has_journal,^resize_inode".as_ref(),
        "-m".as_ref(),
        "0".as_ref(),
        "-L".as_ref(),
        label.as_ref(),
        "-E".as_ref(),
        "root_owner=0:0".as_ref(),
        "-d".as_ref(),
        from.as_os_str(),
        image.as_os_str(),
    ];
    run("mke2fs", &args)
}

/// Creates an empty ext4 file system with a journal and room to grow in the file `image`, `bytes`
/// long, with room for `inodes` files. The features are these whatever the host's `mke2fs.conf` says.
///
/// # Errors
/// As [`create_ext4`].
pub fn create_empty_ext4(image: &Path, label: &str, bytes: u64, inodes: u64) -> io::Result<()> {
    File::options().write(true).open(image)?.set_len(bytes)?;
    let inodes = inodes.to_string();
    let args: [&OsStr; 19] = [
        "-q".as_ref(),
        "-F".as_ref(),
        "-t".as_ref(),
        "ext4".as_ref(),
        "-b".as_ref(),
        "4096".as_ref(),
        "-I".as_ref(),
        "256".as_ref(),
        "-N".as_ref(),
        inodes.as_ref(),
        "-O".as_ref(),
        "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
         huge_file,dir_nlink,extra_isize,metadata_csum"
            .as_ref(),
        "-m".as_ref(),
        "0".as_ref(),
        "-L".as_ref(),
        label.as_ref(),
        "-E".as_ref(),
        // Tables of zeroes are holes of the file, and no guest has to write them later.
        "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0".as_ref(),
        image.as_os_str(),
    ];
    run("mke2fs", &args)
}

pub(crate) fn missing(program: &str) -> io::Error {
    let package = NEEDED
        .iter()
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, package)| package);
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{program} is not installed; type: apt-get install {package}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_names_its_package() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
        assert!(missing("qemu-img").to_string().contains("qemu-utils"));
    }

    #[test]
    fn programs_say_their_version() {
        assert!(version(&find("cp").unwrap()).unwrap().contains("coreutils"));
        assert!(version(Path::new("/nonexistent/program")).is_err());
        assert!(version(&find("false").unwrap()).is_err());
    }

    #[test]
    fn programs_get_named_variables_only() {
        assert!(
            std::env::vars_os().count() > ENVIRONMENT.len(),
            "there is something to be inherited"
        );
        let output = command(&find("env").unwrap()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["LANG", "PATH"]);
    }
}
