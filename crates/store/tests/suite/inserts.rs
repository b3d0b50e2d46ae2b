//! Promising a sandbox: once, however often it is asked for.

use futures::future::join_all;
use model::{Generation, SandboxState, TeamId};
use store::{Error, Inserted, NewSandbox, Sandbox};

use crate::db::{Db, idempotent, insert, new_sandbox};

pub async fn what_goes_in_comes_out(db: Db) {
    let store = db.store().await;
    let new = new_sandbox(5);
    let expected = Sandbox {
        attributes: new.attributes.clone(),
        revision: 0,
        stop_reason: None,
        id: new.id.clone(),
        state: SandboxState::Pending,
        generation: Generation::FIRST,
        reason: None,
        spec: new.spec.clone(),
        team_id: TeamId::default(),
        key_id: new.key_id.clone(),
        host_id: None,
        guest_ip: None,
        host_ip: None,
        created_at: 5,
        started_at: None,
        last_active_at: None,
        last_updated: 5,
        pausing_until: None,
        deleting: false,
        disk: None,
    };
    assert_eq!(store.sandbox_get_any_team(&new.id).await.unwrap(), None);
    assert_eq!(
        store.sandbox_insert(&new).await.unwrap(),
        Inserted::New(expected.clone())
    );
    store.close().await;

    let store = db.empty().await;
    assert_eq!(
        store.sandbox_get_any_team(&new.id).await.unwrap(),
        Some(expected)
    );
    let again = store.sandbox_insert(&new).await.unwrap_err();
    assert!(matches!(again, Error::Conflict { .. }), "{again:?}");
    assert_eq!(store.sandbox_list_all().await.unwrap().len(), 1);
}

pub async fn an_idempotency_key_makes_one_row(db: Db) {
    let store = db.store().await;
    let first = idempotent("k", 1);
    let Inserted::New(row) = store.sandbox_insert(&first).await.unwrap() else {
        panic!("the key is new")
    };

    // The request itself again, as after a time-out, and the same request under another id.
    assert_eq!(
        store.sandbox_insert(&first).await.unwrap(),
        Inserted::Existing(row.clone())
    );
    assert_eq!(
        store.sandbox_insert(&idempotent("k", 1)).await.unwrap(),
        Inserted::Existing(row.clone())
    );
    assert_eq!(
        store.sandbox_insert(&idempotent("k", 2)).await.unwrap(),
        Inserted::Mismatch
    );

    // Keys differ by case and by caller; rows without one never meet.
    let others = [
        idempotent("K", 1),
        NewSandbox {
            key_id: "key-2".to_owned(),
            ..idempotent("k", 2)
        },
        new_sandbox(1),
        new_sandbox(1),
    ];
    for other in others {
        assert!(
            matches!(
                store.sandbox_insert(&other).await.unwrap(),
                Inserted::New(_)
            ),
            "{other:?}"
        );
    }
    // An id that is taken is no sign of an earlier request with this key.
    let taken = NewSandbox {
        id: row.id,
        ..idempotent("new", 1)
    };
    assert!(matches!(
        store.sandbox_insert(&taken).await.unwrap_err(),
        Error::Conflict { .. }
    ));
}

pub async fn an_idempotency_key_is_free_again_after_the_deletion(db: Db) {
    let store = db.store().await;
    let first = idempotent("k", 1);
    store.sandbox_insert(&first).await.unwrap();

    let marked = store
        .sandbox_mark_deleting(&TeamId::default(), &first.id, 2)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        store.sandbox_insert(&idempotent("k", 1)).await.unwrap(),
        Inserted::Existing(marked)
    );
    assert!(store.sandbox_remove(&first.id, 9).await.unwrap());
    assert!(matches!(
        store.sandbox_insert(&idempotent("k", 2)).await.unwrap(),
        Inserted::New(_)
    ));
}

pub async fn racing_inserts_make_one_row(db: Db) {
    // Two stores: the second stands for another process.
    let stores = [db.store().await, db.empty().await];
    for round in 0..5 {
        let key = format!("round {round}");
        let racers = (0..20).map(|racer| {
            let store = stores[racer % 2].clone();
            let new = idempotent(&key, 1);
            tokio::spawn(async move { store.sandbox_insert(&new).await.unwrap() })
        });
        let outcomes: Vec<_> = join_all(racers)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();

        let new: Vec<_> = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Inserted::New(_)))
            .collect();
        let [Inserted::New(row)] = new[..] else {
            panic!("{new:?}")
        };
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| **outcome == Inserted::Existing(row.clone()))
                .count(),
            19
        );
    }
    assert_eq!(stores[0].sandbox_list_all().await.unwrap().len(), 5);
}

pub async fn inserts_race_with_removals(db: Db) {
    let store = db.store().await;
    let bystander = insert(&store, 1).await;
    let racers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                match store.sandbox_insert(&idempotent("k", 1)).await.unwrap() {
                    Inserted::New(row) | Inserted::Existing(row) => {
                        store.sandbox_remove(&row.id, 9).await.unwrap()
                    }
                    other => panic!("all fingerprints are the same: {other:?}"),
                };
            }
        })
    });
    join_all(racers).await.into_iter().for_each(Result::unwrap);
    assert_eq!(store.sandbox_list_all().await.unwrap(), [bystander]);
}
