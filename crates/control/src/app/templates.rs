//! Templates: base images, which all teams see, and snapshots of the caller's own team.

use std::sync::Arc;

use model::{Resource, TeamId};

use super::App;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts::{Host, Template};

/// Templates that a team sees, of the hosts that answer.
#[derive(Debug, Default)]
pub(super) struct FoundTemplates {
    pub(super) templates: Vec<(Arc<Host>, Template)>,
    /// Reason why a host did not answer.
    pub(super) unreachable: Option<Error>,
}

impl FoundTemplates {
    /// Returns the error for a template that was not found: a host that does not answer may have
    /// it.
    #[must_use]
    pub(super) fn missing(self, not_found: Error) -> Error {
        missing_unless(self.unreachable, not_found)
    }
}

/// Returns `not_found`, or that a host did not answer, which may have it.
pub(super) fn missing_unless(unreachable: Option<Error>, not_found: Error) -> Error {
    match unreachable {
        None => not_found,
        Some(error) => error.and(&format!("of the others: {}", not_found.message)),
    }
}

/// Returns true if a caller may see a template; `owner` is the team of the snapshot of that name.
///
/// A snapshot without an owner is one of before there were teams, or lost its row. Only operators
/// see it: they can use, delete or overwrite it, and to all others its name is taken.
pub(super) fn is_visible(
    template: &Template,
    principal: &Principal,
    owner: Option<&TeamId>,
) -> bool {
    if !template.is_snapshot() {
        return true;
    }
    match owner {
        Some(owner) => *owner == principal.team_id,
        None => principal.is_operator(),
    }
}

impl App {
    /// Returns the templates of every host that answers, by name, each once.
    ///
    /// # Errors
    /// If no host answers.
    pub async fn list_templates(&self, principal: &Principal) -> Result<Vec<Template>> {
        principal.require_read(Resource::Templates)?;
        self.sorted_templates(principal).await
    }

    pub(super) async fn sorted_templates(&self, principal: &Principal) -> Result<Vec<Template>> {
        let found = self.find_templates(principal).await?.templates;
        let mut templates: Vec<_> = found.into_iter().map(|(_, template)| template).collect();
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        templates.dedup_by(|a, b| a.name == b.name);
        Ok(templates)
    }

    /// Asks all hosts for their templates.
    ///
    /// # Errors
    /// If no host answers.
    pub(super) async fn find_templates(&self, principal: &Principal) -> Result<FoundTemplates> {
        let hosts = self.hosts.all();
        let answers = hosts.iter().map(|host| host.recent_templates());
        let answers = futures::future::join_all(answers).await;
        let owners = self.store.snapshot_owners().await?;
        let mut found = FoundTemplates::default();
        let mut has_answer = hosts.is_empty();
        for (host, answer) in hosts.iter().zip(answers) {
            match answer {
                Ok(templates) => {
                    has_answer = true;
                    let visible = templates.into_iter().filter(|template| {
                        is_visible(template, principal, owners.get(template.name.as_str()))
                    });
                    let visible = visible.map(|template| (Arc::clone(host), template));
                    found.templates.extend(visible);
                }
                Err(error) => found.unreachable = Some(error),
            }
        }
        match found.unreachable {
            Some(error) if !has_answer => Err(error),
            _ => Ok(found),
        }
    }
}
