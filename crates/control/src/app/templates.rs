//! What sandboxes can be created from.

use host_rpc::ListTemplatesRequest;

use super::App;
use crate::error::Result;

/// Something that sandboxes boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub name: String,
    pub size_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl App {
    /// Templates of every host that answers, by name, each once.
    ///
    /// # Errors
    /// When no host answers.
    pub async fn templates(&self) -> Result<Vec<Template>> {
        let hosts = self.hosts.all();
        let answers =
            futures::future::join_all(hosts.iter().map(|host| host.list_templates(ListTemplatesRequest::default())));
        let (mut found, mut failure, mut answered) = (Vec::new(), None, hosts.is_empty());
        for answer in answers.await {
            match answer {
                Ok(list) => {
                    answered = true;
                    found.extend(list.templates);
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(failure) = failure.filter(|_| !answered) {
            return Err(failure);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        let template = |template: host_rpc::Template| Template {
            name: template.name,
            size_bytes: template.size_bytes,
            created_at: template.created_at_ms,
        };
        Ok(found.into_iter().map(template).collect())
    }
}
