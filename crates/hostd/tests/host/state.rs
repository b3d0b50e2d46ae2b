//! State that survives: many pauses under load, many siblings of one snapshot, and saved files that
//! are damaged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::SandboxState as State;
use model::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, spec};

/// Counts in memory, appends to a file and inserts into a database, each count only after the one
/// before is on disk.
const LOAD: &str = "cat > load.py <<'END'
import os, sqlite3, time
db = sqlite3.connect('db'); db.execute('create table if not exists t(n integer)'); db.commit()
log, n = open('log', 'a'), 0
while True:
    n += 1
    log.write(f'{n}\\n'); log.flush(); os.fsync(log.fileno())
    db.execute('insert into t values (?)', (n,)); db.commit()
    open('/dev/shm/new', 'w').write(str(n)); os.rename('/dev/shm/new', '/dev/shm/n')
    time.sleep(0.02)
END
nohup python3 load.py >/dev/null 2>load.err & while ! test -s /dev/shm/n; do sleep 0.05; done";

/// What is acknowledged, how many rows and lines there are, and whether the database is whole.
const LOOK: &str = "cat load.err; cat /dev/shm/n; echo; python3 -c \"
import sqlite3
db = sqlite3.connect('db', timeout=30)
print(*db.execute('select count(*), max(n) from t').fetchone(), db.execute('pragma integrity_check').fetchone()[0])\"; \
wc -l < log; tail -n 1 log";

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pauses_under_load_lose_nothing() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    agent.out(&id, LOAD).await;
    let mut last = 0;
    for cycle in 0..20 {
        agent.pause(&id).await.unwrap();
        agent.resume(&id).await.unwrap();
        let look = agent.out(&id, LOOK).await;
        let words: Vec<&str> = look.split_whitespace().collect();
        let [n, rows, max, whole, lines, tail] = words[..] else {
            panic!("cycle {cycle}: {look}")
        };
        let number = |text: &str| text.parse::<u64>().unwrap();
        let (n, rows, lines) = (number(n), number(rows), number(lines));
        assert_eq!((whole, rows), ("ok", number(max)), "cycle {cycle}: {look}");
        assert!(
            n >= last && rows >= n && lines >= rows && number(tail) >= lines,
            "cycle {cycle}: {look} after {last}"
        );
        last = n;
    }
    assert!(last > 20, "it stood still: {last}");
    agent.finish().await;
}

/// All that two guests must not share, a line each; then the time.
const OWN: &str = "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; \
python3 -c 'import random, uuid; print(random.random()); print(uuid.uuid4())'; cat /proc/sys/kernel/random/uuid; date +%s.%N";

#[tokio::test(flavor = "multi_thread")]
async fn fifty_of_one_snapshot_are_machines_of_their_own() {
    let agent = Agent::start(&[]).await;
    let source = agent.create().await;
    agent.snapshot(&source, "many", true).await.unwrap();
    let mut ids: Vec<SandboxId> = (0..50).map(|_| SandboxId::random()).collect();
    let made = futures::stream::iter(ids.clone()).map(async |id| {
        let report = agent
            .ensure(
                &id,
                rpc::SandboxSpec {
                    template: "many".to_owned(),
                    ..spec()
                },
            )
            .await
            .unwrap();
        assert_eq!(
            report.state.as_known(),
            Some(State::SANDBOX_STATE_RUNNING),
            "{report:?}"
        );
    });
    made.buffer_unordered(8).collect::<Vec<()>>().await;
    ids.push(source);
    let mut seen = BTreeSet::new();
    for id in &ids {
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs_f64()
        };
        let before = now();
        let said = agent.out(id, OWN).await;
        let (own, time) = said.rsplit_once('\n').unwrap();
        let time: f64 = time.parse().unwrap();
        assert!(
            before - 0.1 < time && time < now() + 0.1,
            "{id} says it is {time}, between {before} and {}",
            now()
        );
        assert_eq!(own.lines().count(), 7, "{own}");
        for line in own.lines() {
            assert!(
                seen.insert(line.to_owned()),
                "{line} of {id} is another one's, too"
            );
        }
        let record = fs::read(
            agent
                .dir
                .path()
                .join("sandboxes")
                .join(id.as_str())
                .join("sandbox.json"),
        )
        .unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert!(seen.insert(record["token"].as_str().unwrap().to_owned()));
    }
    futures::stream::iter(&ids)
        .map(async |id| agent.remove(id).await)
        .buffer_unordered(8)
        .collect::<Vec<()>>()
        .await;
    agent.remove_snapshot("many").await.unwrap();
    agent.finish().await;
}

/// Each way to damage a file of a saved state.
fn damage(file: &Path, how: &str) {
    let content = fs::read(file).unwrap();
    match how {
        "is gone" => fs::remove_file(file).unwrap(),
        "is cut" => fs::write(file, &content[..content.len() / 2]).unwrap(),
        "begins wrong" | "is wrong in the middle" | "ends wrong" => {
            let at = match how {
                "begins wrong" => 0,
                "ends wrong" => content.len() - 1,
                _ => content.len() / 2,
            };
            let mut wrong = content.clone();
            wrong[at] ^= 0xff;
            fs::write(file, wrong).unwrap();
        }
        other => panic!("{other}"),
    }
}

/// A byte at the begin, in the middle and at the end of what is in the file.
async fn refuses_damaged_memory(agent: &Agent, id: &SandboxId, path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let data = linux::sparse::data_ranges(&file).unwrap();
    for at in [
        data[0].start,
        data[data.len() / 2].start,
        data[data.len() - 1].end - 1,
    ] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
        let refused = agent
            .resume(id)
            .await
            .expect_err("it is damaged")
            .message
            .unwrap();
        assert!(
            refused.contains("checksum"),
            "{}: {refused}",
            path.display()
        );
        file.write_all_at(&byte, at).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_refused_and_stays_until_it_is_whole() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    agent.out(&id, "echo 7 > /dev/shm/memory").await;
    agent.pause(&id).await.unwrap();
    let saved = agent
        .dir
        .path()
        .join("sandboxes")
        .join(id.as_str())
        .join("paused");
    let cases = [
        ("snapshot.json", &["is gone", "is cut", "begins wrong"][..]),
        (
            "memory/snapshot.json",
            &["is gone", "is cut", "begins wrong"][..],
        ),
        (
            "memory/state",
            &[
                "is gone",
                "is cut",
                "begins wrong",
                "is wrong in the middle",
                "ends wrong",
            ][..],
        ),
        ("memory/memory", &["is gone", "is cut"][..]),
    ];
    for (name, ways) in cases {
        for how in ways {
            let (file, kept) = (saved.join(name), agent.dir.path().join("kept"));
            // Others have the same file under names of their own.
            fs::rename(&file, &kept).unwrap();
            linux::sparse::copy(&kept, &file).unwrap();
            damage(&file, how);
            let refused = agent.resume(&id).await.expect_err(&format!("{name} {how}"));
            let text = refused.message.unwrap();
            assert!(
                text.contains("could not be resumed"),
                "{name} {how}: {text}"
            );
            let report = agent.report(&id).await.unwrap();
            assert_eq!(
                report.state.as_known(),
                Some(State::SANDBOX_STATE_PAUSED),
                "{name} {how}: {report:?}"
            );
            assert!(report.reason.contains("could not be resumed"), "{report:?}");
            fs::rename(&kept, &file).unwrap();
        }
    }
    // It gets its checksum sooner or later; here, sooner.
    vmm::SnapshotStore::of_full_files()
        .merge(&saved.join("memory"), &CancellationToken::new())
        .unwrap();
    refuses_damaged_memory(&agent, &id, &saved.join("memory/memory")).await;
    agent.resume(&id).await.unwrap();
    assert_eq!(agent.out(&id, "cat /dev/shm/memory").await, "7");
    agent.pause(&id).await.unwrap();
    refuses_damaged_memory(&agent, &id, &saved.join("memory/memory.base")).await;
    refuses_damaged_memory(&agent, &id, &saved.join("memory/memory.diff")).await;
    agent.resume(&id).await.unwrap();
    assert_eq!(agent.out(&id, "cat /dev/shm/memory").await, "7");
    agent.finish().await;
}
