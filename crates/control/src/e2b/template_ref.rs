//! References to templates: `name`, `name:tag`, `namespace/name:tag`, or the id of a snapshot, which is
//! its name here. A template has one version, so its only tags are `default` and `latest`.

use model::TemplateName;

use super::error::{Failure, Result};

/// Template of clients that name none. Where there is no template of that name it stands for the
/// default one.
pub const BASE: &str = "base";
const TAGS: [&str; 2] = ["default", "latest"];

/// Reference to a template, checked for its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRef {
    pub name: TemplateName,
    pub has_tag: bool,
}

impl TemplateRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// 404 with what is missing: no name that is not valid can exist.
    pub fn parse(text: &str) -> Result<Self> {
        let bare = text.rsplit_once('/').map_or(text, |(_, bare)| bare);
        let (name, tag) = match bare.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (bare, None),
        };
        if let Some(tag) = tag.filter(|tag| !TAGS.contains(tag)) {
            let (name, tag) = (shortened(name), shortened(tag));
            let text = format!(
                "tag '{tag}' does not exist for template '{name}': templates of this server have the tag 'default' alone"
            );
            return Err(Failure::new(http::StatusCode::NOT_FOUND, text));
        }
        let name = name.parse().map_err(|_| missing(text))?;
        Ok(Self {
            name,
            has_tag: tag.is_some(),
        })
    }
}

/// Creates the failure for a template that is not there.
pub fn missing(reference: &str) -> Failure {
    let reference = shortened(reference);
    let text = format!(
        "template '{reference}' does not exist; `wrenn templates` lists those of this server"
    );
    Failure::new(http::StatusCode::NOT_FOUND, text)
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        let parsed = TemplateRef::parse(text).ok()?;
        Some(parsed.name.to_string())
    }

    #[test]
    fn references_have_one_version() {
        for text in ["a-1", "a-1:default", "a-1:latest", "team/a-1:default"] {
            assert_eq!(name(text).as_deref(), Some("a-1"), "{text}");
        }
        for text in ["", ":default", "a:", "a:v1", "A", "a/", "a:default:default"] {
            assert_eq!(name(text), None, "{text}");
        }
        assert!(TemplateRef::parse("a:latest").unwrap().has_tag);
    }
}
