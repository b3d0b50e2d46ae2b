//! Named network namespaces, as `ip netns` makes them: a file below [`DIR`] on which the namespace is mounted.
//!
//! Creation order: file (exclusive: it claims the name), namespace, mount. If the process dies in between,
//! a file without a mount is left, which [`remove`] takes away just as well.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where named network namespaces live (iproute2).
pub const DIR: &str = "/run/netns";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Creates the namespace.
///
/// # Errors
/// `AlreadyExists` when the name is taken, by whomever; otherwise what the kernel said, and nothing is left.
pub fn create(name: &str) -> io::Result<()> {
    fs::create_dir_all(DIR)?;
    let path = path(name);
    drop(File::options().write(true).create_new(true).open(&path)?);
    let made = on_own_thread({
        let path = path.clone();
        move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        }
    });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Removes the name; the namespace goes when its last process does. That there is none is fine.
///
/// # Errors
/// What umount or unlink said.
pub fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a file, but nothing mounted on it.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Names of all namespaces that begin with `prefix`.
///
/// # Errors
/// When [`DIR`] cannot be read; that it does not exist is an empty list.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

pub(crate) fn open(name: &str) -> io::Result<File> {
    File::open(path(name))
}

/// Moves the calling thread. Async-signal-safe.
pub(crate) fn set(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` inside the namespace, on a thread that is thrown away afterwards, so that no thread of ours
/// ever stays in a foreign namespace. `work` may block. Programs it starts are in the namespace too.
///
/// # Errors
/// `NotFound` when there is no such namespace, or what `work` said.
pub fn enter<T: Send + 'static>(name: &str, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let namespace = open(name)?;
    on_own_thread(move || {
        set(&namespace)?;
        work()
    })
}

fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_comes_and_goes() {
        let name = format!("wtest-ns-{}", std::process::id());
        create(&name).unwrap();
        assert_eq!(create(&name).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let links = enter(&name, || fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        assert_eq!(links.lines().filter(|line| line.contains(':')).count(), 1, "only lo: {links}");
        assert!(list("wtest-ns-").unwrap().contains(&name));
        remove(&name).unwrap();
        remove(&name).unwrap();
        assert!(!list("wtest-ns-").unwrap().contains(&name));
    }

    #[test]
    fn a_half_made_one_can_be_removed() {
        let name = format!("wtest-half-{}", std::process::id());
        fs::create_dir_all(DIR).unwrap();
        File::create(path(&name)).unwrap();
        remove(&name).unwrap();
        assert!(!path(&name).exists());
    }
}
