//! What users read when something is wrong. No text, at any depth, holds the password.

use std::error::Error as _;

use model::{Generation, SandboxState, Scopes, TeamId};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use store::{Applied, Error, Inserted, NewKey, NewSandbox, Store};

use crate::db::{Db, idempotent, insert, new_sandbox, report};

pub async fn a_row_edited_by_hand_is_named(db: Db) {
    let store = db.store().await;
    let id = insert(&store, 1).await.id;
    for tampering in [
        "UPDATE sandboxes SET state = 'odd'",
        "UPDATE sandboxes SET generation = -1",
        "UPDATE sandboxes SET spec = '{'",
    ] {
        db.tamper(tampering).await;
        let failed = store.sandbox_get_any_team(&id).await.unwrap_err();
        assert!(
            matches!(failed, Error::Corrupt { .. }) && failed.to_string().contains(id.as_str()),
            "{failed:?}"
        );
    }
    // It can be deleted all the same.
    assert!(store.sandbox_remove(&id, 9).await.unwrap());
}

pub async fn texts_with_nul_are_the_same_everywhere(db: Db) {
    let store = db.store().await;
    let bad_key_id = NewSandbox {
        key_id: "a\0b".to_owned(),
        ..new_sandbox(1)
    };
    for new in [bad_key_id, idempotent("a\0b", 1)] {
        let refused = store.sandbox_insert(&new).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
    }
    let key = NewKey {
        team_id: TeamId::default(),
        scopes: Scopes::Admin,
        id: "k".to_owned(),
        name: "\0".to_owned(),
        hash: [1; 32],
        now: 1,
    };
    assert!(matches!(
        store.key_insert(&key).await.unwrap_err(),
        Error::Invalid(_)
    ));

    // A sandbox must not stay as it is because its host sent odd text.
    let mut odd = report(&insert(&store, 1).await.id, 2, SandboxState::Error);
    odd.reason = Some("panic: \0\u{1b}[31m".to_owned());
    let applied = store.sandbox_apply_report(&odd, 2).await.unwrap();
    let Applied::Changed(row) = applied else {
        panic!("{applied:?}")
    };
    assert_eq!(row.reason.as_deref(), Some("panic: \u{FFFD}\u{1b}[31m"));

    odd.generation = Generation(u64::MAX);
    assert!(matches!(
        store.sandbox_apply_report(&odd, 3).await.unwrap_err(),
        Error::Invalid(_)
    ));

    // An environment may hold anything that JSON does.
    let mut new = new_sandbox(1);
    new.spec.envs.insert("A".to_owned(), "\0".to_owned());
    let Inserted::New(row) = store.sandbox_insert(&new).await.unwrap() else {
        panic!("the id is new")
    };
    assert_eq!(row.spec, new.spec);
}

async fn refused(url: &str) -> (Error, String) {
    let error = Store::open(url).await.unwrap_err();
    let mut text = format!("{error} / {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text} / {error}");
        cause = error.source();
    }
    assert!(!text.contains("hunter2"), "{text}");
    (error, text)
}

#[tokio::test]
async fn wrong_urls_are_refused() {
    let urls = [
        "",
        "wrenn.db",
        "mysql://u:hunter2@host/db",
        "u:hunter2@host",
        "postgres://u:hunter2@[host/db",
        "postgres://u:hunter2@host:port/db",
        "postgres://u:hunter2@host/db?sslmode=maybe",
        "sqlite://relative.db",
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite:///a.db?mode=memory",
        "sqlite:///tmp/",
    ];
    for url in urls {
        let (error, text) = refused(url).await;
        assert!(
            matches!(error, Error::InvalidUrl { .. }) && text.starts_with("DATABASE_URL "),
            "{url}: {text}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let (error, text) = refused("postgres://u:hunter2@127.0.0.1:1/db").await;
    assert!(
        matches!(error, Error::Unreachable { .. }) && error.is_unavailable(),
        "{text}"
    );
    assert!(
        text.contains("127.0.0.1:1")
            && text.contains("check DATABASE_URL and that PostgreSQL runs"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_refuses_is_told_from_one_that_is_not_there() {
    let db = Db::postgres().await;
    let options: PgConnectOptions = db.url.parse().unwrap();
    let stranger = options
        .clone()
        .username("nobody_at_all")
        .password("hunter2");
    for wrong in [options.database("no_such_database"), stranger] {
        let wrong = wrong.to_url_lossy().to_string();
        let (error, text) = refused(&wrong).await;
        assert!(matches!(error, Error::Refused { .. }), "{text}");
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let (error, text) = refused("sqlite:///no/such/directory/wrenn.db").await;
    assert!(
        matches!(error, Error::File { .. }) && text.contains("/no/such/directory/wrenn.db"),
        "{text}"
    );
}
