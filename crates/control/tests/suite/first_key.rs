//! The first start makes a key that works, whenever an earlier start died.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use control::auth::{self, FirstKey, FirstKeyError, ensure_first_key};
use store::Store;

const URL: &str = "http://127.0.0.1:8000";

async fn fresh(dir: &Path) -> Store {
    let store = Store::open(&control::config::sqlite_in(dir)).await.unwrap();
    store.migrate().await.unwrap();
    store
}

fn read(dir: &Path) -> (String, String) {
    let text = std::fs::read_to_string(dir.join("credentials")).unwrap();
    let line = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .to_owned()
    };
    (line("WRENN_API_URL="), line("WRENN_API_KEY="))
}

async fn opens(store: &Store, key: &str) -> bool {
    store
        .key_find(&auth::hash_key(&key.parse().unwrap()))
        .await
        .unwrap()
        .is_some()
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_later_ones_keep_it() {
    let parent = tempfile::tempdir().unwrap();
    let store = fresh(parent.path()).await;
    let dir = parent.path().join("wrenn");
    let path = dir.join("credentials");
    assert_eq!(
        ensure_first_key(&store, &dir, URL).await.unwrap(),
        FirstKey::Made(path.clone())
    );
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let (url, key) = read(&dir);
    assert!(url == URL && opens(&store, &key).await);

    assert_eq!(
        ensure_first_key(&store, &dir, URL).await.unwrap(),
        FirstKey::Kept(path.clone())
    );
    // Another address is written down, with the same key.
    ensure_first_key(&store, &dir, "http://127.0.0.1:9000")
        .await
        .unwrap();
    assert_eq!(read(&dir), ("http://127.0.0.1:9000".to_owned(), key));
    assert_eq!(store.key_count().await.unwrap(), 1);
    let others: Vec<_> = std::fs::read_dir(&dir).unwrap().collect();
    assert_eq!(others.len(), 1, "nothing temporary is left: {others:?}");
}

#[tokio::test]
async fn a_start_that_died_after_the_file_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path()).await;
    let key = format!("wrn_{}", "a1".repeat(20));
    std::fs::write(
        dir.path().join("credentials"),
        format!("WRENN_API_URL={URL}\nWRENN_API_KEY={key}\n"),
    )
    .unwrap();
    assert!(matches!(
        ensure_first_key(&store, dir.path(), URL).await.unwrap(),
        FirstKey::Made(_)
    ));
    assert!(read(dir.path()).1 == key && opens(&store, &key).await);
    // And one that left rubbish.
    std::fs::write(dir.path().join("credentials"), "WRENN_API_KEY=wr").unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let again = fresh(&dir.path().join("sub")).await;
    ensure_first_key(&again, dir.path(), URL).await.unwrap();
    assert!(opens(&again, &read(dir.path()).1).await);
}

#[tokio::test]
async fn a_revoked_key_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path()).await;
    ensure_first_key(&store, dir.path(), URL).await.unwrap();
    let (_, first) = read(dir.path());
    let id = store.key_list().await.unwrap()[0].id.clone();
    auth::create_key(&store, "second").await.unwrap();
    auth::revoke_key(&store, &id).await.unwrap();
    ensure_first_key(&store, dir.path(), URL).await.unwrap();
    assert!(!opens(&store, &first).await);
    std::fs::remove_file(dir.path().join("credentials")).unwrap();
    assert_eq!(
        ensure_first_key(&store, dir.path(), URL).await.unwrap(),
        FirstKey::Elsewhere
    );
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path()).await;
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = ensure_first_key(&store, &file, URL).await.unwrap_err();
    assert!(matches!(error, FirstKeyError::File { .. }), "{error:?}");
    assert!(error.to_string().contains("WRENN_DIR"), "{error}");
    assert_eq!(
        store.key_count().await.unwrap(),
        0,
        "no key that nobody has"
    );
}
