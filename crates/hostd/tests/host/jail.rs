//! Two sandboxes beside each other: whose VMM is who, and sees what.

use std::fs;
use std::path::{Path, PathBuf};

use linux::process::{self, Process};
use model::SandboxId;

use crate::agent::Agent;

const UID_BASE: u32 = 1_900_000_000;

fn vmm_of(agent: &Agent, id: &SandboxId) -> Process {
    let dir = agent
        .dir
        .path()
        .join("sandboxes")
        .join(id.as_str())
        .into_os_string()
        .into_encoded_bytes();
    let names = |cmdline: &[u8]| cmdline.windows(dir.len()).any(|window| window == dir);
    let mut found = process::find(names).unwrap();
    assert_eq!(found.len(), 1, "processes of {id}");
    found.remove(0)
}

fn read(process: &Process, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", process.pid())).unwrap()
}

fn user(process: &Process) -> u32 {
    let status = read(process, "status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap();
    line.split_ascii_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Where the group of version 2 is, if this machine has that.
fn group(process: &Process) -> Option<PathBuf> {
    let (root, _) = linux::cgroup::find_hierarchy().unwrap()?;
    let groups = read(process, "cgroup");
    let path = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    Some(root.join(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_different_users_that_see_nothing_of_each_other() {
    let agent = Agent::start(&[("AGENT_UID_BASE", &UID_BASE.to_string())]).await;
    let ids = [agent.create().await, agent.create().await];
    let vmms = [vmm_of(&agent, &ids[0]), vmm_of(&agent, &ids[1])];
    let users = [user(&vmms[0]), user(&vmms[1])];
    assert_ne!(users[0], users[1]);
    let groups = [group(&vmms[0]), group(&vmms[1])];
    for (number, (vmm, user)) in vmms.iter().zip(users).enumerate() {
        let slot = user.checked_sub(UID_BASE).unwrap();
        assert!((1..=32_767).contains(&slot), "{user}");
        if let Some(group) = &groups[number] {
            assert!(
                group.ends_with(format!("wrenn/{slot}")),
                "{}",
                group.display()
            );
        }
        // Its own directory, and of that only what is shown.
        let seen = Path::new("/proc").join(vmm.pid().to_string()).join("root");
        let seen = seen
            .join(agent.dir.path().strip_prefix("/").unwrap())
            .join("sandboxes");
        let names: Vec<String> = names_in(&seen);
        assert_eq!(names, [ids[number].to_string()]);
        let own = names_in(&seen.join(ids[number].as_str()));
        let shown = [
            "base.ext4",
            "initramfs",
            "kernel",
            "modules.ext4",
            "root.ext4",
            "root.qcow2",
            "vm",
        ];
        assert!(
            own.iter().all(|name| shown.contains(&name.as_str())),
            "{own:?}"
        );
    }
    agent.remove(&ids[0]).await;
    assert!(groups[0].as_ref().is_none_or(|group| !group.exists()));
    assert!(groups[1].as_ref().is_none_or(|group| group.exists()));
    agent.remove(&ids[1]).await;
    assert!(groups[1].as_ref().is_none_or(|group| !group.exists()));
    agent.finish().await;
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
