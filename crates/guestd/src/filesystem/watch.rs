//! A watched directory: inotify events turned into [`Change`]s with paths relative to it, for both
//! services that watch.
//!
//! State: an inotify descriptor, a map from watch descriptors to relative directories (only the
//! watched directory itself, or with `recursive` every real directory below it), and a bounded
//! queue of changes not yet taken. The owner (a stream or a poll) calls [`Watch::drain`] when the
//! descriptor is readable. Nothing is on disk; the kernel forgets the watches when the descriptor
//! is closed, so also when the process dies.
//!
//! A directory that appears is watched as soon as its event is read; what was put into it before
//! that is found by listing it, and told as created. Everything runs as the user, so a directory
//! that he may not read is passed over.
//!
//! The kernel reports a rename as two events, which share a cookie and are mostly neighbours. With
//! `pair_renames` the first one is held back until the second one comes; where none does, the file
//! left the watched directory, which is a removal.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use guest_rpc::filesystem::{EventType, FilesystemEvent};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify, InotifyEvent};
use tokio::io::unix::AsyncFd;

use super::change::{Change, EVENTS, event_type, refused};
use super::entry;
use super::error::{FileError, Kind};
use super::operations::not_found_error;
use super::path::STAGED_PREFIX;
use super::tree::Tree;
use crate::as_user::as_user;
use crate::syscall;
use crate::user::{Database, User};

/// Maximum number of changes kept for a client that does not fetch them; beyond, they stay in the
/// kernel's queue, and where that overflows the client is told.
pub const QUEUE_LIMIT: usize = 65_536;

/// Time to wait for the second event of a rename, milliseconds: the kernel queues both in one system
/// call, so it is on its way.
const RENAME_WAIT_MS: u8 = 10;

/// Most renames of which the second event is awaited at a time.
const RENAMES_LIMIT: usize = 16;

/// Request of a client.
#[derive(Debug, Clone)]
pub struct Wish {
    pub path: PathBuf,
    pub recursive: bool,
    pub include_entry: bool,
    pub allow_network_mounts: bool,
    /// Reports a rename as one change with both paths, and not as two.
    pub pair_renames: bool,
    /// Most changes that are kept.
    pub queue_limit: usize,
}

/// First event of a rename, whose second one may come.
#[derive(Debug)]
struct Departure {
    cookie: u32,
    path: PathBuf,
    is_dir: bool,
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
    /// With `pair_renames`: files that left their place, oldest first.
    departures: VecDeque<Departure>,
    queue: VecDeque<Change>,
    lost: Option<&'static str>,
    /// Reason why the watched directory itself cannot be watched any more.
    ended: Option<&'static str>,
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
            departures: VecDeque::new(),
            queue: VecDeque::new(),
            lost: None,
            ended: None,
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
            None => {
                let changes = std::mem::take(&mut self.queue);
                Ok(changes.into_iter().map(Change::into_event).collect())
            }
            Some(reason) => {
                self.queue.clear();
                let path = self.wish.path.display();
                let message =
                    format!("events below '{path}' were lost ({reason}): list the directory again");
                Err(FileError::new(Kind::DataLoss, message))
            }
        }
    }

    /// Returns the changes so far, and removes them; before them the reason for which others were
    /// lost.
    pub fn take_changes(&mut self) -> (Option<&'static str>, VecDeque<Change>) {
        (self.lost.take(), std::mem::take(&mut self.queue))
    }

    /// Returns the reason for which nothing will come any more, once that is so.
    pub fn ended(&self) -> Option<&'static str> {
        self.ended
    }

    /// Returns the watched directory.
    pub fn path(&self) -> &Path {
        &self.wish.path
    }

    fn drain_here(&mut self) -> bool {
        let names = if self.wish.include_entry {
            Database::read(Path::new("/etc"))
        } else {
            Database::default()
        };
        while self.queue.len() < self.wish.queue_limit {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) if self.awaits_rename() && self.wait_for_event() => continue,
                Err(_) => {
                    self.settle_departures(0, &names);
                    // Nothing is queued any more, so nothing that was announced can come again.
                    self.announced.clear();
                    self.abandon_leaving();
                    return false;
                }
            };
            for event in events {
                self.handle(&event, &names);
            }
            self.settle_departures(RENAMES_LIMIT, &names);
        }
        true
    }

    fn awaits_rename(&self) -> bool {
        !self.departures.is_empty() || (self.wish.pair_renames && self.leaving.is_some())
    }

    /// Waits a moment for the kernel's queue to have something; false if it has not.
    fn wait_for_event(&self) -> bool {
        let mut descriptors = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::from(RENAME_WAIT_MS)) == Ok(1)
    }

    /// Reports files that left as removed, but for the last `kept` of them.
    fn settle_departures(&mut self, kept: usize, names: &Database) {
        while self.departures.len() > kept {
            let Some(gone) = self.departures.pop_front() else {
                return;
            };
            let kind = EventType::EVENT_TYPE_REMOVE;
            self.push(&gone.path, kind, gone.is_dir, names);
        }
    }

    /// Reports a rename as one change. Returns false if the event is none, or only its second one
    /// is seen.
    fn pair_rename(&mut self, event: &InotifyEvent, path: &Path) -> bool {
        if !self.wish.pair_renames || event.name.is_none() {
            return false;
        }
        let is_dir = event.mask.contains(Mask::IN_ISDIR);
        if event.mask.contains(Mask::IN_MOVED_FROM) {
            self.departures.push_back(Departure {
                cookie: event.cookie,
                path: path.to_path_buf(),
                is_dir,
            });
            return true;
        }
        if !event.mask.contains(Mask::IN_MOVED_TO) {
            return false;
        }
        let found = self
            .departures
            .iter()
            .position(|d| d.cookie == event.cookie);
        let Some(departure) = found.and_then(|found| self.departures.remove(found)) else {
            return false;
        };
        self.queue.push_back(Change {
            kind: EventType::EVENT_TYPE_RENAME,
            path: path.to_path_buf(),
            from: Some(departure.path),
            is_dir,
            entry: None,
        });
        true
    }

    /// Notes that the watched directory itself is gone.
    fn note_end(&mut self, event: &InotifyEvent) {
        if event.mask.contains(Mask::IN_DELETE_SELF) {
            self.ended = Some("the watched directory was removed");
        } else if event.mask.contains(Mask::IN_MOVE_SELF) {
            self.ended = Some("the watched directory was moved");
        } else if event.mask.contains(Mask::IN_IGNORED) && self.ended.is_none() {
            self.ended = Some("the file system of the watched directory was unmounted");
        }
    }

    fn handle(&mut self, event: &InotifyEvent, names: &Database) {
        if event.mask.contains(Mask::IN_Q_OVERFLOW) {
            return self.overflowed();
        }
        let Some(dir) = self.tree.path(event.wd).map(Path::to_path_buf) else {
            return;
        };
        if dir.as_os_str().is_empty() && event.name.is_none() {
            self.note_end(event);
        }
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
        if self.wish.pair_renames && event.mask.contains(Mask::IN_MOVE_SELF) {
            return;
        }
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
        if !self.pair_rename(event, &path) {
            let is_dir = event.mask.contains(Mask::IN_ISDIR) || event.name.is_none();
            self.push(&path, kind, is_dir, names);
        }
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

    fn push(&mut self, path: &Path, kind: EventType, is_dir: bool, names: &Database) {
        let mut change = Change {
            kind,
            path: path.to_path_buf(),
            from: None,
            is_dir,
            entry: None,
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
            change.entry = entry::read_entry(&path, names).ok();
        }
        self.queue.push_back(change);
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
                let is_dir = child.file_type().is_ok_and(|kind| kind.is_dir());
                if announce && self.queue.len() >= self.wish.queue_limit {
                    self.lost = Some("too much appeared at once");
                } else if announce && self.announced.insert(path.clone()) {
                    self.push(&path, EventType::EVENT_TYPE_CREATE, is_dir, &names);
                }
                if is_dir {
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
