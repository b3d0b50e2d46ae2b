//! What users ask for that makes something: creates, forks and snapshots.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use api_types::{CreateSandbox, CreateSnapshot, ForkSandbox, Sandbox, SandboxStatus};
use client::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::known::{Fork, Known, Values, only};
use super::user::{Answer, User, is_open};

/// Variable in the environment of a sandbox that names the create that it comes from.
pub const TAG: &str = "TAG";

fn runs(sandbox: &Sandbox) -> bool {
    matches!(
        sandbox.status,
        SandboxStatus::Running | SandboxStatus::Paused
    )
}

impl User {
    /// Posts with an idempotency key, which the SDK has no word for.
    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let broken = |error: reqwest::Error| Error::Broken(Box::new(error));
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("idempotency-key", key)
            .json(body);
        let answer = request.send().await.map_err(broken)?;
        let status = answer.status();
        if status.is_success() {
            return answer.json().await.map_err(broken);
        }
        let body: serde_json::Value = answer.json().await.map_err(broken)?;
        let text = |field: &str| {
            body["error"][field]
                .as_str()
                .expect("an error body")
                .to_owned()
        };
        Err(Error::Api {
            status: status.as_u16(),
            code: text("code"),
            message: text("message"),
        })
    }

    pub async fn create(&self, key: Option<u64>, auto_resume: bool) {
        match key {
            None => {
                self.create_of(
                    None,
                    &CreateSandbox {
                        auto_resume: Some(auto_resume),
                        ..Default::default()
                    },
                )
                .await
            }
            Some(key) => self.create_with(&format!("key-{key}"), auto_resume).await,
        }
    }

    /// Whoever uses a key again asks for the same.
    pub async fn create_with(&self, key: &str, auto_resume: bool) {
        self.create_of(
            Some(key),
            &CreateSandbox {
                auto_resume: Some(auto_resume),
                ..Default::default()
            },
        )
        .await;
    }

    pub async fn create_from(&self, name: u64) {
        let template = Some(format!("s{name}"));
        self.create_of(
            None,
            &CreateSandbox {
                template,
                ..Default::default()
            },
        )
        .await;
    }

    async fn create_of(&self, key: Option<&str>, spec: &CreateSandbox) {
        let tag = key.map_or_else(|| format!("t{}", self.scene.fresh()), str::to_owned);
        let envs = [(TAG.to_owned(), tag.clone())].into();
        let spec = CreateSandbox {
            envs,
            ..spec.clone()
        };
        let (from, gone, was_there) = {
            let mut model = self.scene.model();
            let was_there = spec
                .template
                .as_ref()
                .is_none_or(|name| model.published.contains(name));
            (model.tick(), model.gone(), was_there)
        };
        let what = format!(
            "create {tag} of {}",
            spec.template.as_deref().unwrap_or("minimal")
        );
        let answer = match key {
            None => self.asked(&what, self.rest.create(&spec)).await,
            Some(key) => {
                self.asked(&what, self.post("/v1/sandboxes", key, &spec))
                    .await
            }
        };
        match answer {
            Answer::Done(sandbox) => {
                let content = match &spec.template {
                    Some(name) => self.scene.model().of_snapshot(name),
                    None => only(0),
                };
                let known = |now| Known {
                    auto_resume: spec.auto_resume != Some(false),
                    ..Known::new(&tag, only(0), content, (from, now))
                };
                self.made(key, &[sandbox], &gone, known);
            }
            Answer::Refused(error) => {
                self.judge_create(&tag, key, was_there && self.has_template(&spec), &error)
            }
            Answer::Nothing => self.scene.model().unanswered.push((tag, 1)),
        }
    }

    /// These were said to be there; `gone` were when it was asked.
    fn made(
        &self,
        key: Option<&str>,
        sandboxes: &[Sandbox],
        gone: &BTreeSet<String>,
        known: impl FnOnce(u64) -> Known,
    ) {
        let ids: Vec<String> = sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        self.tell(&format!("  made {ids:?}"));
        let mut model = self.scene.model();
        let now = model.tick();
        let known = known(now);
        for sandbox in sandboxes {
            let id = &sandbox.id;
            let removing = model.deleted_unseen.contains(id);
            let known = model.sandboxes.entry(id.clone()).or_insert_with(|| Known {
                removing,
                ..known.clone()
            });
            (known.certain, known.found) = (true, false);
            if !runs(sandbox) && known.is_alive() {
                self.scene.violation(format!(
                    "{id} is made and {:?}: {:?}",
                    sandbox.status, sandbox.reason
                ));
            }
            if gone.contains(id) {
                self.scene
                    .violation(format!("{id} is gone, and an answer shows it"));
            }
        }
        if let Some(key) = key
            && let Some(wrong) = model.answered(key, &ids)
        {
            self.scene.violation(wrong);
        }
    }

    /// Whether what it is to be made of is promised.
    fn has_template(&self, spec: &CreateSandbox) -> bool {
        spec.template
            .as_ref()
            .is_none_or(|name| self.sees_all_hosts() && self.scene.model().published.contains(name))
    }

    fn judge_create(&self, tag: &str, key: Option<&str>, has_template: bool, error: &Error) {
        let has_meddled = self.scene.has_meddled.load(Ordering::SeqCst);
        let is_fine = match error.code() {
            Some("not_found") => !has_template || has_meddled,
            Some("conflict") => {
                key.is_some_and(|key| self.is_being_removed(key, key)) || has_meddled
            }
            _ => self.is_bad_luck(error),
        };
        if !is_fine {
            self.scene.violation(format!("create {tag}: {error:?}"));
        }
    }

    /// Whether something that came from the key, or may have, is on its way out or gone: it has the
    /// tag, and if nobody was told of it, it was found.
    fn is_being_removed(&self, key: &str, tag: &str) -> bool {
        let model = self.scene.model();
        let mut before = model.answers.get(key).into_iter().flatten().flatten();
        let mut found = model
            .sandboxes
            .values()
            .filter(|known| known.found && known.tag == tag);
        // What failed while its host was away is removed later.
        self.kind.faults
            || before.any(|id| model.sandboxes.get(id).is_some_and(|known| known.removing))
            || found.any(|known| known.removing)
            || !model.deleted_unseen.is_empty()
    }

    pub async fn fork_again(&self, pick: u64) {
        let fork = {
            let model = self.scene.model();
            let index = usize::try_from(pick)
                .unwrap()
                .checked_rem(model.forks.len());
            index
                .and_then(|index| model.forks.iter().nth(index))
                .map(|(key, (fork, _))| (key.clone(), fork.clone()))
        };
        let Some((key, Fork { source, count })) = fork else {
            return;
        };
        self.fork_with(&source, Some(key), count).await;
    }

    pub async fn fork(&self, id: &str, key: Option<u64>, count: u32) {
        self.fork_with(id, key.map(|key| format!("fork-{key}-{count}-{id}")), count)
            .await;
    }

    async fn fork_with(&self, id: &str, key: Option<String>, count: u32) {
        let (from, gone) = {
            let mut model = self.scene.model();
            let now = model.tick();
            let fork = Fork {
                source: id.to_owned(),
                count,
            };
            // The children may be those of an earlier instant.
            let from = key.as_ref().map_or(now, |key| {
                model.forks.entry(key.clone()).or_insert((fork, now)).1
            });
            (from, model.gone())
        };
        let what = format!("fork {count} of {id} with {key:?}");
        let path = format!("/v1/sandboxes/{id}/fork");
        let answer = match &key {
            None => self.asked(&what, self.rest.fork(id, count)).await,
            Some(key) => {
                self.asked(
                    &what,
                    self.post(&path, key, &ForkSandbox { count: Some(count) }),
                )
                .await
            }
        };
        let Some(source) = self.scene.model().sandboxes.get(id).cloned() else {
            return;
        };
        match answer {
            Answer::Done(children) => {
                if children.len() != count as usize {
                    self.scene
                        .violation(format!("{} children of {id}, not {count}", children.len()));
                }
                let seen = |now| {
                    let network = source.network.seen(from, now);
                    let content = source.content.seen(from, now);
                    Known {
                        auto_resume: source.auto_resume,
                        ..Known::new(&source.tag, network, content, (from, now))
                    }
                };
                self.made(key.as_deref(), &children, &gone, seen);
            }
            Answer::Refused(error) => self.judge_fork((id, &source.tag), key.as_deref(), &error),
            Answer::Nothing => self
                .scene
                .model()
                .unanswered
                .push((source.tag, count as usize)),
        }
    }

    fn judge_fork(&self, (id, tag): (&str, &str), key: Option<&str>, error: &Error) {
        let has_meddled = self.scene.has_meddled.load(Ordering::SeqCst);
        let is_removed = key.is_some_and(|key| self.is_being_removed(key, tag));
        // A child went, while it was made or since.
        if !(["conflict", "not_found"].map(Some).contains(&error.code())
            && (has_meddled || is_removed))
        {
            self.judge("fork", id, error);
        }
    }

    pub async fn snapshot(&self, id: &str, name: u64, memory: bool, overwrite: bool) {
        let name = format!("s{name}");
        let (from, version) = {
            let mut model = self.scene.model();
            let from = model.tick();
            let versions = model.snapshots.entry(name.clone()).or_default();
            versions.push(None);
            (from, versions.len() - 1)
        };
        let body = CreateSnapshot {
            sandbox_id: id.to_owned(),
            name: Some(name.clone()),
            memory: Some(memory),
            overwrite: Some(overwrite),
        };
        let answer = self
            .asked(
                &format!("snapshot {name} of {id}"),
                self.rest.create_snapshot(&body),
            )
            .await;
        let values = self
            .scene
            .note(id, |known, now| known.content.seen(from, now));
        let is_version =
            |values: Values| self.scene.model().snapshots.get_mut(&name).unwrap()[version] = values;
        match answer {
            Answer::Done(_) => {
                is_version(values.flatten());
                let mut model = self.scene.model();
                if model
                    .removals
                    .get(&name)
                    .is_none_or(|(ongoing, last)| *ongoing == 0 && *last < from)
                {
                    model.published.insert(name);
                }
            }
            Answer::Refused(error) => {
                if !is_open(&error) {
                    is_version(Some([].into()));
                }
                // Or the name is taken, or what has it is in use.
                if error.code() != Some("conflict") {
                    self.judge("snapshot", id, &error);
                }
            }
            Answer::Nothing => {}
        }
    }

    pub async fn remove_snapshot(&self, name: u64) {
        let name = format!("s{name}");
        let was_published = {
            let mut model = self.scene.model();
            model.removals.entry(name.clone()).or_default().0 += 1;
            model.published.remove(&name)
        };
        match self
            .asked(
                &format!("remove snapshot {name}"),
                self.rest.delete_snapshot(&name),
            )
            .await
        {
            Answer::Nothing => return,
            // It goes on.
            Answer::Refused(error) if self.is_bad_luck(&error) => return,
            Answer::Refused(error)
                if error.is_not_found() && !(was_published && self.sees_all_hosts()) => {}
            Answer::Refused(error) if error.code() != Some("conflict") => {
                self.scene
                    .violation(format!("remove snapshot {name}: {error:?}"));
            }
            Answer::Done(()) | Answer::Refused(_) => {}
        }
        let mut model = self.scene.model();
        let now = model.tick();
        let (ongoing, last) = model.removals.entry(name).or_default();
        (*ongoing, *last) = (*ongoing - 1, now);
    }

    /// Templates are those of the hosts that answer.
    fn sees_all_hosts(&self) -> bool {
        self.kind.hosts == 1 || !self.kind.faults
    }
}
