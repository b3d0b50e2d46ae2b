//! API keys, and the [`Principal`] that each stands for. Keys are random, so their hash needs no
//! salt; only the hash is stored. A revoked key fails at once, since every request looks it up.

mod first_key;
pub mod web_socket;

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use model::{ApiKey, ErrorCode, Resource, Scope, Scopes, TeamId};
use rand::RngExt;
use sha2::{Digest, Sha256};
use stdx::time::now_ms;
use store::{Actor, Key, NewKey, Store};

pub use first_key::{FirstKey, FirstKeyError, ensure_first_key};

use crate::error::{Error, Result};

/// Header with the key; `Authorization: Bearer` does as well.
pub const KEY_HEADER: &str = "x-api-key";
/// Characters of a key's name.
pub const MAX_NAME: usize = 100;

/// Caller of a request: its team and scopes. Made once a request, from its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub team_id: TeamId,
    pub key_id: String,
    pub scopes: Scopes,
    /// Network address of the client.
    pub address: Option<IpAddr>,
}

impl Principal {
    /// Returns the actor of what the request of this task changes.
    #[must_use]
    pub fn actor(&self) -> Actor {
        let request = runtime::trace::current();
        Actor {
            id: self.key_id.clone(),
            address: self.address.map(|address| address.to_string()),
            request_id: request.map(|request| request.request_id().to_owned()),
        }
    }

    /// Checks that the key has a scope.
    ///
    /// # Errors
    /// `Forbidden` if the key does not have `scope`.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.scopes.allows(scope) {
            return Ok(());
        }
        let text = format!(
            "this API key may not do that: it has the scopes {:?}, and this needs {scope}; use another key",
            self.scopes.to_string()
        );
        Err(Error::new(ErrorCode::Forbidden, text))
    }

    /// Returns true for the keys of the operator of this installation: those of the team `default`
    /// that may do everything.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.team_id == TeamId::default() && self.scopes == Scopes::Admin
    }

    /// Checks that the key may read `resource`.
    ///
    /// # Errors
    /// `Forbidden` if the key may not read `resource`.
    pub fn require_read(&self, resource: Resource) -> Result<()> {
        self.require(Scope::Read(resource))
    }

    /// Checks that the key may change `resource`.
    ///
    /// # Errors
    /// `Forbidden` if the key may not change `resource`.
    pub fn require_write(&self, resource: Resource) -> Result<()> {
        self.require(Scope::Write(resource))
    }
}

/// Returns the stored form of a key: the hash of its digits, which all its spellings share.
#[must_use]
pub fn hash_key(key: &ApiKey) -> [u8; 32] {
    Sha256::digest(key.hex().as_bytes()).into()
}

/// Looks up the key of a request.
///
/// # Errors
/// `Unauthorized` says what is wrong with the key.
pub async fn authenticate(store: &Store, headers: &HeaderMap) -> Result<Principal> {
    let key: ApiKey = sent_key(headers)?
        .parse()
        .map_err(|error| unauthorized(&format!("the {error}")))?;
    let found = store.key_find(&hash_key(&key)).await?;
    let key = found.ok_or_else(|| {
        unauthorized("this API key is not known here; was it revoked, or made for another server?")
    })?;
    Ok(Principal {
        team_id: key.team_id,
        key_id: key.id,
        scopes: key.scopes,
        address: None,
    })
}

/// Returns the key of a request as it was sent.
///
/// # Errors
/// `Unauthorized` says what is missing.
pub fn sent_key(headers: &HeaderMap) -> Result<&str> {
    let text = |value: &'static str| {
        headers
            .get(value)
            .map(|value| value.to_str().unwrap_or_default())
    };
    if let Some(key) = text(KEY_HEADER) {
        return Ok(key);
    }
    let Some(value) = text(AUTHORIZATION.as_str()) else {
        if let Some(key) = web_socket::offered_key(headers)? {
            return Ok(key);
        }
        return Err(unauthorized(
            "no API key: send it in the header X-API-Key; the first one is in $WRENN_DIR/credentials",
        ));
    };
    let (scheme, key) = value.split_once(' ').unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(key.trim());
    }
    Err(unauthorized(
        "Authorization must be \"Bearer\" and an API key",
    ))
}

fn unauthorized(text: &str) -> Error {
    Error::new(ErrorCode::Unauthorized, text)
}

/// Creates a key of the team `default` that may do everything. Its text is shown this once.
///
/// # Errors
/// A bad name; the store's.
pub async fn create_key(store: &Store, name: &str) -> Result<(Key, ApiKey)> {
    create_team_key(store, TeamId::default(), Scopes::Admin, name).await
}

/// Creates a key of a team. Its text is shown this once.
///
/// # Errors
/// A bad name; the store's.
pub async fn create_team_key(
    store: &Store,
    team_id: TeamId,
    scopes: Scopes,
    name: &str,
) -> Result<(Key, ApiKey)> {
    if name.is_empty() || name.chars().count() > MAX_NAME || name.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "name must be 1 to {MAX_NAME} printable characters"
        )));
    }
    let key = ApiKey::random();
    let new = NewKey {
        team_id,
        scopes,
        ..new_key(&key, name)
    };
    store.key_insert(&new).await?;
    let created = Key {
        id: new.id,
        team_id: new.team_id,
        scopes: new.scopes,
        name: new.name,
        created_at: new.now,
    };
    Ok((created, key))
}

/// Returns a key of the team `default` that may do everything.
fn new_key(key: &ApiKey, name: &str) -> NewKey {
    let id: u64 = rand::rng().random();
    NewKey {
        id: format!("key-{id:016x}"),
        team_id: TeamId::default(),
        scopes: Scopes::Admin,
        name: name.to_owned(),
        hash: hash_key(key),
        now: now_ms(),
    }
}

/// Revokes a key, unless it is the last one: an installation without a key cannot be used, and the
/// next start would bring the first key back.
///
/// # Errors
/// `NotFound`; `Conflict` for the last key.
pub async fn revoke_key(store: &Store, id: &str) -> Result<()> {
    // Not by the list: one row that cannot be read must not keep the others from being revoked.
    if store.key_count().await? == 1 && store.key_list().await?.iter().any(|key| key.id == id) {
        let text = "this is the last key; make another one first with `wrenn-cp key create`";
        return Err(Error::new(ErrorCode::Conflict, text));
    }
    if store.key_remove(id, now_ms()).await? {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::NotFound,
        format!("there is no key {id}; `wrenn-cp key list` shows all"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn keys_are_found_in_both_headers() {
        assert_eq!(sent_key(&headers("x-api-key", "wrn_1")).unwrap(), "wrn_1");
        assert_eq!(
            sent_key(&headers("authorization", "bearer  wrn_1")).unwrap(),
            "wrn_1"
        );
        for wrong in ["Basic d3JuXzE6", "wrn_1", ""] {
            assert_eq!(
                sent_key(&headers("authorization", wrong)).unwrap_err().code,
                ErrorCode::Unauthorized
            );
        }
        assert!(
            sent_key(&HeaderMap::new())
                .unwrap_err()
                .message
                .contains("X-API-Key")
        );
    }

    #[test]
    fn both_spellings_have_one_hash() {
        let digits = "0123456789abcdef0123456789abcdef01234567";
        let hash_of = |text: String| hash_key(&text.parse().unwrap());
        assert_eq!(
            hash_of(format!("wrn_{digits}")),
            hash_of(format!("e2b_{digits}"))
        );
    }
}
