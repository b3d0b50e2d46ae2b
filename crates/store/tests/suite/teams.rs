//! What belongs to one team is not there for another.

use std::time::Duration;

use futures::future::join_all;
use model::{TeamId, TemplateName};
use store::{NewKey, NewSandbox, SandboxFilter, SnapshotClaim};

use crate::db::{Db, insert, new_sandbox};

fn other() -> TeamId {
    "other".parse().unwrap()
}

pub async fn sandbox_is_hidden_from_other_team(db: Db) {
    let store = db.store().await;
    let ours = insert(&store, 1).await;
    let theirs = NewSandbox {
        team_id: other(),
        ..new_sandbox(2)
    };
    store.sandbox_insert(&theirs).await.unwrap();
    let team = TeamId::default();
    assert_eq!(store.sandbox_get(&other(), &ours.id).await.unwrap(), None);
    assert_eq!(store.sandbox_get(&team, &theirs.id).await.unwrap(), None);
    let marked = store.sandbox_mark_deleting(&other(), &ours.id, 9).await;
    assert_eq!(marked.unwrap(), None);
    assert_eq!(
        store
            .sandbox_list(&team, &SandboxFilter::default(), None, 9)
            .await
            .unwrap(),
        [ours]
    );
    let listed = store
        .sandbox_list(&other(), &SandboxFilter::default(), None, 9)
        .await
        .unwrap();
    assert_eq!(listed[0].id, theirs.id);
    assert_eq!(store.sandbox_list_all().await.unwrap().len(), 2);
}

pub async fn key_keeps_team_and_scopes(db: Db) {
    let store = db.store().await;
    let key = NewKey {
        id: "a".to_owned(),
        team_id: other(),
        scopes: "sandboxes:write usage:read".parse().unwrap(),
        name: "name".to_owned(),
        hash: [1; 32],
        now: 1,
    };
    store.key_insert(&key).await.unwrap();
    let found = store.key_find(&[1; 32]).await.unwrap().unwrap();
    assert_eq!((found.team_id, found.scopes), (key.team_id, key.scopes));
    // As a program of before writes it.
    db.tamper(
        "INSERT INTO keys (id, name, hash, created_at) \
         SELECT 'old', 'old', substr(hash, 1, 3), 2 FROM keys",
    )
    .await;
    let old = &store.key_list().await.unwrap()[1];
    assert_eq!(
        (old.team_id.as_str(), old.scopes.to_string().as_str()),
        ("default", "admin")
    );
}

const LEASE: Duration = Duration::from_secs(60);

fn saved() -> TemplateName {
    "saved".parse().unwrap()
}

pub async fn snapshot_name_has_one_owner(db: Db) {
    let store = db.store().await;
    let (team, name) = (TeamId::default(), saved());
    assert_eq!(store.snapshot_owner(&name).await.unwrap(), None);
    for (claimant, claim) in [
        (other(), SnapshotClaim::New),
        (team.clone(), SnapshotClaim::Taken),
        (other(), SnapshotClaim::Kept),
    ] {
        let made = store.snapshot_claim(&claimant, &name, 1).await.unwrap();
        assert_eq!(made, claim);
    }
    assert!(store.snapshot_lock(&name, "one", LEASE).await.unwrap());
    assert!(!store.snapshot_release(&team, &name, "one").await.unwrap());
    assert_eq!(store.snapshot_owner(&name).await.unwrap(), Some(other()));
    let owners = store.snapshot_owners().await.unwrap();
    assert_eq!(
        owners.into_iter().collect::<Vec<_>>(),
        [("saved".to_owned(), other())]
    );
    assert!(
        store
            .snapshot_release(&other(), &name, "one")
            .await
            .unwrap()
    );
    assert!(store.snapshot_owners().await.unwrap().is_empty());
}

pub async fn snapshot_lock_has_one_holder(db: Db) {
    let store = db.store().await;
    let name = saved();
    let lockers = (0..8).map(|number| {
        let (store, name) = (store.clone(), name.clone());
        let holder = format!("holder-{number}");
        tokio::spawn(async move { store.snapshot_lock(&name, &holder, LEASE).await.unwrap() })
    });
    let locked = join_all(lockers).await.into_iter();
    assert_eq!(locked.filter(|locked| *locked.as_ref().unwrap()).count(), 1);
    let free = "free".parse().unwrap();
    assert!(store.snapshot_lock(&free, "one", LEASE).await.unwrap());
    store.snapshot_unlock(&free, "another").await.unwrap();
    assert!(!store.snapshot_lock(&free, "two", LEASE).await.unwrap());
    store.snapshot_unlock(&free, "one").await.unwrap();
    assert!(store.snapshot_lock(&free, "two", LEASE).await.unwrap());
}

pub async fn expired_snapshot_lock_releases_no_claim(db: Db) {
    let store = db.store().await;
    let (team, name) = (TeamId::default(), saved());
    store.snapshot_claim(&team, &name, 1).await.unwrap();
    assert!(store.snapshot_lock(&name, "slow", LEASE).await.unwrap());
    db.tamper("UPDATE snapshot_locks SET expires_at = 0").await;
    assert!(!store.snapshot_release(&team, &name, "slow").await.unwrap());
    // Late, but before anybody else: it has its lock again.
    assert!(
        store
            .snapshot_lock_renew(&name, "slow", LEASE)
            .await
            .unwrap()
    );
    assert!(!store.snapshot_lock(&name, "next", LEASE).await.unwrap());
    db.tamper("UPDATE snapshot_locks SET expires_at = 0").await;
    assert!(store.snapshot_lock(&name, "next", LEASE).await.unwrap());
    assert!(
        !store
            .snapshot_lock_renew(&name, "slow", LEASE)
            .await
            .unwrap()
    );
    assert!(!store.snapshot_release(&team, &name, "slow").await.unwrap());
    assert!(store.snapshot_release(&team, &name, "next").await.unwrap());
}

pub async fn snapshot_lock_ends_with_clock_back(db: Db) {
    let store = db.store().await;
    let name = saved();
    assert!(store.snapshot_lock(&name, "one", LEASE).await.unwrap());
    assert!(!store.snapshot_lock(&name, "two", LEASE).await.unwrap());
    // An hour after the end of a lease that begins now.
    db.tamper("UPDATE snapshot_locks SET expires_at = expires_at + 3600000")
        .await;
    assert!(store.snapshot_lock(&name, "two", LEASE).await.unwrap());
    assert!(
        !store
            .snapshot_lock_renew(&name, "one", LEASE)
            .await
            .unwrap()
    );
}
