//! The corpus of root file systems: each boots, runs commands as its users, pauses, resumes, is
//! saved as a template of its disk, and boots from that with everything that it had.
//!
//! A few rows run in `make test`, all of them in `make test-long`.

mod disks;
mod rows;

use std::panic::AssertUnwindSafe;
use std::path::Path;

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use host_rpc as rpc;
use model::SandboxId;

use crate::agent::{Agent, shell, spec};
use crate::image_files::make_image;

/// Rows of `make test`: the kinds of which the guest agent knows something.
const SAMPLE: [&str; 3] = ["proc-and-run-links", "all-odd", "full-immutable"];

/// A root file system, and what holds in it.
pub struct Row {
    pub name: &'static str,
    /// Options of mke2fs.
    pub options: &'static [&'static str],
    pub fill: fn(&Path),
    /// Changes the finished image.
    pub change: fn(&Path),
    /// A static program in it that is a shell, too.
    pub program: &'static str,
    /// Users, each with its uid, gid, home and working directory.
    pub users: &'static [(&'static str, &'static str)],
    /// Scripts of root, `$0` in which is the program, and what they say: at first, after a resume,
    /// and in a sandbox made of its disk.
    pub facts: &'static [(&'static str, &'static str)],
}

impl Row {
    async fn check(&self, agent: &Agent) {
        let id = self.create(agent, self.name).await;
        for (user, expected) in self.users {
            let script = "echo $($0 id -u 2> /dev/null) $($0 id -g 2> /dev/null) $HOME $(pwd)";
            let said = self.run(agent, &id, Some(user), script).await;
            assert_eq!(said, *expected, "{}: as {user}", self.name);
        }
        self.check_facts(agent, &id, "at first").await;
        agent.pause(&id).await.unwrap();
        agent.resume(&id).await.unwrap();
        self.check_facts(agent, &id, "after a resume").await;
        let saved = format!("{}.saved", self.name);
        agent.snapshot(&id, &saved, false).await.unwrap();
        agent.remove(&id).await;
        let id = self.create(agent, &saved).await;
        self.check_facts(agent, &id, "from its disk").await;
        agent.remove(&id).await;
        agent.remove_snapshot(&saved).await.unwrap();
    }

    async fn create(&self, agent: &Agent, template: &str) -> SandboxId {
        let id = SandboxId::random();
        let spec = rpc::SandboxSpec {
            template: template.into(),
            ..spec()
        };
        let created = agent.ensure(&id, spec).await;
        created.unwrap_or_else(|error| panic!("{template}: {error}"));
        id
    }

    async fn check_facts(&self, agent: &Agent, id: &SandboxId, when: &str) {
        for (script, expected) in self.facts {
            let said = self.run(agent, id, Some("root"), script).await;
            assert_eq!(said, *expected, "{} {when}: {script}", self.name);
        }
    }

    async fn run(&self, agent: &Agent, id: &SandboxId, user: Option<&str>, script: &str) -> String {
        let args = ["sh", "-c", script, self.program].map(str::to_owned);
        let request = rpc::ExecRequest {
            cmd: self.program.into(),
            args: args.into(),
            user: user.map(str::to_owned),
            ..shell(id, "")
        };
        let done = agent.exec(request).await;
        let done = done.unwrap_or_else(|error| panic!("{}: {script}: {error}", self.name));
        let name = self.name;
        assert_eq!(
            (done.code, done.stderr.as_str()),
            (0, ""),
            "{name}: {script}"
        );
        done.stdout.trim().to_owned()
    }
}

/// Returns all rows of the corpus.
pub fn rows() -> Vec<Row> {
    let mut all = rows::contents();
    all.extend(disks::disks());
    all
}

/// Checks rows beside each other, in one agent.
pub async fn check_all(rows: &[Row], at_once: usize) {
    let images = tempfile::tempdir().unwrap();
    for row in rows {
        let path = images.path().join(format!("{}.ext4", row.name));
        make_image(&path, 16, row.options, row.fill);
        (row.change)(&path);
    }
    let agent = Agent::start(&[("AGENT_IMAGES_PATH", images.path().to_str().unwrap())]).await;
    let checks = stream::iter(rows).map(async |row| {
        let checked = AssertUnwindSafe(row.check(&agent)).catch_unwind().await;
        (row.name, checked.is_ok())
    });
    let checked: Vec<_> = checks.buffer_unordered(at_once).collect().await;
    let failed = checked.iter().filter(|(_, is_ok)| !is_ok);
    let failed: Vec<_> = failed.map(|(name, _)| *name).collect();
    if failed.is_empty() {
        return agent.finish().await;
    }
    for report in agent.list().await {
        agent.remove(&report.sandbox_id.parse().unwrap()).await;
    }
    panic!("rows that failed, as told above: {failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sample_of_root_file_systems_works() {
    let mut sample = rows();
    sample.retain(|row| SAMPLE.contains(&row.name));
    assert_eq!(sample.len(), SAMPLE.len());
    check_all(&sample, 1).await;
}
