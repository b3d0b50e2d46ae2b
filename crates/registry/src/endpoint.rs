//! A server that has a repository: the registry itself, or a mirror of it.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::challenge::{Challenge, TokenServer, encode_field};
use crate::credentials::{Credentials, sensitive};
use crate::error::{RegistryError, Result, printable};
use crate::http_client::{Call, HttpClient, host_shown, read_body};

/// Bytes of an answer that has a token. Those of large clouds have some 10 KiB.
const MAX_TOKEN: u64 = 256 << 10;
/// Bytes of an answer that says why it is none.
const MAX_PROBLEM: u64 = 64 << 10;
/// Name under which token servers know this client.
const CLIENT: &str = "wrenn";

/// A repository on a server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// URL up to the repository, such as `https://registry.example.com/v2/team/app`.
    base: String,
    repository: String,
    credentials: Option<Credentials>,
    /// Value of `Authorization` that the server took.
    authorization: Mutex<Option<HeaderValue>>,
}

/// Answer of a token server. Some have both names, with the same token.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Errors of a registry, as its specification has them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problems {
    errors: Vec<Problem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    message: String,
}

impl Endpoint {
    /// Returns the repository below `root`, a URL of a server and maybe a path.
    pub(crate) fn new(root: &str, repository: &str, credentials: Option<Credentials>) -> Self {
        let (scheme, rest) = root.split_once("://").unwrap_or(("https", root));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        // `/v2` comes first, as in containerd's and Docker's settings of mirrors.
        let path = path
            .strip_prefix("v2")
            .map_or(path, |rest| rest.trim_matches('/'));
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        Self {
            base: format!("{scheme}://{authority}/v2/{prefix}{repository}"),
            repository: format!("{prefix}{repository}"),
            credentials,
            authorization: Mutex::default(),
        }
    }

    /// Returns its host for messages.
    pub(crate) fn host(&self) -> String {
        host_shown(&self.base)
    }

    /// Gets a manifest or a blob, from byte `from` on if the server can do that.
    pub(crate) async fn fetch_path(
        &self,
        http: &HttpClient,
        path: &str,
        accept: &str,
        from: u64,
    ) -> Result<Response<Incoming>> {
        let mut call = Call::get(format!("{}/{path}", self.base));
        let mut header = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                call.headers.insert(name, value);
            }
        };
        header(ACCEPT, accept);
        if from > 0 {
            header(RANGE, &format!("bytes={from}-"));
        }
        let response = self.send_authorized(http, call).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            status => Err(self.problem(status, response).await),
        }
    }

    async fn send_authorized(
        &self,
        http: &HttpClient,
        mut call: Call,
    ) -> Result<Response<Incoming>> {
        let known = self.authorization.lock().clone();
        if let Some(known) = known {
            call.headers.insert(AUTHORIZATION, known);
        }
        let response = http.send(call.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // Also where a token was sent: it may have expired during a long layer.
        let Some(challenge) = Challenge::from_headers(response.headers(), &self.repository) else {
            return Ok(response);
        };
        drop(response);
        let value = match challenge {
            Challenge::Basic => self
                .credentials
                .as_ref()
                .and_then(Credentials::basic_header),
            Challenge::Token(server) => Some(self.fetch_token(http, &server).await?),
        };
        let Some(value) = value else {
            return Err(self.denied(""));
        };
        call.headers.insert(AUTHORIZATION, value.clone());
        let response = http.send(call).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            *self.authorization.lock() = Some(value);
        }
        Ok(response)
    }

    /// Gets a token to pull with.
    async fn fetch_token(&self, http: &HttpClient, server: &TokenServer) -> Result<HeaderValue> {
        let call = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => Call {
                method: Method::POST,
                url: server.realm.to_string(),
                headers: HeaderMap::from_iter([(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                )]),
                body: Bytes::from(format!(
                    "grant_type=refresh_token&client_id={CLIENT}&refresh_token={}&{}",
                    encode_field(token),
                    server.fields()
                )),
            },
            credentials => {
                let mut call = Call::get(server.url());
                let basic = credentials.as_ref().and_then(Credentials::basic_header);
                call.headers
                    .extend(basic.map(|value| (AUTHORIZATION, value)));
                call
            }
        };
        let response = http.send(call).await?;
        let host = host_shown(&server.realm.to_string());
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.denied(&format!(" (its token server {host} says so)")));
            }
            status => {
                let text = format!("the token server {host} answered {status}");
                return Err(RegistryError::Unreachable(text));
            }
        }
        let answer = read_body(response, MAX_TOKEN).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&answer).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let value = token.and_then(|token| sensitive(&format!("Bearer {token}")));
        value.ok_or_else(|| {
            RegistryError::Unreachable(format!("the token server {host} answered without a token"))
        })
    }

    fn denied(&self, how: &str) -> RegistryError {
        let host = self.host();
        let repository = printable(&self.repository);
        RegistryError::Denied(match self.credentials {
            Some(_) => format!(
                "{host} refuses {repository} with these credentials{how}; check them with `docker login` or \
                 `skopeo login`"
            ),
            None => format!(
                "{host} refuses {repository} without credentials{how}: there is no such repository, or it wants a \
                 login; log in with `docker login {host}`, or send credentials"
            ),
        })
    }

    async fn problem(&self, status: StatusCode, response: Response<Incoming>) -> RegistryError {
        let host = self.host();
        let repository = printable(&self.repository);
        let body = read_body(response, MAX_PROBLEM).await.unwrap_or_default();
        let problems: Problems = serde_json::from_slice(&body).unwrap_or_default();
        let said = problems.errors.first().map_or_else(String::new, |problem| {
            let said = format!("{}: {}", problem.code, problem.message);
            format!(" ({})", printable(said.trim_matches([':', ' '])))
        });
        match status.as_u16() {
            401 | 403 => self.denied(&said),
            404 => {
                RegistryError::NotFound(format!("{host} has no such image of {repository}{said}"))
            }
            408 | 429 | 500..=599 => {
                RegistryError::Unreachable(format!("{host} answered {status}{said}"))
            }
            _ => RegistryError::Refused(format!("{host} answered {status}{said}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_mirror_follows_version() {
        for (root, base) in [
            ("https://a.example", "https://a.example/v2/team/app"),
            (
                "http://a.example:5000/",
                "http://a.example:5000/v2/team/app",
            ),
            (
                "https://a.example/hub/",
                "https://a.example/v2/hub/team/app",
            ),
            (
                "https://a.example/v2/hub",
                "https://a.example/v2/hub/team/app",
            ),
        ] {
            assert_eq!(Endpoint::new(root, "team/app", None).base, base);
        }
    }
}
