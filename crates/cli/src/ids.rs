//! Names and shortened ids of sandboxes.

use client::Client;

/// Characters of a whole id: `sb-` and 20 more.
const FULL_LEN: usize = 23;

/// Candidates that an error names.
const SHOWN: usize = 8;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "{0:?} is no id or name of a sandbox: ids are sb- and letters a-z and digits, names have '-' as well; \
         `wrenn ls --all` lists them"
    )]
    Malformed(String),

    #[error(
        "no sandbox has the name {0:?} or an id that begins with it; `wrenn ls --all` lists them"
    )]
    NoMatch(String),

    #[error("{prefix:?} is the beginning of {count} sandboxes: {shown}; type more of the id")]
    Ambiguous {
        prefix: String,
        count: usize,
        shown: String,
    },
}

/// Returns the whole id. Asks the server only when `text` is a name or is shortened. A living
/// sandbox of that name wins over ids that begin with it: whoever gave the name means it.
pub async fn resolve_id(client: &Client, text: &str) -> anyhow::Result<String> {
    if is_full(text) {
        return Ok(text.to_owned());
    }
    check(text)?;
    if !text.starts_with("sb-") {
        match client.get(text).await {
            Ok(sandbox) => return Ok(sandbox.id),
            Err(client::Error::Api { code, .. }) if code == "not_found" => {}
            Err(error) => return Err(error.into()),
        }
    }
    let ids: Vec<String> = client
        .list_all()
        .await?
        .into_iter()
        .map(|sandbox| sandbox.id)
        .collect();
    Ok(choose(text, &ids)?)
}

fn is_full(text: &str) -> bool {
    text.len() == FULL_LEN && text.starts_with("sb-") && check(text).is_ok()
}

fn check(text: &str) -> Result<(), IdError> {
    let random = text.strip_prefix("sb-").unwrap_or(text);
    let fits = !random.is_empty()
        && random
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(IdError::Malformed(text.to_owned()))
    }
}

/// Returns the only id that begins with `text`, with or without its `sb-`.
fn choose(text: &str, ids: &[String]) -> Result<String, IdError> {
    let random = text.strip_prefix("sb-").unwrap_or(text);
    let begins = |id: &&String| id.strip_prefix("sb-").unwrap_or(id).starts_with(random);
    let matching: Vec<&String> = ids.iter().filter(begins).collect();
    match matching.as_slice() {
        [] => Err(IdError::NoMatch(text.to_owned())),
        [one] => Ok((*one).clone()),
        many => {
            let names: Vec<&str> = many.iter().take(SHOWN).map(|id| id.as_str()).collect();
            let more = if many.len() > SHOWN { ", …" } else { "" };
            let shown = format!("{}{more}", names.join(", "));
            Err(IdError::Ambiguous {
                prefix: text.to_owned(),
                count: many.len(),
                shown,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_beginning_is_enough() {
        let ids = ["sb-abc1", "sb-abd2", "sb-sb00"].map(str::to_owned);
        assert_eq!(choose("sb-abc", &ids).unwrap(), "sb-abc1");
        assert_eq!(choose("abd", &ids).unwrap(), "sb-abd2");
        assert_eq!(choose("sb-s", &ids).unwrap(), "sb-sb00");
        assert_eq!(
            choose("sb-zz", &ids),
            Err(IdError::NoMatch("sb-zz".to_owned()))
        );
        let ambiguous = choose("ab", &ids).unwrap_err().to_string();
        assert!(ambiguous.contains("sb-abc1, sb-abd2"), "{ambiguous}");
    }

    #[test]
    fn what_cannot_be_an_id_is_refused() {
        for text in ["", "sb-", "../x", "ABC", "a b", "sb-a%2f"] {
            assert!(check(text).is_err(), "{text:?}");
        }
        assert!(is_full("sb-0123456789abcdefghij"));
        assert!(!is_full("sb-0123456789abcdefghi"));
    }
}
