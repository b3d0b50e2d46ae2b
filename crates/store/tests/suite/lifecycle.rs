//! Deleting, giving up, and many doing so at once.

use std::time::Duration;

use futures::future::join_all;
use model::{SandboxId, SandboxState, TeamId};
use store::{Applied, Inserted, NewSandbox, Sandbox, SandboxFilter};
use testkit::eventually;

use crate::db::{Db, idempotent, insert, newest_first, report};

pub async fn a_deletion_has_two_steps(db: Db) {
    let store = db.store().await;
    let row = insert(&store, 1).await;
    let other = insert(&store, 2).await;

    let marked = store
        .sandbox_mark_deleting(&TeamId::default(), &row.id, 7)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        marked,
        Sandbox {
            deleting: true,
            last_updated: 7,
            ..row.clone()
        }
    );
    assert_eq!(
        store
            .sandbox_mark_deleting(&TeamId::default(), &row.id, 8)
            .await
            .unwrap(),
        Some(marked.clone())
    );
    assert_eq!(
        store
            .sandbox_list(&TeamId::default(), &SandboxFilter::default(), None, 10)
            .await
            .unwrap(),
        std::slice::from_ref(&other)
    );
    assert_eq!(
        newest_first(store.sandbox_list_all().await.unwrap()),
        [other.clone(), marked]
    );
    assert_eq!(store.sandbox_list_all().await.unwrap().len(), 2);

    // The host still owns it, so its reports count.
    let applied = store
        .sandbox_apply_report(&report(&row.id, 9, SandboxState::Stopped), 9)
        .await
        .unwrap();
    let Applied::Changed(stopped) = applied else {
        panic!("{applied:?}")
    };
    assert!(stopped.deleting && stopped.state == SandboxState::Stopped);

    assert!(store.sandbox_remove(&row.id, 9).await.unwrap());
    assert!(!store.sandbox_remove(&row.id, 9).await.unwrap());
    assert_eq!(
        store
            .sandbox_mark_deleting(&TeamId::default(), &row.id, 9)
            .await
            .unwrap(),
        None
    );
    assert_eq!(store.sandbox_list_all().await.unwrap(), [other]);
}

pub async fn what_runs_is_not_given_up(db: Db) {
    let store = db.store().await;
    for state in SandboxState::ALL {
        let row = insert(&store, 1).await;
        let ids = std::slice::from_ref(&row.id);
        store
            .sandbox_apply_report(&report(&row.id, 5, state), 2)
            .await
            .unwrap();
        let is_alive = matches!(state, SandboxState::Running | SandboxState::Paused);
        for now in [3, 4] {
            let given_up = store.sandboxes_give_up(ids, now).await.unwrap();
            let given_up: Vec<_> = given_up
                .iter()
                .map(|row| (row.deleting, row.last_updated))
                .collect();
            assert_eq!(given_up, if is_alive { vec![] } else { vec![(true, 3)] });
        }
        assert_eq!(
            store
                .sandbox_get_any_team(&row.id)
                .await
                .unwrap()
                .unwrap()
                .deleting,
            !is_alive
        );
    }
    assert_eq!(
        store
            .sandboxes_give_up(&[SandboxId::random()], 3)
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.sandboxes_give_up(&[], 3).await.unwrap(), []);
}

/// A request whose sandbox was given up can be sent again, one whose sandbox its user deleted
/// cannot.
pub async fn given_up_sandbox_frees_idempotency_key(db: Db) {
    let store = db.store().await;
    let (failed, deleted) = (idempotent("failed", 1), idempotent("deleted", 1));
    for new in [&failed, &deleted] {
        store.sandbox_insert(new).await.unwrap();
    }
    let team = TeamId::default();
    store
        .sandbox_mark_deleting(&team, &deleted.id, 2)
        .await
        .unwrap();
    for new in [&failed, &deleted] {
        let ids = std::slice::from_ref(&new.id);
        assert_eq!(store.sandboxes_give_up(ids, 3).await.unwrap().len(), 1);
    }
    let again = |key| NewSandbox {
        id: SandboxId::random(),
        ..idempotent(key, 1)
    };
    let made = store.sandbox_insert(&again("failed")).await.unwrap();
    assert!(matches!(made, Inserted::New(_)), "{made:?}");
    let met = store.sandbox_insert(&again("deleted")).await.unwrap();
    assert!(matches!(met, Inserted::Existing(_)), "{met:?}");
}

/// What one request makes is whole or not there.
pub async fn several_are_given_up_together_or_not_at_all(db: Db) {
    let store = db.store().await;
    let first = insert(&store, 1).await;
    let second = insert(&store, 2).await;
    let other = insert(&store, 3).await;
    let ids = [first.id.clone(), second.id.clone()];
    for id in &ids {
        store
            .sandbox_apply_report(&report(id, 5, SandboxState::Running), 4)
            .await
            .unwrap();
    }
    assert_eq!(store.sandboxes_give_up(&ids, 5).await.unwrap(), []);

    // One that is not there, one that does not run, and one that is deleted: each time some are
    // left, and go.
    let with = |id: &SandboxId| [first.id.clone(), id.clone()];
    let marked = store
        .sandboxes_give_up(&with(&SandboxId::random()), 6)
        .await
        .unwrap();
    assert_eq!(
        marked
            .iter()
            .map(|row| (&row.id, row.last_updated))
            .collect::<Vec<_>>(),
        [(&first.id, 6)]
    );
    let mut marked = store.sandboxes_give_up(&ids, 7).await.unwrap();
    marked.sort_by_key(|row| row.created_at);
    assert_eq!(
        marked
            .iter()
            .map(|row| (row.deleting, row.last_updated))
            .collect::<Vec<_>>(),
        [(true, 6), (true, 7)]
    );
    assert_eq!(
        store
            .sandbox_list(&TeamId::default(), &SandboxFilter::default(), None, 10)
            .await
            .unwrap(),
        std::slice::from_ref(&other)
    );
    let marked = store.sandboxes_give_up(&with(&other.id), 8).await.unwrap();
    assert_eq!(marked.len(), 2);
}

pub async fn writers_in_crowds_are_all_served(db: Db) {
    // Two stores: the second stands for another process.
    let stores = [db.store().await, db.empty().await];
    let crowd = (0..40).map(|worker| {
        let store = stores[worker % 2].clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                let row = insert(&store, 1).await;
                store
                    .sandbox_list(&TeamId::default(), &SandboxFilter::default(), None, 5)
                    .await
                    .unwrap();
                store
                    .sandbox_apply_report(&report(&row.id, 7, SandboxState::Running), 2)
                    .await
                    .unwrap();
                assert!(store.sandbox_remove(&row.id, 9).await.unwrap());
            }
        })
    });
    join_all(crowd).await.into_iter().for_each(Result::unwrap);
    assert_eq!(stores[0].sandbox_list_all().await.unwrap().len(), 0);
}

pub async fn callers_that_leave_disturb_nobody(db: Db) {
    let store = db.store().await;
    for nth in 0..200u64 {
        // Away at different moments: before it began, in the middle of it, after it.
        let limit = Duration::from_micros(nth * 20);
        let _ = tokio::time::timeout(limit, insert(&store, 1)).await;
    }
    let row = insert(&store, 2).await;
    // Each call happened as a whole, or not at all; a server may still be at it when the caller has
    // left.
    let settled = async || {
        let rows = store.sandbox_list_all().await.unwrap();
        for late in rows.iter().filter(|late| late.id != row.id) {
            assert!(store.sandbox_remove(&late.id, 9).await.unwrap());
        }
        (rows == std::slice::from_ref(&row)).then_some(())
    };
    eventually(
        "nothing but the row of who stayed",
        Duration::from_secs(30),
        settled,
    )
    .await;
}
