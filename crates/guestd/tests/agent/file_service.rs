//! `file.FileService`: move, mode, owner and pages, as root and as a user who may do less.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use connectrpc::ErrorCode;
use guest_rpc::file::{
    FileServiceClient, ListPageRequest, MoveRequest, SetModeRequest, SetOwnerRequest,
};
use guest_rpc::filesystem::EntryInfo;

use crate::support::{Agent, Disk, FileService, as_user, open_folder};

type Answer = Result<EntryInfo, ErrorCode>;

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn rename(files: &FileService, from: &Path, to: &Path, no_replace: bool) -> Answer {
    let request = MoveRequest {
        source: text(from),
        destination: text(to),
        no_replace,
        ..Default::default()
    };
    let moved = files.r#move(request).await.map_err(|e| e.code)?;
    Ok(moved.into_owned().entry.into_option().expect("an entry"))
}

async fn set_mode(files: &FileService, user: &str, path: &Path, mode: &str) -> Answer {
    let request = SetModeRequest {
        path: text(path),
        mode: mode.to_owned(),
        recursive: true,
        ..Default::default()
    };
    let set = files.set_mode_with_options(request, as_user(user)).await;
    let set = set.map_err(|e| e.code)?;
    Ok(set.into_owned().entry.into_option().expect("an entry"))
}

async fn set_owner(files: &FileService, user: &str, path: &Path, owner: &str) -> Answer {
    let request = SetOwnerRequest {
        path: text(path),
        owner: Some(owner.to_owned()),
        recursive: true,
        ..Default::default()
    };
    let set = files.set_owner_with_options(request, as_user(user)).await;
    let set = set.map_err(|e| e.code)?;
    Ok(set.into_owned().entry.into_option().expect("an entry"))
}

#[tokio::test]
async fn move_replaces_only_where_allowed() {
    let agent = Agent::open().await;
    let files: FileServiceClient<_> = agent.file_service();
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a"), "a")
        .and_then(|()| fs::write(at("b"), "b"))
        .and_then(|()| symlink("nowhere", at("dangling")))
        .expect("made");
    for taken in ["b", "dangling"] {
        let refused = rename(&files, &at("a"), &at(taken), true).await;
        assert_eq!(refused, Err(ErrorCode::AlreadyExists), "{taken}");
    }
    assert_eq!(fs::read_to_string(at("b")).expect("stays"), "b");
    let moved = rename(&files, &at("a"), &at("new/parent/a"), true).await;
    assert_eq!(moved.expect("moves").path, text(&at("new/parent/a")));
    let moved = rename(&files, &at("new/parent/a"), &at("b"), false).await;
    assert_eq!(moved.expect("replaces").size, 1);
    assert_eq!(fs::read_to_string(at("b")).expect("is there"), "a");
    let other = Disk::of(64);
    for no_replace in [false, true] {
        let refused = rename(&files, &at("b"), &other.path().join("b"), no_replace).await;
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
    assert_eq!(fs::read_to_string(at("b")).expect("stays"), "a");
    assert_eq!(
        rename(&files, &at("none"), &at("c"), true).await,
        Err(ErrorCode::NotFound)
    );
}

#[tokio::test]
async fn mode_and_owner_change_as_user() {
    let agent = Agent::open().await;
    let files = agent.file_service();
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("tree/inner")).expect("made");
    fs::write(at("tree/inner/run"), "").expect("made");
    fs::write(at("outside"), "").expect("made");
    symlink(at("outside"), at("tree/link")).expect("a link");
    let refused = Err(ErrorCode::PermissionDenied);
    assert_eq!(
        set_mode(&files, "nobody", &at("tree"), "0700").await,
        refused
    );
    assert_eq!(
        set_owner(&files, "nobody", &at("tree"), "nobody").await,
        refused
    );
    let owned = set_owner(&files, "root", &at("tree"), "nobody").await;
    assert_eq!(owned.expect("changes").owner, "nobody");
    let changed = set_mode(&files, "nobody", &at("tree"), "u=rwX,go=").await;
    assert_eq!(changed.expect("its owner may").mode, 0o700);
    let mode = |name: &str| {
        fs::metadata(at(name))
            .expect("is there")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode("tree/inner"), mode("tree/inner/run")), (0o700, 0o600));
    assert_eq!(mode("outside"), 0o644, "links are not followed");
    assert_eq!(fs::metadata(at("outside")).expect("is there").uid(), 0);
    let invalid = Err(ErrorCode::InvalidArgument);
    assert_eq!(set_mode(&files, "root", &at("tree"), "rwx").await, invalid);
    assert_eq!(
        set_owner(&files, "root", &at("tree"), "no-such").await,
        invalid
    );
    let missing = Err(ErrorCode::NotFound);
    assert_eq!(set_mode(&files, "root", &at("none"), "0700").await, missing);
    assert_eq!(
        set_owner(&files, "root", &at("none"), "root").await,
        missing
    );
    // A recursive change of nothing but an empty path must not be one of the home.
    assert_eq!(
        set_mode(&files, "root", Path::new(""), "0700").await,
        invalid
    );
}

#[tokio::test]
async fn long_list_comes_in_pages() {
    let agent = Agent::open().await;
    let files = agent.file_service();
    let folder = open_folder();
    for n in 0..2500 {
        fs::write(folder.path().join(format!("{n:05}")), "").expect("made");
    }
    let mut after = Vec::new();
    let mut sizes = Vec::new();
    let mut names = Vec::new();
    loop {
        let request = ListPageRequest {
            path: text(folder.path()),
            after,
            ..Default::default()
        };
        let page = files.list_page(request).await.expect("lists").into_owned();
        sizes.push(page.entries.len());
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [1000, 1000, 500]);
    assert!(names.is_sorted() && names.len() == 2500);
    let broken = ListPageRequest {
        path: text(folder.path()),
        after: b"/etc".to_vec(),
        ..Default::default()
    };
    let refused = files.list_page(broken).await.map(drop).map_err(|e| e.code);
    assert_eq!(refused, Err(ErrorCode::InvalidArgument));
}
