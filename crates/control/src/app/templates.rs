//! What sandboxes can be created from.

use std::sync::Arc;

use host_rpc as rpc;

use super::App;
use crate::error::{Error, Result};
use crate::hosts::Host;

/// What the hosts have that answer.
#[derive(Debug, Default)]
pub struct OnHosts {
    pub templates: Vec<(Arc<Host>, rpc::Template)>,
    /// Why another host does not answer.
    silent: Option<Error>,
}

impl OnHosts {
    /// Why what was asked for is not here: a host that does not answer may have it.
    #[must_use]
    pub fn lack(self, not_found: Error) -> Error {
        lack(self.silent, not_found)
    }
}

/// The same for who has asked the hosts otherwise; `silent` is why one of them does not answer.
pub(super) fn lack(silent: Option<Error>, not_found: Error) -> Error {
    match silent {
        None => not_found,
        Some(silent) => silent.and(&format!("of the others: {}", not_found.message)),
    }
}

impl App {
    /// Templates of every host that answers, by name, each once.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn templates(&self) -> Result<Vec<rpc::Template>> {
        let mut found: Vec<_> = self
            .templates_on_hosts()
            .await?
            .templates
            .into_iter()
            .map(|(_, template)| template)
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    /// The same with the host that each is on, and all of them.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn templates_on_hosts(&self) -> Result<OnHosts> {
        let hosts = self.hosts.all();
        let ask = |host: &Arc<Host>| {
            let host = Arc::clone(host);
            async move {
                host.list_templates(rpc::ListTemplatesRequest::default())
                    .await
            }
        };
        let answers = futures::future::join_all(hosts.iter().map(ask)).await;
        let (mut found, mut answered) = (OnHosts::default(), hosts.is_empty());
        for (host, answer) in hosts.iter().zip(answers) {
            match answer {
                Ok(list) => {
                    answered = true;
                    found.templates.extend(
                        list.templates
                            .into_iter()
                            .map(|template| (Arc::clone(host), template)),
                    );
                }
                Err(error) => found.silent = Some(error),
            }
        }
        match found.silent {
            Some(silent) if !answered => Err(silent),
            _ => Ok(found),
        }
    }
}
