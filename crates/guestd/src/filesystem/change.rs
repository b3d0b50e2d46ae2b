//! Changes of a watched directory, and what the kernel says of them.

use std::path::{Path, PathBuf};

use guest_rpc::filesystem::{EntryInfo, EventType, FilesystemEvent};
use nix::errno::Errno;
use nix::sys::inotify::AddWatchFlags as Mask;

use super::error::{FileError, Kind};

/// Events that a directory is watched for: those that the reference agent's library subscribes to.
pub(super) const EVENTS: Mask = Mask::IN_CREATE
    .union(Mask::IN_DELETE)
    .union(Mask::IN_MODIFY)
    .union(Mask::IN_ATTRIB)
    .union(Mask::IN_MOVED_FROM)
    .union(Mask::IN_MOVED_TO)
    .union(Mask::IN_DELETE_SELF)
    .union(Mask::IN_MOVE_SELF)
    .union(Mask::IN_ONLYDIR);

/// A change of a file below the watched directory, or of that itself, which is `.`.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: EventType,
    pub path: PathBuf,
    /// Former path of a renamed file, with `pair_renames`.
    pub from: Option<PathBuf>,
    pub is_dir: bool,
    pub(super) entry: Option<EntryInfo>,
}

impl Change {
    /// Converts to the event of E2B's service.
    pub(super) fn into_event(self) -> FilesystemEvent {
        FilesystemEvent {
            name: self.path.to_string_lossy().into_owned(),
            r#type: self.kind.into(),
            entry: self.entry.into(),
            ..Default::default()
        }
    }
}

/// Returns the kind of change that an event stands for.
pub(super) fn event_type(mask: Mask) -> Option<EventType> {
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

/// Creates the error for a watch that the kernel refuses.
pub(super) fn refused(path: &Path, error: Errno) -> FileError {
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
