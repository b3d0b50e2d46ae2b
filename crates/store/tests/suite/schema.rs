//! Migrations: by whom and how often they run does not matter, and a program never works on a
//! schema that it does not know.

use futures::future::join_all;
use store::{Error, Store};

use crate::db::{Db, insert};

pub async fn is_made_by_many_at_once_and_only_once(db: Db) {
    let openers = (0..8).map(|_| {
        let url = db.url.clone();
        tokio::spawn(async move {
            let store = Store::open(&url).await.unwrap();
            store.migrate().await.unwrap();
            store.check_migrated().await.unwrap();
        })
    });
    join_all(openers).await.into_iter().for_each(Result::unwrap);

    let store = db.empty().await;
    let row = insert(&store, 1).await;
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    assert_eq!(store.sandbox_list_all().await.unwrap(), [row]);
}

pub async fn a_database_without_tables_is_refused(db: Db) {
    let store = db.empty().await;
    let refused = store.check_migrated().await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::NotMigrated {
                found: 0,
                needed: 1..
            }
        ),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .contains("run `wrenn-cp migrate` (or `make migrate-up`)"),
        "{refused}"
    );
    // Whoever goes on all the same learns which call failed.
    let failed = store.sandbox_list_all().await.unwrap_err();
    assert!(
        failed.to_string().starts_with("listing all sandboxes"),
        "{failed}"
    );
}

pub async fn a_newer_schema_is_refused(db: Db) {
    let store = db.store().await;
    db.tamper(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', TRUE, '', 0)",
    )
    .await;
    for refused in [
        store.check_migrated().await.unwrap_err(),
        store.migrate().await.unwrap_err(),
    ] {
        assert!(
            matches!(refused, Error::NotMigrated { found: 9999, .. }),
            "{refused:?}"
        );
        assert!(refused.to_string().contains("newer version"), "{refused}");
    }
    // The refusal keeps no lock.
    let again = store.migrate().await.unwrap_err();
    assert!(matches!(again, Error::NotMigrated { .. }), "{again:?}");
}

pub async fn a_step_that_was_edited_is_refused(db: Db) {
    let store = db.store().await;
    db.tamper("UPDATE _sqlx_migrations SET checksum = ''").await;
    for _ in 0..2 {
        let refused = store.migrate().await.unwrap_err();
        assert!(matches!(refused, Error::Migrate { .. }), "{refused:?}");
    }
}
