//! Turns of comparisons, and readers that a test speaks for.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use disk_diff::compare::Bytes;
use linux::process::Spawn;

use super::*;

fn comparisons() -> Comparisons {
    Comparisons::new(0)
}

fn ids<const N: usize>() -> [SandboxId; N] {
    std::array::from_fn(|_| SandboxId::random())
}

async fn acquire(comparisons: &Comparisons, id: &SandboxId) -> Result<Turn, DiffError> {
    // Each of a team of its own.
    acquire_for(comparisons, id, id.as_str()).await
}

async fn acquire_for(
    comparisons: &Comparisons,
    id: &SandboxId,
    team: &str,
) -> Result<Turn, DiffError> {
    let hung_up = CancellationToken::new();
    comparisons.acquire_turn(id, team, &hung_up).await
}

/// A process that does nothing, as a reader, and its end of the messages.
fn reader() -> (Worker, UnixStream) {
    let (messages, theirs) = UnixStream::pair().unwrap();
    let (words, _) = std::io::pipe().unwrap();
    let spawn = Spawn {
        program: "/bin/sleep".into(),
        args: vec!["1000".into()],
        ..Spawn::default()
    };
    let process = spawn.spawn().unwrap();
    let reader = Worker {
        process,
        messages,
        words,
    };
    (reader, theirs)
}

fn send(to: &mut UnixStream, message: &Message) {
    let bytes = serde_json::to_vec(message).unwrap();
    let length = u32::try_from(bytes.len()).unwrap();
    to.write_all(&length.to_be_bytes()).unwrap();
    to.write_all(&bytes).unwrap();
}

fn change() -> Message {
    Message::Change(Box::new(Change {
        path: Bytes(b"/a".to_vec()),
        before: None,
        after: None,
        is_content_changed: false,
        are_attributes_changed: false,
        is_unreadable: false,
        patch: None,
    }))
}

/// The caller keeps its comparison and reads nothing of it: its turn ends with its time all the
/// same.
#[tokio::test]
async fn caller_that_stops_reading_keeps_no_turn() {
    let comparisons = comparisons();
    let stays = CancellationToken::new();
    let [one, two, three] = ids();
    let mut stalled = Vec::new();
    for id in [&one, &two] {
        let turn = acquire(&comparisons, id).await.unwrap();
        let (reader, mut messages) = reader();
        send(&mut messages, &Message::Started);
        for _ in 0..2 * QUEUE {
            send(&mut messages, &change());
        }
        let deadline = Instant::now() + Duration::from_millis(200);
        let begun = follow_reader(reader, turn, "/".to_owned(), deadline, &stays).await;
        stalled.push((begun.unwrap(), messages));
    }
    acquire(&comparisons, &three).await.unwrap();
    // That turn may be the second one's.
    testkit::eventually("the first has ended", Duration::from_secs(20), async || {
        acquire(&comparisons, &one).await.ok()
    })
    .await;
    for (comparison, _messages) in &mut stalled {
        let mut count = 0;
        let error = loop {
            match comparison.next().await.unwrap() {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(count >= QUEUE, "{count}");
        assert!(
            error.to_string().contains("did not keep to its time"),
            "{error}"
        );
        assert!(comparison.next().await.is_none());
    }
}

#[tokio::test]
async fn caller_that_hangs_up_ends_comparison() {
    let comparisons = comparisons();
    let stays = CancellationToken::new();
    let [id] = ids();
    let turn = acquire(&comparisons, &id).await.unwrap();
    let (reader, mut messages) = reader();
    send(&mut messages, &Message::Started);
    let deadline = Instant::now() + Duration::from_secs(1000);
    let begun = follow_reader(reader, turn, "/".to_owned(), deadline, &stays).await;
    drop(begun.unwrap());
    testkit::eventually("the end of the turn", Duration::from_secs(20), async || {
        comparisons
            .reserved
            .lock()
            .sandboxes
            .is_empty()
            .then_some(())
    })
    .await;
}

/// Opening disks may take all of its time.
#[tokio::test]
async fn hang_up_during_opening_ends_comparison() {
    let comparisons = comparisons();
    let [id] = ids();
    let turn = acquire(&comparisons, &id).await.unwrap();
    let (reader, _messages) = reader();
    let deadline = Instant::now() + Duration::from_secs(1000);
    let hung_up = CancellationToken::new();
    let following = follow_reader(reader, turn, "/".to_owned(), deadline, &hung_up);
    let (followed, ()) = tokio::join!(following, async { hung_up.cancel() });
    assert!(matches!(followed, Err(DiffError::HungUp)), "{followed:?}");
    testkit::eventually("the end of the turn", Duration::from_secs(20), async || {
        let reserved = comparisons.reserved.lock();
        (reserved.sandboxes.is_empty() && reserved.teams.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn team_leaves_turns_to_others() {
    let comparisons = Arc::new(comparisons());
    let [first, late, other] = ids();
    let turn = acquire_for(&comparisons, &first, "greedy").await.unwrap();
    let waiting: [SandboxId; MAX_OF_TEAM - 1] = ids();
    let mut tasks = tokio::task::JoinSet::new();
    for id in waiting {
        let comparisons = Arc::clone(&comparisons);
        tasks.spawn(async move { acquire_for(&comparisons, &id, "greedy").await.map(drop) });
    }
    tokio::task::yield_now().await;
    let error = acquire_for(&comparisons, &late, "greedy")
        .await
        .unwrap_err();
    assert!(matches!(error, DiffError::TooManyOfTeam), "{error}");
    let of_other = acquire_for(&comparisons, &other, "other").await.unwrap();
    // One after the other.
    drop(turn);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap().unwrap();
    }
    drop(of_other);
    acquire_for(&comparisons, &late, "greedy").await.unwrap();
}

#[tokio::test]
async fn sandbox_has_one_comparison() {
    let comparisons = comparisons();
    let [one, two] = ids();
    let turn = acquire(&comparisons, &one).await.unwrap();
    let error = acquire(&comparisons, &one).await.unwrap_err();
    assert!(matches!(error, DiffError::AlreadyRuns), "{error}");
    acquire(&comparisons, &two).await.unwrap();
    drop(turn);
    acquire(&comparisons, &one).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn waiting_callers_are_bounded() {
    let comparisons = Arc::new(comparisons());
    let [one, two, late] = ids();
    let turns = [&one, &two].map(|id| acquire(&comparisons, id));
    let turns = futures::future::try_join_all(turns).await.unwrap();
    let gone = CancellationToken::new();
    let waiting: [SandboxId; MAX_WAITING] = ids();
    let mut tasks = tokio::task::JoinSet::new();
    for id in waiting {
        let comparisons = Arc::clone(&comparisons);
        let gone = gone.clone();
        tasks.spawn(async move {
            comparisons
                .acquire_turn(&id, id.as_str(), &gone)
                .await
                .map(drop)
        });
    }
    tokio::task::yield_now().await;
    let error = acquire(&comparisons, &late).await.unwrap_err();
    assert!(matches!(error, DiffError::TooMany), "{error}");
    // Those whose callers hang up wait no longer, and take no turn.
    gone.cancel();
    while let Some(ended) = tasks.join_next().await {
        assert!(matches!(ended.unwrap(), Err(DiffError::HungUp)));
    }
    assert_eq!(comparisons.reserved.lock().sandboxes.len(), 2);
    // Time passes by itself where nothing else happens.
    let error = acquire(&comparisons, &late).await.unwrap_err();
    assert!(matches!(error, DiffError::NoTurn(_)), "{error}");
    drop(turns);
    let error = comparisons
        .acquire_turn(&late, "late", &gone)
        .await
        .unwrap_err();
    assert!(matches!(error, DiffError::HungUp), "{error}");
    acquire(&comparisons, &late).await.unwrap();
}
