//! Sandboxes that hosts have and the database does not: adopted, or recorded as deleted.

use model::{Generation, SandboxAttributes, SandboxId, SandboxState, StopReason, TeamId};
use store::{AdoptedSandbox, Applied, Error, NewSandbox, Report};

use crate::db::{Db, new_sandbox, report, spec};

/// A time after those of all rows.
const NOW: i64 = 1_000_000;

pub async fn adopted_sandbox_is_as_reported(db: Db) {
    let store = db.store().await;
    let id = SandboxId::random();
    let attributes = SandboxAttributes {
        name: Some("web".parse().unwrap()),
        ..SandboxAttributes::default()
    };
    let adopted = AdoptedSandbox {
        report: report(&id, 4, SandboxState::Paused),
        spec: spec(),
        attributes,
        team_id: TeamId::default(),
        key_id: "operator".to_owned(),
        created_at: 7,
    };
    assert!(!store.sandbox_was_deleted(&id).await.unwrap());
    let row = store.sandbox_adopt(&adopted, NOW).await.unwrap().unwrap();
    assert_eq!((row.created_at, row.state), (7, SandboxState::Paused));
    assert_eq!((row.generation, &row.spec), (Generation(4), &adopted.spec));
    assert_eq!(row.host_id.as_deref(), Some("host-0"));
    assert_eq!(
        (&row.disk, row.started_at),
        (&adopted.report.disk, Some(1004))
    );
    assert_eq!(store.sandbox_adopt(&adopted, NOW).await.unwrap(), None);
    let other = AdoptedSandbox {
        report: report(&SandboxId::random(), 1, SandboxState::Running),
        ..adopted.clone()
    };
    let taken = store.sandbox_adopt(&other, NOW).await.unwrap_err();
    assert!(matches!(taken, Error::Conflict { .. }), "{taken:?}");
    // Its host goes on with it.
    let resumed = report(&id, 5, SandboxState::Running);
    let applied = store.sandbox_apply_report(&resumed, NOW).await.unwrap();
    assert!(matches!(applied, Applied::Changed(_)), "{applied:?}");
    store.sandbox_remove(&id, NOW).await.unwrap();
    assert!(store.sandbox_was_deleted(&id).await.unwrap());
    // It is on its way out of the host, which may not have heard of it.
    let deleted = store.sandbox_adopt(&adopted, NOW).await.unwrap_err();
    assert!(matches!(deleted, Error::Conflict { .. }), "{deleted:?}");
    assert_eq!(store.sandbox_list_all().await.unwrap(), []);
}

/// Two operators, of whom one removes what the other adopts.
pub async fn orphan_is_adopted_or_deleted(db: Db) {
    let store = db.store().await;
    for _ in 0..20 {
        let id = SandboxId::random();
        let report = report(&id, 4, SandboxState::Running);
        let adopted = AdoptedSandbox {
            report: report.clone(),
            spec: spec(),
            attributes: SandboxAttributes::default(),
            team_id: TeamId::default(),
            key_id: "operator".to_owned(),
            created_at: 7,
        };
        let (adopted, deleted) = tokio::join!(
            store.sandbox_adopt(&adopted, NOW),
            store.orphan_record_deletion(&report, NOW)
        );
        let is_adopted = adopted.is_ok_and(|row| row.is_some());
        assert_ne!(is_adopted, deleted.unwrap());
        let row = store.sandbox_get_any_team(&id).await.unwrap();
        assert_eq!(row.is_some(), is_adopted);
        let was_deleted = store.sandbox_was_deleted(&id).await.unwrap();
        assert_ne!(was_deleted, is_adopted);
    }
}

pub async fn lost_sandbox_returns_without_taken_name(db: Db) {
    let store = db.store().await;
    let named = |name: &str| {
        let attributes = SandboxAttributes {
            name: Some(name.parse().unwrap()),
            ..SandboxAttributes::default()
        };
        NewSandbox {
            attributes,
            ..new_sandbox(1)
        }
    };
    for (is_taken, name) in [(false, "free"), (true, "taken")] {
        let new = named(name);
        store.sandbox_insert(&new).await.unwrap();
        let lost = Report {
            stop_reason: Some(StopReason::HostLost),
            ..report(&new.id, 3, SandboxState::Error)
        };
        store.sandbox_apply_report(&lost, 2).await.unwrap();
        if is_taken {
            store.sandbox_insert(&named(name)).await.unwrap();
        }
        let again = report(&new.id, 3, SandboxState::Running);
        let applied = store.sandbox_apply_report(&again, 3).await.unwrap();
        assert_eq!(applied, Applied::Stale, "older than the loss");
        let again = report(&new.id, 4, SandboxState::Running);
        let Applied::Changed(row) = store.sandbox_apply_report(&again, 3).await.unwrap() else {
            panic!("it is there again");
        };
        assert_eq!((row.state, row.stop_reason), (SandboxState::Running, None));
        assert_eq!(row.attributes.name.is_none(), is_taken);
    }
}
