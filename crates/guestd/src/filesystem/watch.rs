//! A watched directory: inotify events turned into `FilesystemEvent`s with names relative to it.
//!
//! State: an inotify descriptor, a map from watch descriptors to relative directories (only the
//! watched directory itself, or with `recursive` every real directory below it), and a bounded
//! queue of events not yet taken. The owner (a stream or a poll) calls [`Watch::drain`] when the
//! descriptor is readable. Nothing is on disk; the kernel forgets the watches when the descriptor
//! is closed, so also when the process dies.
//!
//! A directory that appears is watched as soon as its event is read; what was put into it before
//! that is found by listing it, and told as created. Everything runs as the user, so a directory
//! that he may not read is passed over.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use guest_rpc::filesystem::{EventType, FilesystemEvent};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify, InotifyEvent};
use tokio::io::unix::AsyncFd;

use super::entry;
use super::error::{FileError, Kind};
use super::operations::not_found_error;
use super::path::STAGED_PREFIX;
use super::tree::Tree;
use crate::as_user::as_user;
use crate::syscall;
use crate::user::{Database, User};

/// Maximum number of events kept for a client that does not fetch them; beyond, they stay in the
/// kernel's queue, and where that overflows the client is told.
const QUEUE_LIMIT: usize = 65_536;

/// Events that a directory is watched for: those that the reference agent's library subscribes to.
const EVENTS: Mask = Mask::IN_CREATE
    .union(Mask::IN_DELETE)
    .union(Mask::IN_MODIFY)
    .union(Mask::IN_ATTRIB)
    .union(Mask::IN_MOVED_FROM)
    .union(Mask::IN_MOVED_TO)
    .union(Mask::IN_DELETE_SELF)
    .union(Mask::IN_MOVE_SELF)
    .union(Mask::IN_ONLYDIR);

/// Request of a client.
#[derive(Debug, Clone)]
pub struct Wish {
    pub path: PathBuf,
    pub recursive: bool,
    pub include_entry: bool,
    pub allow_network_mounts: bool,
}

/// Watch of a directory; see the module.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    wish: Wish,
    user: User,
    tree: Tree,
    /// Paths that were reported as created because a listing found them, so that a creation still
    /// queued in the kernel is not reported again.
    announced: HashSet<PathBuf>,
    /// A directory that left its place, with the cookie that its arrival would carry.
    leaving: Option<(u32, PathBuf)>,
    /// Cookie of a staged file that left its name: where it arrives, a file was written.
    staged: Option<u32>,
    queue: VecDeque<FilesystemEvent>,
    lost: Option<&'static str>,
}

impl Watch {
    /// Starts to watch. Blocks; takes the user's identity by itself.
    ///
    /// # Errors
    /// Not found; invalid where it is no directory or on a network mount; denied; exhausted.
    pub fn start(wish: Wish, user: &User) -> Result<Self, FileError> {
        as_user(user, || Self::start_here(wish, user.clone()))
            .map_err(|e| FileError::identity(&e))?
    }

    fn start_here(wish: Wish, user: User) -> Result<Self, FileError> {
        let path = &wish.path;
        let there = fs::metadata(path).map_err(|e| {
            not_found_error(path, &e).unwrap_or_else(|| FileError::io("watch", path, &e))
        })?;
        if !there.is_dir() {
            return Err(FileError::invalid(format!(
                "path '{}' is not a directory",
                path.display()
            )));
        }
        if !wish.allow_network_mounts && super::tree::on_network(path) {
            let message = format!(
                "path '{}' is on a network mount: set allow_network_mounts",
                path.display()
            );
            return Err(FileError::invalid(message));
        }
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|e| refused(path, e))?;
        let mut watch = Self {
            inotify,
            wish,
            user,
            tree: Tree::default(),
            announced: HashSet::new(),
            leaving: None,
            staged: None,
            queue: VecDeque::new(),
            lost: None,
        };
        watch
            .add(Path::new(""))
            .map_err(|e| refused(&watch.wish.path, e))?;
        if watch.wish.recursive {
            watch
                .adopt(Path::new(""), false)
                .map_err(|e| refused(&watch.wish.path, e))?;
        }
        Ok(watch)
    }

    /// Returns a second descriptor of the same inotify instance, to wait on. Call it inside the
    /// runtime.
    ///
    /// # Errors
    /// Exhausted where there are no descriptors left.
    pub fn readiness(&self) -> Result<AsyncFd<OwnedFd>, FileError> {
        let registered = self
            .inotify
            .as_fd()
            .try_clone_to_owned()
            .and_then(syscall::register_fd);
        registered
            .map_err(|e| FileError::new(Kind::Exhausted, format!("cannot wait for events: {e}")))
    }

    /// Takes over the kernel's queue. Returns true if it stopped before the end because the queue
    /// here is full. Blocks; takes the user's identity by itself.
    pub fn drain(&mut self) -> bool {
        let user = self.user.clone();
        as_user(&user, || self.drain_here()).unwrap_or_else(|e| {
            tracing::error!("cannot act as the user of a watch: {e}");
            self.lost = Some("the agent could not act as the user");
            false
        })
    }

    /// Returns the events so far, and removes them.
    ///
    /// # Errors
    /// Data loss, once, where events were lost before these.
    pub fn take(&mut self) -> Result<VecDeque<FilesystemEvent>, FileError> {
        match self.lost.take() {
            None => Ok(std::mem::take(&mut self.queue)),
            Some(reason) => {
                self.queue.clear();
                let path = self.wish.path.display();
                let message =
                    format!("events below '{path}' were lost ({reason}): list the directory again");
                Err(FileError::new(Kind::DataLoss, message))
            }
        }
    }

    fn drain_here(&mut self) -> bool {
        let names = if self.wish.include_entry {
            Database::read(Path::new("/etc"))
        } else {
            Database::default()
        };
        while self.queue.len() < QUEUE_LIMIT {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) => {
                    // Nothing is queued any more, so nothing that was announced can come again.
                    self.announced.clear();
                    self.abandon_leaving();
                    return false;
                }
            };
            for event in events {
                self.handle(&event, &names);
            }
        }
        true
    }

    fn handle(&mut self, event: &InotifyEvent, names: &Database) {
        if event.mask.contains(Mask::IN_Q_OVERFLOW) {
            return self.overflowed();
        }
        let Some(dir) = self.tree.path(event.wd).map(Path::to_path_buf) else {
            return;
        };
        if event.mask.contains(Mask::IN_IGNORED) {
            return self.tree.forget(event.wd);
        }
        if let Some(name) = &event.name
            && name.as_bytes().starts_with(STAGED_PREFIX.as_bytes())
        {
            if event.mask.contains(Mask::IN_MOVED_FROM) {
                self.staged = Some(event.cookie);
            }
            return;
        }
        let arrived = self.arrived(event, &dir);
        let path = match &event.name {
            Some(name) => dir.join(name),
            // Of the directories below, the same is told by the directory that holds them.
            None if !dir.as_os_str().is_empty() => return,
            None => PathBuf::from("."),
        };
        let Some(mut kind) = event_type(event.mask) else {
            return;
        };
        if event.mask.contains(Mask::IN_MOVED_TO) && self.staged.take() == Some(event.cookie) {
            // An upload replaced it; for those who watch, that is how files are written.
            kind = EventType::EVENT_TYPE_WRITE;
        }
        if event.mask.contains(Mask::IN_CREATE) && self.announced.remove(&path) {
            return;
        }
        if event.mask.contains(Mask::IN_DELETE) {
            self.announced.remove(&path);
        }
        self.push(&path, kind, names);
        if self.wish.recursive
            && event.mask.contains(Mask::IN_ISDIR)
            && event.name.is_some()
            && !arrived
        {
            self.follow(event, path);
        }
    }

    /// Settles the directory that left: it is the one that arrives now, and its watches move along,
    /// or it is gone.
    fn arrived(&mut self, event: &InotifyEvent, dir: &Path) -> bool {
        let Some((cookie, old)) = self.leaving.take() else {
            return false;
        };
        if let Some(name) = event
            .name
            .as_ref()
            .filter(|_| event.mask.contains(Mask::IN_MOVED_TO))
            && event.cookie == cookie
        {
            self.tree.rename(&old, &dir.join(name));
            return true;
        }
        if event.mask.contains(Mask::IN_MOVE_SELF) {
            // Comes between the two halves, on the directory itself.
            self.leaving = Some((cookie, old));
        } else {
            self.abandon(&old);
        }
        false
    }

    fn follow(&mut self, event: &InotifyEvent, path: PathBuf) {
        let adopted = if event.mask.contains(Mask::IN_CREATE) {
            self.adopt(&path, true)
        } else if event.mask.contains(Mask::IN_MOVED_TO) {
            self.adopt(&path, false)
        } else {
            if event.mask.contains(Mask::IN_MOVED_FROM) {
                self.leaving = Some((event.cookie, path));
            }
            Ok(())
        };
        if adopted.is_err() {
            self.lost =
                Some("the kernel allows no more watches: raise fs.inotify.max_user_watches");
        }
    }

    fn push(&mut self, path: &Path, kind: EventType, names: &Database) {
        let mut event = FilesystemEvent {
            name: path.to_string_lossy().into_owned(),
            r#type: kind.into(),
            ..Default::default()
        };
        let described = matches!(
            kind,
            EventType::EVENT_TYPE_CREATE
                | EventType::EVENT_TYPE_WRITE
                | EventType::EVENT_TYPE_CHMOD
        );
        if self.wish.include_entry && described {
            // What is gone by now has no entry.
            let path = if path == Path::new(".") {
                self.wish.path.clone()
            } else {
                self.wish.path.join(path)
            };
            event.entry = entry::read_entry(&path, names).ok().into();
        }
        self.queue.push_back(event);
    }

    /// Watches a directory and all below it; with `announce`, reports its entries as created.
    fn adopt(&mut self, top: &Path, announce: bool) -> Result<(), Errno> {
        let names = if announce {
            Database::read(Path::new("/etc"))
        } else {
            Database::default()
        };
        let mut open = vec![top.to_path_buf()];
        while let Some(dir) = open.pop() {
            match self.add(&dir) {
                Ok(()) => {}
                Err(e @ (Errno::ENOSPC | Errno::ENOMEM)) => return Err(e),
                // Gone again, replaced by a file, or not the user's to read.
                Err(_) => continue,
            }
            let Ok(children) = fs::read_dir(self.wish.path.join(&dir)) else {
                continue;
            };
            for child in children.flatten() {
                let path = dir.join(child.file_name());
                if announce && self.queue.len() >= QUEUE_LIMIT {
                    self.lost = Some("too much appeared at once");
                } else if announce && self.announced.insert(path.clone()) {
                    self.push(&path, EventType::EVENT_TYPE_CREATE, &names);
                }
                if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(path);
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, dir: &Path) -> Result<(), Errno> {
        // Only the directory that was asked for may be reached by a symbolic link.
        let mask = if dir.as_os_str().is_empty() {
            EVENTS
        } else {
            EVENTS | Mask::IN_DONT_FOLLOW
        };
        let wd = self.inotify.add_watch(&self.wish.path.join(dir), mask)?;
        self.tree.insert(wd, dir.to_path_buf());
        Ok(())
    }

    fn abandon_leaving(&mut self) {
        if let Some((_, path)) = self.leaving.take() {
            self.abandon(&path);
        }
    }

    fn abandon(&mut self, dir: &Path) {
        for wd in self.tree.remove(dir) {
            // Where the kernel forgot it first there is nothing left to do.
            let _gone = self.inotify.rm_watch(wd);
        }
    }

    fn overflowed(&mut self) {
        self.lost = Some("the kernel's queue was full");
        if self.wish.recursive && self.adopt(Path::new(""), false).is_err() {
            self.lost =
                Some("the kernel allows no more watches: raise fs.inotify.max_user_watches");
        }
    }
}

fn event_type(mask: Mask) -> Option<EventType> {
    let kinds = [
        (
            Mask::IN_CREATE | Mask::IN_MOVED_TO,
            EventType::EVENT_TYPE_CREATE,
        ),
        (Mask::IN_MODIFY, EventType::EVENT_TYPE_WRITE),
        (
            Mask::IN_DELETE | Mask::IN_DELETE_SELF,
            EventType::EVENT_TYPE_REMOVE,
        ),
        (
            Mask::IN_MOVED_FROM | Mask::IN_MOVE_SELF,
            EventType::EVENT_TYPE_RENAME,
        ),
        (Mask::IN_ATTRIB, EventType::EVENT_TYPE_CHMOD),
    ];
    kinds
        .into_iter()
        .find(|(masks, _)| mask.intersects(*masks))
        .map(|(_, kind)| kind)
}

fn refused(path: &Path, error: Errno) -> FileError {
    let exhausted = |what: &str| {
        FileError::new(
            Kind::Exhausted,
            format!("cannot watch '{}': {what}", path.display()),
        )
    };
    match error {
        Errno::EMFILE => {
            exhausted("too many watchers (fs.inotify.max_user_instances): remove some")
        }
        Errno::ENOSPC => {
            exhausted("too many directories (fs.inotify.max_user_watches): watch a smaller tree")
        }
        other => FileError::io("watch", path, &other.into()),
    }
}
