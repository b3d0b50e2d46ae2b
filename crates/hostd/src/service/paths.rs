//! Paths of the guest: bounds of what is asked of them, and of what the guest says of them.

use connectrpc::ConnectError;
use guest_rpc::file as guest;
use guest_rpc::filesystem as guest_fs;
use host_rpc as rpc;

use super::error::{from_guest, pass_on};
use crate::guest::{old_guest_error, prompt_as_user};
use crate::sandbox::Handle;

/// Longest path that Linux takes (`PATH_MAX`), bytes.
const MAX_PATH: usize = 4096;
/// Longest text of a path: a byte that is not UTF-8 stands as seven (`guest_rpc::bytes`).
pub(super) const MAX_PATH_TEXT: usize = 7 * MAX_PATH;
/// Most entries of one answer of a guest agent of an earlier version, which knows no pages.
const MAX_ENTRIES: usize = 100_000;
/// Most entries of one page.
const MAX_PAGE: usize = 1000;
/// Longest name of a user or group (`LOGIN_NAME_MAX`).
const MAX_NAME: usize = 256;

/// Checks the path of a request.
///
/// # Errors
/// Invalid argument.
pub(super) fn check_path(path: &str) -> Result<(), ConnectError> {
    let is_long = path.len() > MAX_PATH && guest_rpc::bytes::from_text(path).len() > MAX_PATH;
    if path.is_empty() || is_long || path.contains('\0') {
        let problem = format!("path must be 1 to {MAX_PATH} bytes without NUL");
        return Err(ConnectError::invalid_argument(problem));
    }
    Ok(())
}

/// Lists a page of a directory.
pub(super) async fn list_guest_dir(
    handle: &Handle,
    request: rpc::ListDirRequest,
) -> Result<rpc::ListDirResponse, ConnectError> {
    check_path(&request.path)?;
    if request.after.len() > MAX_PATH {
        return Err(ConnectError::invalid_argument("the cursor is too long"));
    }
    let _active = handle.activity.begin();
    let ask = guest::ListPageRequest {
        path: request.path.clone(),
        depth: request.depth,
        after: request.after.clone(),
        limit: request.limit,
        ..Default::default()
    };
    let guest = handle.guest();
    let answer = guest.list_page(ask, request.user.as_deref()).await;
    match answer.map_err(|error| pass_on(&error))? {
        Some(page) => checked_page(page),
        None if request.after.is_empty() && request.limit == 0 => list_whole(handle, request).await,
        None => Err(old_guest_error()),
    }
}

pub(super) fn checked_page(
    page: guest::ListPageResponse,
) -> Result<rpc::ListDirResponse, ConnectError> {
    let is_endless = page.entries.is_empty() && !page.next.is_empty();
    if is_endless || page.entries.len() > MAX_PAGE || page.next.len() > MAX_PATH {
        return Err(ConnectError::internal(
            "the guest agent sent a page of a listing that makes no sense",
        ));
    }
    Ok(rpc::ListDirResponse {
        entries: page.entries.into_iter().map(info).collect(),
        next: page.next,
        ..Default::default()
    })
}

/// Lists a directory by a guest agent of an earlier version.
async fn list_whole(
    handle: &Handle,
    request: rpc::ListDirRequest,
) -> Result<rpc::ListDirResponse, ConnectError> {
    let options = prompt_as_user(request.user.as_deref());
    let ask = guest_fs::ListDirRequest {
        path: request.path,
        depth: request.depth,
        ..Default::default()
    };
    let client = handle.guest().filesystem_client().map_err(from_guest)?;
    let answer = client
        .list_dir_with_options(ask, options)
        .await
        .map_err(|error| pass_on(&error))?;
    let entries = answer
        .into_owned()
        .entries
        .into_iter()
        .take(MAX_ENTRIES)
        .map(info)
        .collect();
    Ok(rpc::ListDirResponse {
        entries,
        ..Default::default()
    })
}

/// Moves a path.
pub(super) async fn move_path(
    handle: &Handle,
    request: rpc::MovePathRequest,
) -> Result<rpc::FileInfo, ConnectError> {
    check_path(&request.source)?;
    check_path(&request.destination)?;
    let _active = handle.activity.begin();
    let ask = guest::MoveRequest {
        source: request.source,
        destination: request.destination,
        no_replace: request.no_replace,
        ..Default::default()
    };
    let guest = handle.guest();
    let moved = guest.move_path(ask, request.user.as_deref()).await;
    moved.map(info).map_err(|error| pass_on(&error))
}

/// Changes permission bits.
pub(super) async fn set_mode(
    handle: &Handle,
    request: rpc::SetModeRequest,
) -> Result<rpc::FileInfo, ConnectError> {
    check_path(&request.path)?;
    let _active = handle.activity.begin();
    let ask = guest::SetModeRequest {
        path: request.path,
        mode: request.mode,
        recursive: request.recursive,
        ..Default::default()
    };
    let guest = handle.guest();
    let set = guest.set_mode(ask, request.user.as_deref()).await;
    set.map(info).map_err(|error| pass_on(&error))
}

/// Changes owner and group.
pub(super) async fn set_owner(
    handle: &Handle,
    request: rpc::SetOwnerRequest,
) -> Result<rpc::FileInfo, ConnectError> {
    check_path(&request.path)?;
    let _active = handle.activity.begin();
    let ask = guest::SetOwnerRequest {
        path: request.path,
        owner: request.owner,
        group: request.group,
        recursive: request.recursive,
        ..Default::default()
    };
    let guest = handle.guest();
    let set = guest.set_owner(ask, request.user.as_deref()).await;
    set.map(info).map_err(|error| pass_on(&error))
}

/// Converts the guest's description of a file; texts are cut where no Linux system has longer ones.
pub(super) fn info(entry: guest_fs::EntryInfo) -> rpc::FileInfo {
    let kind = match entry.r#type.as_known() {
        _ if entry.is_symlink => rpc::FileKind::FILE_KIND_SYMLINK,
        Some(guest_fs::FileType::FILE_TYPE_FILE) => rpc::FileKind::FILE_KIND_FILE,
        Some(guest_fs::FileType::FILE_TYPE_DIRECTORY) => rpc::FileKind::FILE_KIND_DIRECTORY,
        Some(guest_fs::FileType::FILE_TYPE_SYMLINK) => rpc::FileKind::FILE_KIND_SYMLINK,
        _ => rpc::FileKind::FILE_KIND_UNSPECIFIED,
    };
    let modified = entry.modified_time.into_option().unwrap_or_default();
    let modified_at_ms = modified
        .seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(modified.nanos) / 1_000_000);
    rpc::FileInfo {
        path: bounded(entry.path, MAX_PATH_TEXT),
        kind: kind.into(),
        size: u64::try_from(entry.size).unwrap_or_default(),
        mode: (entry.mode & 0o777) | special_bits(&entry.permissions),
        owner: bounded(entry.owner, MAX_NAME),
        group: bounded(entry.group, MAX_NAME),
        modified_at_ms,
        symlink_target: entry
            .symlink_target
            .map(|target| bounded(target, MAX_PATH_TEXT)),
        ..rpc::FileInfo::default()
    }
}

/// Returns the set-id and sticky bits of a mode as `ls -l` prints it. Agents leave them out of the
/// number, for which the protocol has only the permissions.
fn special_bits(permissions: &str) -> u32 {
    let marks = [
        (3, *b"sS", 0o4000),
        (6, *b"sS", 0o2000),
        (9, *b"tT", 0o1000),
    ];
    let is_set = |(at, marks, _): &(usize, [u8; 2], u32)| {
        let mark = permissions.as_bytes().get(*at);
        mark.is_some_and(|mark| marks.contains(mark))
    };
    marks
        .iter()
        .filter(|mark| is_set(mark))
        .map(|(_, _, bit)| bit)
        .sum()
}

pub(super) fn bounded(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_by_their_bytes() {
        assert!(check_path(&"a".repeat(MAX_PATH)).is_ok());
        assert!(check_path(&guest_rpc::bytes::to_text(&[0xff; MAX_PATH])).is_ok());
        for path in ["", "a\0", &"a".repeat(MAX_PATH + 1)] {
            assert!(check_path(path).is_err(), "{} bytes", path.len());
        }
        assert!(check_path(&guest_rpc::bytes::to_text(&[0xff; MAX_PATH + 1])).is_err());
    }

    #[test]
    fn mode_has_set_id_and_sticky() {
        for (permissions, mode) in [
            ("-rwsr-xr-x", 0o4755),
            ("-rwxr-Sr-x", 0o2755),
            ("drwxrwxrwt", 0o1755),
            ("-rwSr-sr-T", 0o7755),
            ("-rwxr-xr-x", 0o755),
            ("Lrwxrwxrwx", 0o755),
            ("", 0o755),
        ] {
            let entry = guest_fs::EntryInfo {
                mode: 0o755,
                permissions: permissions.to_owned(),
                ..Default::default()
            };
            assert_eq!(info(entry).mode, mode, "{permissions}");
        }
    }

    #[test]
    fn pages_without_end_are_refused() {
        let page = |entries, next: &[u8]| guest::ListPageResponse {
            entries: vec![guest_fs::EntryInfo::default(); entries],
            next: next.to_vec(),
            ..Default::default()
        };
        assert!(checked_page(page(1, b"a")).is_ok() && checked_page(page(0, b"")).is_ok());
        assert!(checked_page(page(0, b"a")).is_err());
        assert!(checked_page(page(MAX_PAGE + 1, b"a")).is_err());
        assert!(checked_page(page(1, &[b'a'; MAX_PATH + 1])).is_err());
    }
}
