//! Who asks, and what may be heard.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_types::{NetworkRules, Sandbox};
use client::{Client, Error};

use super::known::{Known, PAUSED, RUNNING, Register, Time};
use super::plan::{Kind, Operation, Question};
use super::scene::Scene;
use crate::support::Plane;

/// Every question is answered within that time.
const PATIENCE: Duration = Duration::from_secs(60);
/// The file that has the content of a sandbox.
pub const PATH: &str = "/tmp/value";

/// Somebody who asks one thing after another.
pub struct User {
    pub scene: Arc<Scene>,
    pub rest: Client,
    pub url: String,
    pub http: reqwest::Client,
    pub kind: Kind,
    name: usize,
    /// When they hang up this time.
    patience: Option<Duration>,
}

/// What was heard.
pub enum Answer<T> {
    Done(T),
    Refused(Error),
    /// It may have happened, or may yet.
    Nothing,
}

/// Which register of a sandbox.
pub type Which = fn(&mut Known) -> &mut Register;

pub const POWER: Which = |known| &mut known.power;
pub const NETWORK: Which = |known| &mut known.network;
pub const CONTENT: Which = |known| &mut known.content;

/// A look at a sandbox that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub from: Time,
    /// It was said to be gone before.
    pub gone: bool,
}

pub fn rules(value: u64) -> NetworkRules {
    if value == 0 {
        return NetworkRules::default();
    }
    let allow_out = vec![format!("n{value}.example.com")];
    NetworkRules {
        allow_out,
        allow_internet: false,
        ..NetworkRules::default()
    }
}

/// Which rules these are; none of ours otherwise.
pub fn value_of(rules: &NetworkRules) -> Option<u64> {
    let Some(entry) = rules.allow_out.first() else {
        return (*rules == NetworkRules::default()).then_some(0);
    };
    entry
        .strip_prefix('n')?
        .strip_suffix(".example.com")?
        .parse()
        .ok()
}

/// Content as it lies on hosts.
pub fn content_of(files: &std::collections::BTreeMap<String, Vec<u8>>) -> u64 {
    files.get(PATH).map_or(0, |text| {
        String::from_utf8_lossy(text)
            .parse()
            .expect("a number that was written")
    })
}

/// Whether the refusal leaves open what became of the request. What is being deleted is not there
/// for users, and can have done before what it was told.
pub fn is_open(error: &Error) -> bool {
    error.is_not_found() || is_failure(error)
}

fn is_failure(error: &Error) -> bool {
    matches!(
        error.code(),
        Some("host_unavailable" | "timeout" | "agent_error")
    )
}

impl User {
    pub fn new(scene: &Arc<Scene>, plane: &Plane, name: usize, kind: Kind) -> Self {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("x-api-key", plane.key.parse().unwrap());
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .build()
            .unwrap();
        let scene = Arc::clone(scene);
        let rest = plane.client();
        let url = plane.url.clone();
        Self {
            scene,
            rest,
            url,
            http,
            kind,
            name,
            patience: None,
        }
    }

    pub fn tell(&self, line: &str) {
        self.scene.tell(format!("{}: {line}", self.name));
    }

    pub async fn ask(mut self, questions: Vec<Question>) {
        for question in questions {
            if self.scene.is_dead.load(Ordering::SeqCst) {
                return;
            }
            self.scene
                .progress
                .send_modify(|progress| progress.questions += 1);
            self.patience = question.patience;
            Box::pin(self.one(question)).await;
        }
    }

    async fn one(&self, question: Question) {
        let Question { what, pick, .. } = question;
        match what {
            Operation::Create { key, auto_resume } => return self.create(key, auto_resume).await,
            Operation::CreateFrom { name } => return self.create_from(name).await,
            Operation::RemoveSnapshot { name } => return self.remove_snapshot(name).await,
            Operation::RemoveListed => return self.remove_listed(pick).await,
            Operation::ForkAgain => return self.fork_again(pick).await,
            _ => {}
        }
        let Some(id) = self.pick(pick) else {
            return self.create(None, true).await;
        };
        match what {
            Operation::Pause => self.power(&id, PAUSED).await,
            Operation::Resume => self.power(&id, RUNNING).await,
            Operation::SetNetwork => self.set_network(&id).await,
            Operation::Write => self.write(&id).await,
            Operation::Read => self.read(&id).await,
            Operation::Fork { key, count } => self.fork(&id, key, count).await,
            Operation::Snapshot {
                name,
                memory,
                overwrite,
            } => self.snapshot(&id, name, memory, overwrite).await,
            Operation::Checkpoint => self.checkpoint(&id).await,
            Operation::RemoveCheckpoint => self.remove_checkpoint(&id).await,
            Operation::RollBack => self.roll_back(&id).await,
            Operation::Remove => self.remove(&id).await,
            _ => self.look(&id).await,
        }
    }

    /// Mostly of the same few, so that requests meet.
    fn pick(&self, pick: u64) -> Option<String> {
        let model = self.scene.model();
        let there: Vec<&String> = model
            .sandboxes
            .iter()
            .filter(|(_, known)| !known.removed)
            .map(|(id, _)| id)
            .collect();
        let few = if pick.is_multiple_of(3) {
            there.len()
        } else {
            there.len().min(2)
        };
        let index = usize::try_from(pick / 3).ok()?.checked_rem(few)?;
        there.get(index).map(|id| (*id).clone())
    }

    /// Asks, until there is an answer or nobody waits for it any more.
    pub async fn asked<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Answer<T> {
        let answer = match tokio::time::timeout(self.patience.unwrap_or(PATIENCE), request).await {
            Ok(answer) => answer,
            Err(_) => {
                match self.patience {
                    Some(_) => self.tell(&format!("{what}: hung up")),
                    None => self.scene.violation(format!("stuck: {what}")),
                }
                return Answer::Nothing;
            }
        };
        match answer {
            Ok(answer) => {
                self.tell(&format!("{what}: done"));
                Answer::Done(answer)
            }
            Err(error @ Error::Api { .. }) => {
                self.tell(&format!(
                    "{what}: {}: {error}",
                    error.code().unwrap_or_default()
                ));
                Answer::Refused(error)
            }
            Err(error) => {
                self.tell(&format!("{what}: {error:?}"));
                if !self.scene.is_dead.load(Ordering::SeqCst) && !self.kind.faults {
                    self.scene.violation(format!("{what}: {error:?}"));
                }
                Answer::Nothing
            }
        }
    }

    pub fn begin(&self, id: &str) -> Option<Look> {
        self.scene.note(id, |known, from| Look {
            from,
            gone: known.removed,
        })
    }

    pub fn change(&self, id: &str, which: Which, value: u64) -> Option<usize> {
        self.scene
            .note(id, |known, now| which(known).begin(value, now))
    }

    pub fn changed<T>(&self, id: &str, which: Which, change: usize, answer: &Answer<T>) {
        self.scene.note(id, |known, now| match answer {
            Answer::Done(_) => which(known).came_about(change, now),
            Answer::Refused(error) if !is_open(error) => which(known).never(change),
            Answer::Refused(_) | Answer::Nothing => {}
        });
    }

    /// An answer that shows the sandbox.
    pub fn heard(&self, what: &str, id: &str, look: Look, answer: Answer<Sandbox>) {
        let sandbox = match answer {
            Answer::Done(sandbox) => sandbox,
            Answer::Refused(error) => return self.judge(what, id, &error),
            Answer::Nothing => return,
        };
        let value = value_of(&sandbox.network);
        self.scene.note(id, |known, now| {
            if look.gone || sandbox.id != id {
                self.scene.violation(format!(
                    "{what} {id} is answered with {}, which is gone",
                    sandbox.id
                ));
            }
            if !value.is_some_and(|value| known.network.may_be(value, look.from, now)) {
                let may_be = known.network.seen(look.from, now);
                self.scene.violation(format!(
                    "{what} {id}: rules {value:?}, and there may be {may_be:?}"
                ));
            }
        });
    }

    /// Whether a refusal may be.
    pub fn judge(&self, what: &str, id: &str, error: &Error) {
        let Some(known) = self.scene.model().sandboxes.get(id).cloned() else {
            return;
        };
        let is_fine = match error.code() {
            Some("not_found") => !known.is_alive(),
            Some("invalid_state") => {
                !known.is_alive() || !known.auto_resume && ["read", "write"].contains(&what)
            }
            _ => self.is_bad_luck(error),
        };
        if !is_fine {
            self.scene
                .violation(format!("{what} {id}: {error:?}; {known:?}"));
        }
    }

    /// What the weather over the hosts explains.
    pub fn is_bad_luck(&self, error: &Error) -> bool {
        self.kind.faults && (is_failure(error) || error.code() == Some("insufficient_storage"))
    }
}
