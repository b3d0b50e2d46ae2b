//! Forks, snapshots and checkpoints on real VMs.

use connectrpc::ErrorCode;
use host_rpc as rpc;
use host_rpc::SandboxState as State;
use model::SandboxId;

use crate::agent::{Agent, spec};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

fn runs(report: &rpc::SandboxReport) {
    assert_eq!(
        report.state.as_known(),
        Some(State::SANDBOX_STATE_RUNNING),
        "{report:?}"
    );
}

/// Everything of a guest that must be its own.
const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; head -c 16 /dev/urandom | od -An -tx1; \
     python3 -c 'import random, uuid; print(random.random(), uuid.uuid4())'";

#[tokio::test(flavor = "multi_thread")]
async fn children_begin_where_their_parent_was_and_are_their_own() {
    let agent = Agent::start(&[]).await;
    let parent = agent.create().await;
    agent
        .out(
            &parent,
            "echo of the parent > file; echo 7 > /dev/shm/memory",
        )
        .await;
    let children: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
    for child in agent.fork(&parent, &children).await.unwrap() {
        runs(&child);
    }
    let mut seen = std::collections::BTreeSet::new();
    for id in std::iter::once(&parent).chain(&children) {
        assert_eq!(
            agent.out(id, "cat file /dev/shm/memory").await,
            "of the parent\n7"
        );
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let theirs: f64 = agent.out(id, "date +%s.%N").await.parse().unwrap();
        assert!(
            (theirs - now).abs() < 2.0,
            "its clock says {theirs} at {now}"
        );
        for line in agent.out(id, IDENTITY).await.lines() {
            assert!(
                seen.insert(line.to_owned()),
                "{line} of {id} is another one's"
            );
        }
        agent.out(id, &format!("echo {id} > file; sync")).await;
    }
    for id in std::iter::once(&parent).chain(&children) {
        assert_eq!(agent.out(id, "cat file").await, id.as_str());
    }
    agent.remove(&parent).await;
    // Asked once more, it answers with what there is.
    agent
        .fork(&parent, &children)
        .await
        .unwrap()
        .iter()
        .for_each(runs);
    assert_eq!(
        agent.out(&children[0], "cat file").await,
        children[0].as_str()
    );
    // One that cannot be made takes all with it.
    let taken = [SandboxId::random(), SandboxId::random()];
    let gone = agent.fork(&parent, &taken).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound, "{gone:?}");
    assert_eq!(agent.list().await.len(), 3);
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_a_template_with_memory_or_without() {
    let agent = Agent::start(&[]).await;
    let source = agent.create().await;
    agent.out(&source, "echo of the source > file; echo 7 > /dev/shm/memory; dd if=/dev/urandom of=big bs=1M count=20 2>/dev/null; md5sum big > sum").await;
    let snapshot = agent.snapshot(&source, "with-memory", true).await.unwrap();
    assert_eq!(
        (snapshot.vcpus, snapshot.memory_mb),
        (1, 192),
        "{snapshot:?}"
    );
    agent
        .out(
            &source,
            "dd if=/dev/urandom of=gone bs=1M count=64 2>/dev/null; sync; rm gone",
        )
        .await;
    let small = agent
        .snapshot(&source, "without-what-is-gone", false)
        .await
        .unwrap();
    agent.pause(&source).await.unwrap();
    let image = agent.snapshot(&source, "disk-only", false).await.unwrap();
    assert_eq!(image.memory_mb, 0, "{image:?}");
    let client = agent.client().templates();
    let request = rpc::ListTemplatesRequest::default();
    let mut stream = client.list_templates(request).await.unwrap();
    let templates: rpc::ListTemplatesResponse =
        stream.message().await.unwrap().unwrap().to_owned_message();
    let base = templates
        .templates
        .iter()
        .find(|template| template.name == "minimal")
        .unwrap()
        .size_bytes;
    // What was written and not deleted, and some 60 MiB of kernel and initramfs.
    assert!(
        (base + (20 << 20)..base + (100 << 20)).contains(&small.size_bytes),
        "{small:?} over {base}"
    );
    let taken = agent
        .snapshot(&source, "disk-only", false)
        .await
        .unwrap_err();
    assert_eq!(taken.code, ErrorCode::AlreadyExists, "{taken:?}");
    let taken = agent.snapshot(&source, "minimal", false).await.unwrap_err();
    assert!(taken.message.unwrap().contains("base image"));
    agent.remove(&source).await;

    let of = |template: &str| rpc::SandboxSpec {
        template: template.to_owned(),
        ..spec()
    };
    let other = agent
        .ensure(
            &SandboxId::random(),
            rpc::SandboxSpec {
                memory_mb: 256,
                ..of("with-memory")
            },
        )
        .await;
    assert_eq!(other.unwrap_err().code, ErrorCode::InvalidArgument);
    let [one, two, booted] = [(); 3].map(|()| SandboxId::random());
    let (a, b) = tokio::join!(
        agent.ensure(&one, of("with-memory")),
        agent.ensure(&two, of("with-memory"))
    );
    runs(&a.unwrap());
    runs(&b.unwrap());
    runs(
        &agent
            .ensure(
                &booted,
                rpc::SandboxSpec {
                    memory_mb: 256,
                    ..of("disk-only")
                },
            )
            .await
            .unwrap(),
    );
    for id in [&one, &two] {
        assert_eq!(
            agent
                .out(id, "md5sum -c --quiet sum; cat file /dev/shm/memory")
                .await,
            "of the source\n7"
        );
        agent.out(id, &format!("echo {id} > file; sync")).await;
    }
    assert_eq!(
        agent
            .out(
                &booted,
                "md5sum -c --quiet sum; cat file; test ! -e /dev/shm/memory"
            )
            .await,
        "of the source"
    );
    assert_eq!(agent.out(&one, "cat file").await, one.as_str());

    let in_use = agent.remove_snapshot("with-memory").await.unwrap_err();
    assert_eq!(in_use.code, ErrorCode::Aborted);
    let text = in_use.message.unwrap();
    assert!(
        text.contains(one.as_str()) && text.contains(two.as_str()),
        "{text}"
    );
    agent.pause(&one).await.unwrap();
    for id in [&two, &booted] {
        agent.remove(id).await;
    }
    agent.remove_snapshot("disk-only").await.unwrap();
    agent.remove_snapshot("without-what-is-gone").await.unwrap();
    agent.resume(&one).await.unwrap();
    assert_eq!(
        agent.out(&one, "cat file; echo $GREETING").await,
        format!("{one}\nhello")
    );
    agent.remove(&one).await;
    agent.remove_snapshot("with-memory").await.unwrap();
    agent.remove_snapshot("with-memory").await.unwrap();
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_goes_back_to_its_checkpoints() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    agent
        .out(&id, "echo one > file; echo one > /dev/shm/memory; sync")
        .await;
    agent.checkpoint(&id, "one").await.unwrap();
    assert_eq!(
        agent.checkpoint(&id, "one").await.unwrap_err().code,
        ErrorCode::AlreadyExists
    );
    agent
        .out(&id, "echo two > file; echo two > /dev/shm/memory; sync")
        .await;
    agent.pause(&id).await.unwrap();
    agent.checkpoint(&id, "two").await.unwrap();
    for (name, paused) in [("one", true), ("two", false), ("one", false)] {
        let report = agent.roll_back(&id, name).await.unwrap();
        let state = if paused {
            State::SANDBOX_STATE_PAUSED
        } else {
            State::SANDBOX_STATE_RUNNING
        };
        assert_eq!(report.state.as_known(), Some(state), "{report:?}");
        agent.resume(&id).await.unwrap();
        assert_eq!(
            agent.out(&id, "cat file /dev/shm/memory").await,
            format!("{name}\n{name}")
        );
        agent
            .out(&id, "echo later > file; echo later > /dev/shm/memory; sync")
            .await;
    }
    let unknown = agent.roll_back(&id, "three").await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::NotFound);
    assert!(unknown.message.unwrap().contains("there are: one, two"));
    agent.finish().await;
}

async fn usage(agent: &Agent) -> rpc::GetDiskUsageResponse {
    let request = rpc::GetDiskUsageRequest {
        whole_host: true,
        ..Default::default()
    };
    let answer = agent.client().host().get_disk_usage(request).await;
    answer.unwrap().into_owned()
}

/// Of the second one: what came before is in the first, in the VM and in the preboot cache, too.
#[tokio::test(flavor = "multi_thread")]
async fn idle_checkpoint_is_freed_to_exclusive_bytes() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    agent.checkpoint(&id, "one").await.unwrap();
    let two = agent.checkpoint(&id, "two").await.unwrap();
    // Device state, pages that an idle guest writes, and what its disk changed.
    assert!(two.exclusive_bytes < 24 << 20, "{two:?}");
    agent.pause(&id).await.unwrap();
    let before = usage(&agent).await;
    let request = rpc::RemoveCheckpointRequest {
        sandbox_id: id.to_string(),
        name: "two".to_owned(),
        ..Default::default()
    };
    let removed = agent.client().snapshots().remove_checkpoint(request).await;
    removed.unwrap();
    // A measurement is reused for two seconds.
    let after = testkit::eventually("the checkpoint not being counted", PATIENCE, async || {
        let usage = usage(&agent).await;
        (usage.checkpoints.count == 1).then_some(usage)
    })
    .await;
    let freed = before.total.size_bytes - after.total.size_bytes;
    assert!(
        freed.abs_diff(two.exclusive_bytes) < 1 << 20,
        "{freed}: {two:?}"
    );
    let space = &after.by_sandbox[0];
    assert!(space.paused.size_bytes > 0, "{space:?}");
    let state = agent.report(&id).await.unwrap().state.as_known();
    assert_eq!(state, Some(State::SANDBOX_STATE_PAUSED));
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_brings_back_what_command_removed() {
    let agent = Agent::start(&[]).await;
    let id = SandboxId::random();
    let policy = rpc::AutoCheckpoint {
        before_each_command: true,
        keep: 2,
        ..Default::default()
    };
    let spec = rpc::SandboxSpec {
        auto_checkpoint: policy.into(),
        ..spec()
    };
    agent.ensure(&id, spec).await.unwrap();
    agent
        .out(&id, "echo kept > file; echo kept > /dev/shm/memory")
        .await;
    agent.out(&id, "rm file; rm -rf /dev/shm/memory").await;
    let request = rpc::UndoSandboxRequest {
        sandbox_id: id.to_string(),
        steps: 1,
        ..Default::default()
    };
    let undone = agent.client().snapshots().undo_sandbox(request).await;
    let undone = undone.unwrap().into_owned();
    assert!(undone.checkpoint.starts_with("auto-2-"), "{undone:?}");
    assert!(undone.saved_as.starts_with("undo-3-"), "{undone:?}");
    let content = agent.out(&id, "cat file /dev/shm/memory").await;
    assert_eq!(content, "kept\nkept");
    agent.finish().await;
}
