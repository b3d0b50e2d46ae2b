//! Whose sandboxes they are, and what becomes of them. See the crate's page for the states.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use client::types::{CreateSandbox, Sandbox, UpdateSandbox};
use client::{Client, Error};
use parking_lot::Mutex;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::failure::{Answer, Failure};

/// Label of the sandboxes of sessions, for people who find one. Its value is [`TEMPORARY`].
pub const LABEL: &str = "mcp";
pub const TEMPORARY: &str = "temporary";

/// Time after which a sandbox ends that is not kept, also where its session did not end in order.
pub const LIFETIME: Duration = Duration::hours(24);

/// Number of sandboxes of a session that are not ended at the same time.
const DELETES_AT_A_TIME: usize = 4;

/// Who calls over HTTP.
#[derive(Clone)]
pub struct Caller {
    /// Address of the API.
    pub url: String,
    pub key: String,
    /// Id of the key. A session answers the key that began it, and no other.
    pub id: String,
}

/// Without the key.
impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A caller that was let in.
#[derive(Debug)]
struct Admitted {
    client: Client,
    /// Id of the key; `None` for the user of a program.
    key_id: Option<String>,
}

/// What a session is given at its start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Sandboxes that are there already, by name or id.
    pub attached: Vec<String>,
    /// Template where `create_sandbox` names none.
    pub template: Option<String>,
    /// Sandboxes stay when the session ends.
    pub keep: bool,
}

/// A session, or a single request of a client that has none.
#[derive(Debug, Default)]
pub struct Session {
    caller: OnceLock<Admitted>,
    options: Options,
    /// Whether requests belong together.
    has_memory: OnceLock<bool>,
    sandboxes: Mutex<Sandboxes>,
    /// Held while a file is read, changed and written.
    pub(crate) edits: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Sandboxes {
    /// By id.
    known: BTreeSet<String>,
    /// Those of `known` that are deleted at the end.
    temporary: BTreeSet<String>,
}

impl Session {
    /// Creates a session whose caller is known: that of a program.
    #[must_use]
    pub fn of_program(client: Client, options: Options) -> Self {
        let caller = Admitted {
            client,
            key_id: None,
        };
        Self {
            caller: caller.into(),
            options,
            has_memory: true.into(),
            sandboxes: Mutex::default(),
            edits: tokio::sync::Mutex::default(),
        }
    }

    /// Notes that requests of this session belong together.
    pub fn begin(&self) {
        let _ = self.has_memory.set(true);
    }

    /// Lets in a caller: anybody at first, and then this one alone.
    ///
    /// # Errors
    /// The session is another key's.
    pub fn admit(&self, caller: &Caller) -> Answer<()> {
        if self.caller.get().is_none() {
            let admitted = Admitted {
                client: Client::new_without_proxy(&caller.url, &caller.key)?,
                key_id: Some(caller.id.clone()),
            };
            // Of two first requests one wins; the other one is compared with it.
            let _ = self.caller.set(admitted);
        }
        let begun_by = self.caller.get().and_then(|begun| begun.key_id.as_ref());
        if begun_by == Some(&caller.id) {
            return Ok(());
        }
        Err(Failure::new(
            "this session was begun with another API key; begin one of your own",
        ))
    }

    /// Returns the client with the caller's key.
    pub fn client(&self) -> Answer<&Client> {
        let caller = self.caller.get();
        caller
            .map(|caller| &caller.client)
            .ok_or_else(|| Failure::new("no API key came with this request"))
    }

    /// Whether requests belong together.
    pub fn has_memory(&self) -> bool {
        self.has_memory.get().is_some_and(|begun| *begun)
    }

    /// Makes the sandboxes of the options known.
    ///
    /// # Errors
    /// There is no such sandbox; the server's.
    pub async fn attach_given(&self) -> Result<(), Error> {
        let Some(caller) = self.caller.get() else {
            return Ok(());
        };
        for name in &self.options.attached {
            let sandbox = caller.client.get(name).await?;
            self.sandboxes.lock().known.insert(sandbox.id);
        }
        Ok(())
    }

    /// Creates a sandbox of this session.
    pub async fn create(&self, mut spec: CreateSandbox, keep: bool) -> Answer<Sandbox> {
        let keep = keep || self.options.keep;
        spec.template = spec.template.or_else(|| self.options.template.clone());
        if !keep {
            spec.labels.insert(LABEL.to_owned(), TEMPORARY.to_owned());
            spec.ends_at = Some(end_of_life()?);
        }
        let sandbox = self.client()?.create(&spec).await?;
        self.note(&sandbox.id, keep);
        Ok(sandbox)
    }

    /// Notes a sandbox that came into being in this session.
    pub fn note(&self, id: &str, keep: bool) {
        let mut sandboxes = self.sandboxes.lock();
        sandboxes.known.insert(id.to_owned());
        if !keep {
            sandboxes.temporary.insert(id.to_owned());
        }
    }

    /// Whether a new sandbox of this session is deleted at its end unless it is kept.
    pub fn keeps_all(&self) -> bool {
        self.options.keep
    }

    /// Lets the session use a sandbox that it did not create.
    pub async fn attach(&self, name: &str) -> Answer<Sandbox> {
        let sandbox = self.client()?.get(name).await?;
        self.sandboxes.lock().known.insert(sandbox.id.clone());
        Ok(sandbox)
    }

    /// Keeps a sandbox beyond the session, and beyond its end.
    pub async fn keep(&self, id: &str) -> Answer<Sandbox> {
        let change = UpdateSandbox {
            ends_at: Some(None),
            labels: BTreeMap::from([(LABEL.to_owned(), None)]),
            ..UpdateSandbox::default()
        };
        // Before the request: the session may end meanwhile.
        let was_temporary = self.sandboxes.lock().temporary.remove(id);
        let kept = self.client()?.update(id, &change).await;
        if kept.is_err() && was_temporary {
            self.sandboxes.lock().temporary.insert(id.to_owned());
        }
        Ok(kept?)
    }

    /// Gives temporary sandboxes, as those of a fork, the end that [`Session::create`] gives.
    pub async fn limit_life(&self, id: &str) -> Answer<Sandbox> {
        let change = UpdateSandbox {
            ends_at: Some(Some(end_of_life()?)),
            labels: BTreeMap::from([(LABEL.to_owned(), Some(TEMPORARY.to_owned()))]),
            ..UpdateSandbox::default()
        };
        Ok(self.client()?.update(id, &change).await?)
    }

    /// Deletes a sandbox of this session.
    pub async fn delete(&self, id: &str) -> Answer<()> {
        match self.client()?.delete(id).await {
            // Somebody else did it: that is no reason to keep it in mind.
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        let mut sandboxes = self.sandboxes.lock();
        sandboxes.known.remove(id);
        sandboxes.temporary.remove(id);
        Ok(())
    }

    /// Returns the id of the sandbox that a tool was given, or of the only one there is.
    ///
    /// # Errors
    /// It is not of this session; none or several could be meant.
    pub async fn resolve(&self, given: Option<&str>) -> Answer<String> {
        let Some(name) = given.filter(|name| !name.is_empty()) else {
            return self.only();
        };
        if !self.has_memory() || self.sandboxes.lock().known.contains(name) {
            return Ok(name.to_owned());
        }
        let sandbox = self.client()?.get(name).await?;
        if self.sandboxes.lock().known.contains(&sandbox.id) {
            return Ok(sandbox.id);
        }
        Err(Failure::new(format!(
            "{name} is not a sandbox of this session; use attach_sandbox first if the user asked for that one"
        )))
    }

    fn only(&self) -> Answer<String> {
        let known = self.ids();
        match known.as_slice() {
            [only] => Ok(only.clone()),
            [] if self.has_memory() => Err(Failure::new(
                "there is no sandbox in this session yet; create one with create_sandbox",
            )),
            [] => Err(Failure::new(
                "say which sandbox: the id that create_sandbox answered with",
            )),
            several => Err(Failure::new(format!(
                "say which sandbox: there are {}",
                several.join(", ")
            ))),
        }
    }

    /// Returns the ids of the sandboxes of this session.
    pub fn ids(&self) -> Vec<String> {
        self.sandboxes.lock().known.iter().cloned().collect()
    }

    /// Whether `id` is deleted at the end of this session.
    pub fn is_temporary(&self, id: &str) -> bool {
        self.sandboxes.lock().temporary.contains(id)
    }

    /// Deletes what is temporary. What cannot be deleted now ends by itself later.
    pub async fn end(&self) {
        let temporary = std::mem::take(&mut self.sandboxes.lock().temporary);
        if let Some(caller) = self.caller.get() {
            delete_all(caller.client.clone(), temporary).await;
        }
    }
}

/// The end of an HTTP session.
impl Drop for Session {
    fn drop(&mut self) {
        let temporary = std::mem::take(&mut self.sandboxes.get_mut().temporary);
        let (Some(caller), true) = (self.caller.take(), self.has_memory()) else {
            return;
        };
        if temporary.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(delete_all(caller.client, temporary));
        }
    }
}

async fn delete_all(client: Client, ids: BTreeSet<String>) {
    use futures::StreamExt;

    let deletes = futures::stream::iter(ids).map(|id| {
        let client = client.clone();
        async move {
            let deleted = delete_temporary(&client, &id).await;
            if let Err(error) = deleted
                && !error.is_not_found()
            {
                tracing::warn!(sandbox = id, %error, "a sandbox of an ended MCP session stays until its own end");
            }
        }
    });
    deletes
        .buffer_unordered(DELETES_AT_A_TIME)
        .collect::<()>()
        .await;
}

/// Deletes a sandbox unless somebody has kept it since.
async fn delete_temporary(client: &Client, id: &str) -> Result<(), Error> {
    let sandbox = client.get(id).await?;
    match sandbox.labels.get(LABEL) {
        Some(value) if value == TEMPORARY => client.delete(id).await,
        _ => Ok(()),
    }
}

fn end_of_life() -> Answer<String> {
    let end = OffsetDateTime::now_utc() + LIFETIME;
    end.replace_nanosecond(0)
        .ok()
        .and_then(|end| end.format(&Rfc3339).ok())
        .ok_or_else(|| Failure::new("the clock of this machine is wrong"))
}
