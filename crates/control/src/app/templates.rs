//! What sandboxes can be created from.

use std::sync::Arc;

use host_rpc as rpc;

use super::App;
use crate::error::Result;
use crate::hosts::Host;

impl App {
    /// Templates of every host that answers, by name, each once.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn templates(&self) -> Result<Vec<rpc::Template>> {
        let mut found: Vec<_> = self.templates_on_hosts().await?.into_iter().map(|(_, template)| template).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    /// The same with the host that each is on, and all of them.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn templates_on_hosts(&self) -> Result<Vec<(Arc<Host>, rpc::Template)>> {
        let hosts = self.hosts.all();
        let ask = |host: &Arc<Host>| {
            let host = Arc::clone(host);
            async move { host.list_templates(rpc::ListTemplatesRequest::default()).await }
        };
        let answers = futures::future::join_all(hosts.iter().map(ask)).await;
        let (mut found, mut failure, mut answered) = (Vec::new(), None, hosts.is_empty());
        for (host, answer) in hosts.iter().zip(answers) {
            match answer {
                Ok(list) => {
                    answered = true;
                    found.extend(list.templates.into_iter().map(|template| (Arc::clone(host), template)));
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure.filter(|_| !answered) {
            Some(failure) => Err(failure),
            None => Ok(found),
        }
    }
}
