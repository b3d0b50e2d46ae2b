//! `filesystem.Filesystem`, as root and as somebody who may do less.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use connectrpc::ErrorCode;
use guest_rpc::filesystem::{
    EntryInfo, FileType, ListDirRequest, MakeDirRequest, MoveRequest, RemoveRequest, StatRequest,
};

use crate::support::{Agent, FILE_OVERRIDE_HEADER, Files, open_folder};

type Answer<T> = Result<T, ErrorCode>;

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn stat(files: &Files, path: &Path) -> Answer<EntryInfo> {
    let request = StatRequest {
        path: text(path),
        ..Default::default()
    };
    let answer = files.stat(request).await.map_err(|e| e.code)?.into_owned();
    Ok(answer.entry.into_option().expect("an entry"))
}

async fn list(files: &Files, path: &Path, depth: u32) -> Answer<Vec<String>> {
    let request = ListDirRequest {
        path: text(path),
        depth,
        ..Default::default()
    };
    let answer = files
        .list_dir(request)
        .await
        .map_err(|e| e.code)?
        .into_owned();
    let relative = |entry: &EntryInfo| {
        Path::new(&entry.path)
            .strip_prefix(path)
            .expect("below the path that was asked for")
            .display()
            .to_string()
    };
    Ok(answer.entries.iter().map(relative).collect())
}

async fn make_dir(files: &Files, path: &Path) -> Answer<EntryInfo> {
    let request = MakeDirRequest {
        path: text(path),
        ..Default::default()
    };
    let answer = files
        .make_dir(request)
        .await
        .map_err(|e| e.code)?
        .into_owned();
    Ok(answer.entry.into_option().expect("an entry"))
}

async fn rename(files: &Files, source: &Path, destination: &Path) -> Answer<EntryInfo> {
    let request = MoveRequest {
        source: text(source),
        destination: text(destination),
        ..Default::default()
    };
    let answer = files
        .r#move(request)
        .await
        .map_err(|e| e.code)?
        .into_owned();
    Ok(answer.entry.into_option().expect("an entry"))
}

async fn remove(files: &Files, path: &Path) -> Answer<()> {
    let request = RemoveRequest {
        path: text(path),
        ..Default::default()
    };
    files.remove(request).await.map(drop).map_err(|e| e.code)
}

#[tokio::test]
async fn stat_describes_files_directories_and_links() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "12345").expect("made");
    fs::create_dir(at("dir")).expect("made");
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
    symlink("dir", at("link"))
        .and_then(|()| symlink("nowhere", at("dangling")))
        .expect("links");
    let file = stat(&files, &at("file")).await.expect("is there");
    assert_eq!(
        (file.name.as_str(), file.path, file.size),
        ("file", text(&at("file")), 5)
    );
    assert_eq!(
        (file.r#type.to_i32(), file.mode, file.permissions.as_str()),
        (1, 0o640, "-rw-r-----")
    );
    assert_eq!(
        (file.owner.as_str(), file.group.as_str(), file.is_symlink),
        ("root", "root", false)
    );
    let modified = fs::metadata(at("file")).expect("is there").mtime();
    assert_eq!(
        file.modified_time.into_option().expect("a time").seconds,
        modified
    );
    let dir = stat(&files, &at("dir")).await.expect("is there");
    assert_eq!(
        (dir.r#type.to_i32(), dir.mode, dir.permissions.as_str()),
        (2, 0o755, "drwxr-xr-x")
    );
    assert!(dir.size > 0 || fs::metadata(at("dir")).expect("is there").size() == 0);
    let link = stat(&files, &at("link")).await.expect("is there");
    assert_eq!(
        (link.r#type.to_i32(), link.mode, link.is_symlink),
        (2, 0o755, true)
    );
    assert_eq!(
        link.symlink_target,
        Some(text(&fs::canonicalize(at("dir")).expect("is there")))
    );
    let dangling = stat(&files, &at("dangling")).await.expect("is there");
    assert_eq!(
        (dangling.r#type.to_i32(), dangling.is_symlink),
        (FileType::FILE_TYPE_SYMLINK as i32, true)
    );
    for absent in ["nothing", "file/below", "nothing/below"] {
        assert_eq!(
            stat(&files, &at(absent)).await.expect_err("is not there"),
            ErrorCode::NotFound,
            "{absent}"
        );
    }
}

#[tokio::test]
async fn paths_start_at_home() {
    let agent = Agent::open().await;
    let root = agent.files_as("root");
    let home = guestd::user::lookup_user("root").expect("root").home;
    for path in ["", "~", ".", "~/../root/."] {
        assert_eq!(
            stat(&root, Path::new(path)).await.expect("is there").path,
            text(&home),
            "{path}"
        );
    }
    assert_eq!(
        stat(&root, Path::new("/../etc//./passwd"))
            .await
            .expect("is there")
            .path,
        "/etc/passwd"
    );
    for bad in ["a\0b".to_owned(), "a/".repeat(3000)] {
        assert_eq!(
            stat(&root, Path::new(&bad))
                .await
                .expect_err("no file can be it"),
            ErrorCode::InvalidArgument
        );
    }
    assert_eq!(
        stat(&agent.files_as("no-such-user"), Path::new("/")).await,
        Err(ErrorCode::Unauthenticated)
    );
}

#[tokio::test]
async fn list_respects_depth_and_skips_links() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    for dir in ["b/inner/deep", "a", "b-1"] {
        fs::create_dir_all(folder.path().join(dir)).expect("made");
    }
    fs::write(folder.path().join("b/file"), "").expect("made");
    symlink("b", folder.path().join("c-link")).expect("a link");
    let top = ["a", "b", "b-1", "c-link"];
    for depth in [0, 1] {
        assert_eq!(
            list(&files, folder.path(), depth).await.expect("lists"),
            top
        );
    }
    let two = ["a", "b", "b/file", "b/inner", "b-1", "c-link"];
    assert_eq!(list(&files, folder.path(), 2).await.expect("lists"), two);
    let all = [
        "a",
        "b",
        "b/file",
        "b/inner",
        "b/inner/deep",
        "b-1",
        "c-link",
    ];
    assert_eq!(
        list(&files, folder.path(), u32::MAX).await.expect("lists"),
        all
    );
    // The link itself may be asked for: entries lie under the requested path.
    assert_eq!(
        list(&files, &folder.path().join("c-link"), 1)
            .await
            .expect("lists"),
        ["file", "inner"]
    );
    assert_eq!(
        list(&files, &folder.path().join("b/file"), 1).await,
        Err(ErrorCode::InvalidArgument)
    );
    assert_eq!(
        list(&files, &folder.path().join("none"), 1).await,
        Err(ErrorCode::NotFound)
    );
}

#[tokio::test]
async fn make_dir_creates_parents_of_user() {
    let agent = Agent::open().await;
    let files = agent.files_as("nobody");
    let folder = open_folder();
    let path = folder.path().join("a/b/c");
    let made = make_dir(&files, &path).await.expect("makes");
    assert_eq!(
        (made.owner.as_str(), made.mode, made.path),
        ("nobody", 0o755, text(&path))
    );
    assert_eq!(
        stat(&files, &folder.path().join("a"))
            .await
            .expect("is there")
            .owner,
        "nobody"
    );
    assert_eq!(make_dir(&files, &path).await, Err(ErrorCode::AlreadyExists));
    fs::write(folder.path().join("file"), "").expect("made");
    for in_the_way in ["file", "file/dir"] {
        let path = folder.path().join(in_the_way);
        assert_eq!(
            make_dir(&files, &path).await,
            Err(ErrorCode::InvalidArgument),
            "{in_the_way}"
        );
    }
}

#[tokio::test]
async fn move_creates_parents_replaces_files_only() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a"), "a")
        .and_then(|()| fs::write(at("b"), "b"))
        .expect("made");
    fs::create_dir_all(at("full/inner"))
        .and_then(|()| fs::create_dir(at("dir")))
        .expect("made");
    symlink("a", at("link")).expect("a link");
    let moved = rename(&files, &at("a"), &at("new/parents/a"))
        .await
        .expect("moves");
    assert_eq!((moved.path, moved.size), (text(&at("new/parents/a")), 1));
    rename(&files, &at("new/parents/a"), &at("b"))
        .await
        .expect("replaces");
    assert_eq!(fs::read_to_string(at("b")).expect("is there"), "a");
    rename(&files, &at("link"), &at("link2"))
        .await
        .expect("moves the link, though what it leads to is gone");
    assert!(at("link2").is_symlink());
    assert_eq!(
        rename(&files, &at("none"), &at("x")).await,
        Err(ErrorCode::NotFound)
    );
    assert_eq!(
        rename(&files, &at("dir"), &at("full")).await,
        Err(ErrorCode::AlreadyExists)
    );
    assert_eq!(
        rename(&files, &at("full"), &at("full/inner/x")).await,
        Err(ErrorCode::InvalidArgument)
    );
    assert_eq!(
        rename(&files, Path::new(""), &at("x")).await,
        Err(ErrorCode::InvalidArgument)
    );
    assert!(!at("x").exists());
}

#[tokio::test]
async fn remove_takes_trees_follows_no_links() {
    let agent = Agent::open().await;
    let files = agent.files();
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("tree/a/b"))
        .and_then(|()| fs::create_dir(at("kept")))
        .expect("made");
    fs::write(at("kept/file"), "")
        .and_then(|()| fs::write(at("tree/a/file"), ""))
        .expect("made");
    symlink(at("kept"), at("tree/link"))
        .and_then(|()| symlink("kept", at("link")))
        .expect("links");
    for path in ["link", "tree", "tree", "never/was/there", "kept/file/below"] {
        remove(&files, &at(path))
            .await
            .expect("is removed, or was before");
    }
    assert!(!at("tree").exists() && !at("link").is_symlink() && at("kept/file").exists());
    for refused in ["/", "", "/tmp/.."] {
        assert_eq!(
            remove(&files, Path::new(refused)).await,
            Err(ErrorCode::InvalidArgument),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn the_user_decides_what_is_allowed() {
    let agent = Agent::open().await;
    let root = agent.files();
    let nobody = agent.files_as("nobody");
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("closed/inner"))
        .and_then(|()| fs::write(at("closed/file"), ""))
        .expect("made");
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::create_dir(at("readable"))
        .and_then(|()| fs::write(at("readable/file"), ""))
        .expect("made");
    let denied = Some(ErrorCode::PermissionDenied);
    assert_eq!(stat(&nobody, &at("closed/file")).await.err(), denied);
    assert_eq!(list(&nobody, &at("closed"), 1).await.err(), denied);
    assert_eq!(
        make_dir(&nobody, &at("closed/inner/new")).await.err(),
        denied
    );
    assert_eq!(make_dir(&nobody, &at("readable/new")).await.err(), denied);
    assert_eq!(
        rename(&nobody, &at("readable/file"), &at("stolen"))
            .await
            .err(),
        denied
    );
    assert_eq!(remove(&nobody, &at("readable/file")).await.err(), denied);
    assert_eq!(remove(&nobody, &at("closed")).await.err(), denied);
    assert_eq!(
        list(&nobody, &at("readable"), 1)
            .await
            .expect("may be read"),
        ["file"]
    );
    // A listing from above passes over what may not be read.
    assert_eq!(
        list(&nobody, folder.path(), 9).await.expect("lists"),
        ["closed", "readable", "readable/file"]
    );
    remove(&root, &at("closed")).await.expect("root may");
    assert!(!at("closed").exists() && at("readable/file").exists());
}

/// Returns owner and group of a path that is there.
fn owner_of(path: &Path) -> (u32, u32) {
    let there = fs::symlink_metadata(path).expect("is there");
    (there.uid(), there.gid())
}

#[tokio::test]
async fn proxied_calls_override_permissions() {
    let agent = Agent::open().await;
    let nobody = agent.proxied_files_as("nobody");
    let user = nix::unistd::User::from_name("nobody")
        .expect("read")
        .expect("nobody");
    let owner = (user.uid.as_raw(), user.gid.as_raw());
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("closed"))
        .and_then(|()| fs::write(at("closed/file"), "old"))
        .expect("made");
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o700)).expect("chmod");

    make_dir(&nobody, &at("closed/deep/er"))
        .await
        .expect("is made");
    assert_eq!(
        (
            owner_of(&at("closed/deep")),
            owner_of(&at("closed/deep/er"))
        ),
        (owner, owner)
    );
    assert_eq!(owner_of(&at("closed")), (0, 0));

    let put = async |path: &Path, proxied: bool| {
        let request = reqwest::Client::new()
            .post(agent.at(path, "&username=nobody"))
            .header("content-type", "application/octet-stream");
        let request = match proxied {
            true => request.header(FILE_OVERRIDE_HEADER, "1"),
            false => request,
        };
        request
            .body("new")
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16()
    };
    let (file, made) = (at("closed/file"), at("closed/new/made"));
    assert_eq!(
        (put(&file, false).await, put(&made, false).await),
        (403, 403)
    );
    assert!(!at("closed/new").exists());
    assert_eq!((put(&file, true).await, put(&made, true).await), (200, 200));
    for path in [&file, &made, &at("closed/new")] {
        assert_eq!(owner_of(path), owner, "{}", path.display());
    }
    assert_eq!(fs::read(&file).expect("reads"), b"new");

    rename(&nobody, &file, &at("closed/moved"))
        .await
        .expect("is moved");
    remove(&nobody, &at("closed")).await.expect("is removed");
    assert!(!at("closed").exists());
}
