//! API keys.

use model::{Scopes, TeamId};
use store::{Error, Key, NewKey};

use crate::db::Db;

fn key(id: &str, hash: u8, now: i64) -> NewKey {
    NewKey {
        team_id: TeamId::default(),
        scopes: Scopes::Admin,
        id: id.to_owned(),
        name: format!("name of {id}"),
        hash: [hash; 32],
        now,
    }
}

pub async fn keys_come_and_go(db: Db) {
    let store = db.store().await;
    assert_eq!(store.key_count().await.unwrap(), 0);
    store.key_insert(&key("b", 1, 10)).await.unwrap();
    store.key_insert(&key("a", 2, 20)).await.unwrap();
    for known in [key("c", 1, 30), key("a", 3, 30)] {
        let refused = store.key_insert(&known).await.unwrap_err();
        assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    }

    let b = Key {
        team_id: TeamId::default(),
        scopes: Scopes::Admin,
        id: "b".to_owned(),
        name: "name of b".to_owned(),
        created_at: 10,
    };
    assert_eq!(store.key_find(&[1; 32]).await.unwrap(), Some(b.clone()));
    assert_eq!(store.key_find(&[3; 32]).await.unwrap(), None);
    let ids: Vec<_> = store
        .key_list()
        .await
        .unwrap()
        .into_iter()
        .map(|key| key.id)
        .collect();
    assert_eq!(ids, ["b", "a"]);

    assert!(store.key_remove("a", 9).await.unwrap());
    for gone in ["a", "", "' OR 1=1 --", "\0"] {
        assert!(!store.key_remove(gone, 9).await.unwrap(), "{gone:?}");
    }
    assert_eq!(store.key_find(&[2; 32]).await.unwrap(), None);
    assert_eq!(store.key_list().await.unwrap(), [b]);
    assert_eq!(store.key_count().await.unwrap(), 1);
}
