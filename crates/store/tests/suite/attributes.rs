//! Names, labels, filters, updates and ends of sandboxes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use model::{
    LabelFilter, Labels, SandboxAttributes, SandboxName, SandboxState, StopReason, TeamId,
};
use store::{Applied, Error, Inserted, NewSandbox, Sandbox, SandboxFilter, Store};

use crate::db::{Db, insert, new_sandbox, newest_first, report};

fn named(name: &str) -> NewSandbox {
    let attributes = SandboxAttributes {
        name: Some(name.parse().unwrap()),
        ..SandboxAttributes::default()
    };
    NewSandbox {
        attributes,
        ..new_sandbox(1)
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    let pairs = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Labels::new(pairs.collect::<BTreeMap<_, _>>()).unwrap()
}

async fn insert_new(store: &Store, new: &NewSandbox) -> Sandbox {
    match store.sandbox_insert(new).await.unwrap() {
        Inserted::New(row) => row,
        other => panic!("{other:?}"),
    }
}

async fn update(store: &Store, row: &Sandbox, attributes: &SandboxAttributes) -> Option<Sandbox> {
    let updated = store.sandbox_update(row, &row.spec, attributes, 9).await;
    updated.unwrap()
}

async fn stop(store: &Store, row: &Sandbox) {
    let stopped = report(&row.id, row.generation.0 + 10, SandboxState::Stopped);
    let applied = store.sandbox_apply_report(&stopped, 5).await.unwrap();
    assert!(
        matches!(applied, Applied::Changed(row) if row.stop_reason == Some(StopReason::GuestShutdown))
    );
}

pub async fn name_is_unique_among_living(db: Db) {
    let store = db.store().await;
    let team = TeamId::default();
    let name: SandboxName = "web".parse().unwrap();
    let first = insert_new(&store, &named("web")).await;
    let taken = store.sandbox_insert(&named("web")).await.unwrap();
    assert_eq!(taken, Inserted::NameTaken(first.clone()));
    let theirs = NewSandbox {
        team_id: "other".parse().unwrap(),
        ..named("web")
    };
    insert_new(&store, &theirs).await;
    let found = store.sandbox_get_by_name(&team, &name).await.unwrap();
    assert_eq!(found, Some(first.clone()));

    // Another one cannot be renamed to it, and keeps all that it had.
    let other = insert_new(&store, &named("api")).await;
    let renamed = store
        .sandbox_update(&other, &other.spec, &first.attributes, 9)
        .await;
    assert!(
        matches!(renamed, Err(Error::Conflict { .. })),
        "{renamed:?}"
    );
    let kept = store.sandbox_get(&team, &other.id).await.unwrap();
    assert_eq!(kept, Some(other));

    // What stopped, or is being deleted, leaves the name to others and still shows it.
    stop(&store, &first).await;
    assert_eq!(store.sandbox_get_by_name(&team, &name).await.unwrap(), None);
    let second = insert_new(&store, &named("web")).await;
    store
        .sandbox_mark_deleting(&team, &second.id, 6)
        .await
        .unwrap();
    let third = insert_new(&store, &named("web")).await;
    let found = store.sandbox_get_by_name(&team, &name).await.unwrap();
    assert_eq!(found, Some(third));
    let first = store.sandbox_get(&team, &first.id).await.unwrap().unwrap();
    assert_eq!(first.attributes.name, Some(name));
}

pub async fn racing_inserts_of_name_make_one(db: Db) {
    // The second store stands for another control plane.
    let stores = [db.store().await, db.empty().await];
    let news: Vec<NewSandbox> = (0..16).map(|_| named("web")).collect();
    let inserts = news.iter().enumerate();
    let results = join_all(inserts.map(|(n, new)| stores[n % 2].sandbox_insert(new))).await;
    let mut winners = Vec::new();
    let mut met = Vec::new();
    for result in results {
        match result.unwrap() {
            Inserted::New(row) => winners.push(row),
            Inserted::NameTaken(row) => met.push(row),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert!(met.iter().all(|row| *row == winners[0]) && met.len() == 15);
}

fn matches(row: &Sandbox, filter: &SandboxFilter) -> bool {
    let labels = row.attributes.labels.as_map();
    let has = |label: &LabelFilter| match (&label.value, labels.get(&label.key)) {
        (None, found) => found.is_some(),
        (Some(wanted), found) => found == Some(wanted),
    };
    let name = row.attributes.name.as_ref().map_or("", SandboxName::as_str);
    filter.labels.iter().all(has)
        && (filter.states.is_empty() || filter.states.contains(&row.state))
        && filter
            .template
            .as_ref()
            .is_none_or(|template| row.spec.template.as_str() == template)
        && filter
            .name_prefix
            .as_ref()
            .is_none_or(|prefix| !name.is_empty() && name.starts_with(prefix))
}

/// Rows of every mixture of labels, state, template and name.
async fn fill(store: &Store) {
    for n in 0..24_i64 {
        let mut new = new_sandbox(n / 3);
        let env = if n % 2 == 0 { "prod" } else { "test" };
        new.attributes.labels = match n % 4 {
            0 => labels(&[]),
            1 => labels(&[("env", env), ("team", "a")]),
            2 => labels(&[("env", env)]),
            _ => labels(&[("team", "")]),
        };
        if n % 3 == 0 {
            new.attributes.name = Some(format!("web-{n}").parse().unwrap());
        }
        if n % 5 == 0 {
            new.spec.template = "other".parse().unwrap();
        }
        let row = insert_new(store, &new).await;
        match n % 6 {
            0 => stop(store, &row).await,
            1 => drop(
                store
                    .sandbox_mark_deleting(&row.team_id, &row.id, 9)
                    .await
                    .unwrap(),
            ),
            _ => {}
        }
    }
}

fn every_filter() -> Vec<SandboxFilter> {
    let mut filters = Vec::new();
    let label_sets: [&[&str]; 6] = [
        &[],
        &["env"],
        &["env=prod"],
        &["team", "env=test"],
        &["team="],
        &["none"],
    ];
    let state_sets: [&[SandboxState]; 3] = [
        &[],
        &[SandboxState::Pending],
        &[SandboxState::Stopped, SandboxState::Error],
    ];
    for label_set in label_sets {
        for states in state_sets {
            for template in [None, Some("other"), Some("none' OR TRUE")] {
                for prefix in [None, Some("web-1"), Some("")] {
                    filters.push(SandboxFilter {
                        labels: label_set
                            .iter()
                            .map(|label| label.parse().unwrap())
                            .collect(),
                        states: states.to_vec(),
                        template: template.map(str::to_owned),
                        name_prefix: prefix.map(str::to_owned),
                        ..SandboxFilter::default()
                    });
                }
            }
        }
    }
    filters
}

pub async fn filters_agree_with_plain_search(db: Db) {
    let store = db.store().await;
    let team = TeamId::default();
    fill(&store).await;
    // Labels that changed are found as they are now.
    let rows = store
        .sandbox_list(&team, &SandboxFilter::default(), None, 100)
        .await
        .unwrap();
    let relabeled = rows
        .iter()
        .find(|row| row.state == SandboxState::Pending)
        .unwrap();
    let attributes = SandboxAttributes {
        labels: labels(&[("env", "prod"), ("new", "1")]),
        ..relabeled.attributes.clone()
    };
    update(&store, relabeled, &attributes).await.unwrap();

    let mut all = newest_first(store.sandbox_list_all().await.unwrap());
    all.retain(|row| !row.deleting);
    for filter in every_filter() {
        let expected: Vec<&Sandbox> = all.iter().filter(|row| matches(row, &filter)).collect();
        let mut paged = Vec::new();
        let mut cursor = None;
        loop {
            let page = store
                .sandbox_list(&team, &filter, cursor.as_ref(), 2)
                .await
                .unwrap();
            let Some(last) = page.last() else { break };
            cursor = Some(last.cursor());
            paged.extend(page);
        }
        assert_eq!(paged.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        let count = store.sandbox_count(&team, &filter).await.unwrap();
        assert_eq!(count, expected.len() as u64, "{filter:?}");
    }
    let theirs = "other".parse().unwrap();
    assert_eq!(
        store
            .sandbox_count(&theirs, &SandboxFilter::default())
            .await
            .unwrap(),
        0
    );
}

pub async fn outdated_update_changes_nothing(db: Db) {
    let store = db.store().await;
    let before = insert(&store, 1).await;
    let attributes = SandboxAttributes {
        labels: labels(&[("a", "1")]),
        ends_at: Some(i64::MAX),
        ..SandboxAttributes::default()
    };
    let after = update(&store, &before, &attributes).await.unwrap();
    assert_eq!(after.attributes, attributes);
    // A report moves the state alone.
    let running = report(&before.id, 7, SandboxState::Running);
    store.sandbox_apply_report(&running, 3).await.unwrap();
    assert_eq!(
        update(&store, &before, &SandboxAttributes::default()).await,
        None
    );
    let row = store
        .sandbox_get_any_team(&before.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.attributes, row.revision),
        (attributes.clone(), after.revision)
    );
    // What has stopped is not changed any more.
    stop(
        &store,
        &Sandbox {
            generation: running.generation,
            ..after.clone()
        },
    )
    .await;
    assert_eq!(update(&store, &after, &attributes).await, None);
}

pub async fn renewal_and_expiry_never_both_win(db: Db) {
    let stores = [db.store().await, db.empty().await];
    for _ in 0..24 {
        let mut new = new_sandbox(1);
        new.attributes.ends_at = Some(100);
        let row = insert_new(&stores[0], &new).await;
        assert_eq!(
            stores[0].sandbox_expire(&row.id, "over", 99).await.unwrap(),
            None
        );
        let renewed = SandboxAttributes {
            ends_at: Some(200),
            ..SandboxAttributes::default()
        };
        let (renewed, expired) = tokio::join!(
            stores[0].sandbox_update(&row, &row.spec, &renewed, 100),
            stores[1].sandbox_expire(&row.id, "over", 100),
        );
        let (renewed, expired) = (renewed.unwrap(), expired.unwrap());
        assert!(renewed.is_some() != expired.is_some());
        let now = stores[0]
            .sandbox_get_any_team(&row.id)
            .await
            .unwrap()
            .unwrap();
        if renewed.is_some() {
            assert_eq!(
                (now.state, now.attributes.ends_at),
                (SandboxState::Pending, Some(200))
            );
        } else {
            assert_eq!(
                (now.state, now.stop_reason),
                (SandboxState::Stopped, Some(StopReason::EndTime))
            );
            // A host that does not know it yet brings it back to nothing else.
            let late = report(&row.id, 99, SandboxState::Running);
            let late = stores[0].sandbox_apply_report(&late, 101).await.unwrap();
            assert_eq!(late, Applied::Stale);
        }
        let due = stores[1].sandbox_list_due(1000).await.unwrap();
        let is_listed = due.iter().any(|due| due.id == row.id && due.ends_at == 200);
        assert_eq!(is_listed, renewed.is_some());
    }
}

pub async fn metadata_of_any_text_is_found(db: Db) {
    let store = db.store().await;
    let metadata = [("a \"b'\\.$ü", "x=y\nz"), ("", "")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let longest = ("k".repeat(255), "é".repeat(1024));
    let metadata: BTreeMap<String, String> = metadata.into_iter().chain([longest]).collect();
    let mut new = new_sandbox(1);
    new.attributes.labels = Labels::from_metadata(metadata.clone()).unwrap();
    let row = insert_new(&store, &new).await;
    assert_eq!(row.attributes.labels.as_map(), &metadata);
    for (key, value) in metadata {
        let filter = SandboxFilter {
            labels: vec![LabelFilter {
                key,
                value: Some(value),
            }],
            created_from: Some(1),
            is_oldest_first: true,
            ..SandboxFilter::default()
        };
        let found = store.sandbox_list(&row.team_id, &filter, None, 9).await;
        assert_eq!(found.unwrap(), std::slice::from_ref(&row));
        let later = SandboxFilter {
            created_from: Some(2),
            ..filter
        };
        let found = store.sandbox_list(&row.team_id, &later, None, 9).await;
        assert_eq!(found.unwrap(), []);
    }
}

pub async fn waiters_hear_of_every_change(db: Db) {
    let store = db.store().await;
    // Another process, where the database is one for several.
    let other = if db.url.starts_with("sqlite") {
        store.clone()
    } else {
        db.empty().await
    };
    let row = insert(&store, 1).await;
    let mut waiter = store.watch_sandbox(&row.id);
    let forwarding = store.clone();
    let forward = tokio::spawn(async move { forwarding.forward_notifications().await });
    let mut change = async |change: &str| {
        let heard = waiter.changed();
        let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
        assert!(heard.is_ok(), "{change}");
    };
    if !db.url.starts_with("sqlite") {
        // Once it listens: all are woken, since something may have been missed.
        change("listening").await;
    }
    let running = report(&row.id, 7, SandboxState::Running);
    other.sandbox_apply_report(&running, 2).await.unwrap();
    change("report").await;
    other
        .sandbox_mark_deleting(&row.team_id, &row.id, 3)
        .await
        .unwrap();
    change("deleting").await;
    other.sandbox_remove(&row.id, 4).await.unwrap();
    change("removed").await;
    forward.abort();
}

pub async fn rows_of_ids_are_of_team(db: Db) {
    let store = db.store().await;
    let team = TeamId::default();
    let first = insert_new(&store, &new_sandbox(1)).await;
    let second = insert_new(&store, &new_sandbox(2)).await;
    insert_new(&store, &new_sandbox(3)).await;
    let theirs = NewSandbox {
        team_id: "other".parse().unwrap(),
        ..new_sandbox(4)
    };
    let theirs = insert_new(&store, &theirs).await;
    let ids = [&second, &first, &theirs].map(|row| row.id.clone());
    let mut found = store.sandboxes_get(&team, &ids).await.unwrap();
    found.sort_by_key(|row| row.id != first.id);
    assert_eq!(found, [first, second]);
    assert_eq!(store.sandboxes_get(&team, &[]).await.unwrap(), []);
    let connections = store.connections();
    // A connection goes back to the pool a moment after its call.
    let open = connections.in_use + connections.idle;
    assert!((1..=connections.most).contains(&open), "{connections:?}");
}
