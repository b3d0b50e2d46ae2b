//! Secrets: whoever asks first makes one, and everybody has the same.

use futures::future::join_all;

use crate::db::Db;

pub async fn racing_processes_agree_on_a_secret(db: Db) {
    let store = db.store().await;
    let asked = (1..=8_u8).map(|number| {
        let store = store.clone();
        async move { store.secret("of the test", &[number; 32], 0).await.unwrap() }
    });
    let got = join_all(asked).await;
    assert!(
        (1..=8).contains(&got[0][0]) && got.iter().all(|secret| *secret == got[0]),
        "{got:?}"
    );
    assert_eq!(
        store.secret("of the test", &[99; 32], 1).await.unwrap(),
        got[0]
    );
    assert_eq!(
        store.secret("another", &[99; 32], 1).await.unwrap(),
        [99; 32]
    );
    db.tamper("UPDATE secrets SET value = substr(value, 2) WHERE name = 'another'")
        .await;
    let refused = store.secret("another", &[99; 32], 1).await.unwrap_err();
    assert!(refused.to_string().contains("another"), "{refused}");
}
