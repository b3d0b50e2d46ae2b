//! The one place that decides whether a request may come in, and as which user of the guest it
//! acts.
//!
//! `GET /health` is open and `POST /init` checks for itself; everything else carries the token in
//! force in `X-Access-Token`, or, on `/files` alone, a signature that was made with it (E2B
//! contract 2.7). Before the first `/init` there is no token and nothing is let in.
//!
//! The user comes from `Authorization: Basic base64("user:")`, else from `?username=`, else it is
//! the default. A signature speaks for the user it names only, so with it the header is not
//! listened to.
//!
//! Requests that come through the port proxy say so in a header. E2B's own file calls
//! (`filesystem.Filesystem` and `/files`) then override the permissions of their user, as clients of
//! E2B rely on. Not with a signature, which speaks for its user, and not in the file calls of our
//! own API, which the host makes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::ACCESS_TOKEN_HEADER;
use guest_rpc::http::file_signature;
use http::{Extensions, HeaderMap, Method, header};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::http::error::HttpError;
use crate::settings::{Settings, TokenCheck};
use crate::user::{UnknownUser, User};

/// Header of requests that come through the port proxy, which sets it (`control`: `proxy`).
pub const FILE_OVERRIDE_HEADER: &str = "x-wrenn-file-override";

/// Path of uploads and downloads.
const FILES: &str = "/files";

/// Caller as which an admitted request acts. In the extensions of every request behind
/// [`check_access`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// User name as the request gave it; `None` means the default user. Not yet looked up.
    pub name: Option<String>,
    /// True if the user's file calls override the permissions of files.
    pub overrides_files: bool,
}

impl Caller {
    /// Returns the caller that [`check_access`] put there; the default user where there is none.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Looks the user up, for plain HTTP.
    ///
    /// # Errors
    /// 401 where the user does not exist.
    pub fn http_user(&self, settings: &Settings) -> Result<User, HttpError> {
        self.find_user(settings)
            .map_err(|e| HttpError::unauthorized(e.to_string()))
    }

    /// Looks the user up, for Connect.
    ///
    /// # Errors
    /// `unauthenticated` where the user does not exist.
    pub fn rpc_user(&self, settings: &Settings) -> Result<User, ConnectError> {
        self.find_user(settings)
            .map_err(|e| ConnectError::unauthenticated(e.to_string()))
    }

    fn find_user(&self, settings: &Settings) -> Result<User, UnknownUser> {
        Ok(User {
            overrides_files: self.overrides_files,
            ..settings.user(self.name.as_deref())?
        })
    }
}

/// Checks the token or signature of a request: middleware for
/// `axum::middleware::from_fn_with_state`.
pub async fn check_access(
    State(settings): State<Arc<Settings>>,
    mut request: Request,
    next: Next,
) -> Response {
    let open = matches!(request.uri().path(), "/health" | "/init");
    if !open {
        match decide(&settings, &request) {
            Ok(caller) => drop(request.extensions_mut().insert(caller)),
            Err(error) => return refuse(&request, error),
        }
    }
    next.run(request).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthQuery {
    path: String,
    archive: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<String>,
}

fn decide(settings: &Settings, request: &Request) -> Result<Caller, HttpError> {
    let query: AuthQuery = match Query::try_from_uri(request.uri()) {
        Ok(Query(query)) => query,
        Err(e) => {
            return Err(HttpError::bad_request(format!(
                "the query string cannot be read: {e}"
            )));
        }
    };
    let from_query = query.username.clone().filter(|name| !name.is_empty());
    let named = || {
        Ok(Caller {
            name: basic_user(request.headers())?.or(from_query.clone()),
            overrides_files: query.archive.is_none() && overrides_files(request),
        })
    };
    if !settings.auth_required() {
        return named();
    }
    let Some(token) = settings.token() else {
        return Err(HttpError::unauthorized(
            "this sandbox is not initialised yet: POST /init comes first",
        ));
    };
    if let Some(presented) = request.headers().get(ACCESS_TOKEN_HEADER) {
        return match settings.check_token(presented.as_bytes()) {
            TokenCheck::Right => named(),
            TokenCheck::Wrong | TokenCheck::NoneSet => {
                Err(HttpError::unauthorized("the access token is wrong"))
            }
        };
    }
    if request.uri().path() == FILES && query.signature.is_some() {
        check_signature(&query, request.method(), &token)?;
        return Ok(Caller {
            name: from_query,
            overrides_files: false,
        });
    }
    Err(HttpError::unauthorized(format!(
        "no access token: send it in the header {ACCESS_TOKEN_HEADER}"
    )))
}

/// Returns true for a file call of E2B's protocol that came through the port proxy.
fn overrides_files(request: &Request) -> bool {
    let path = request.uri().path();
    let is_file_call = path == FILES || path.starts_with("/filesystem.Filesystem/");
    is_file_call && request.headers().contains_key(FILE_OVERRIDE_HEADER)
}

/// Returns the user part of a Basic header; `None` without a header or with an empty user.
fn basic_user(headers: &HeaderMap) -> Result<Option<String>, HttpError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let broken = || {
        HttpError::unauthorized("header Authorization cannot be read: send Basic base64(\"user:\")")
    };
    let Some((scheme, rest)) = value.to_str().map_err(|_| broken())?.split_once(' ') else {
        return Err(broken());
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let bytes = STANDARD.decode(rest.trim()).map_err(|_| broken())?;
    let text = String::from_utf8(bytes).map_err(|_| broken())?;
    // Without a password (no user has one here) all before the last colon is the user:
    // `1000:1000:`.
    let user = text
        .strip_suffix(':')
        .unwrap_or_else(|| text.split(':').next().unwrap_or_default());
    Ok(Some(user.to_owned()).filter(|name| !name.is_empty()))
}

fn check_signature(query: &AuthQuery, method: &Method, token: &str) -> Result<(), HttpError> {
    let operation = if matches!(*method, Method::GET | Method::HEAD) {
        "read"
    } else {
        "write"
    };
    let user = query.username.as_deref().unwrap_or_default();
    let right = file_signature(
        &query.path,
        operation,
        user,
        token,
        query.signature_expiration.as_deref(),
    );
    let presented = query.signature.as_deref().unwrap_or_default();
    if !bool::from(right.as_bytes().ct_eq(presented.as_bytes())) {
        return Err(HttpError::unauthorized("invalid signature"));
    }
    let Some(expiration) = &query.signature_expiration else {
        return Ok(());
    };
    let expiration: u64 = expiration.parse().map_err(|_| {
        HttpError::unauthorized("signature_expiration must be seconds since the Unix epoch")
    })?;
    let now = stdx::time::since_epoch().as_secs();
    // Verbatim what the JavaScript SDK's tests ask for.
    if expiration <= now {
        Err(HttpError::unauthorized("signature is already expired"))
    } else {
        Ok(())
    }
}

/// Refuses in the protocol of the request: Connect streams carry errors in their last frame.
fn refuse(request: &Request, error: HttpError) -> Response {
    let rpc = request
        .uri()
        .path()
        .rsplit('/')
        .nth(1)
        .is_some_and(|service| service.contains('.'));
    if !rpc {
        return error.into_response();
    }
    let bad = error.status == http::StatusCode::BAD_REQUEST;
    let code = if bad {
        ErrorCode::InvalidArgument
    } else {
        ErrorCode::Unauthenticated
    };
    ConnectError::new(code, error.message)
        .into_http_response(request.headers())
        .map(Body::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";

    fn settings() -> Settings {
        let settings = Settings::new(true);
        let init = guest_rpc::http::InitRequest {
            access_token: Some(TOKEN.into()),
            ..Default::default()
        };
        settings
            .authorise_and_apply(&init, None)
            .expect("the first one may");
        settings
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).expect("a valid request")
    }

    fn message(result: Result<Caller, HttpError>) -> String {
        result.expect_err("must be refused").message
    }

    #[test]
    fn signature_vector_of_the_contract() {
        let made = file_signature("hello.txt", "read", "user", TOKEN, None);
        assert_eq!(made, "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E");
    }

    #[test]
    fn signature_opens_files_as_its_user() {
        let query =
            "path=hello.txt&username=user&signature=v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";
        let root = ("authorization", "Basic cm9vdDo=");
        let caller =
            decide(&settings(), &request(&format!("/files?{query}"), &[root])).expect("is let in");
        assert_eq!(caller.name.as_deref(), Some("user"));
        assert!(decide(&settings(), &request(&format!("/envs?{query}"), &[])).is_err());
        assert!(decide(&settings(), &request(&format!("/files?{query}x"), &[])).is_err());
        assert_eq!(
            message(decide(
                &settings(),
                &request(&format!("/files?{query}&signature_expiration=9"), &[])
            )),
            "invalid signature"
        );
    }

    #[test]
    fn override_is_heard_in_e2b_calls_alone() {
        let token = ("x-access-token", TOKEN);
        let overridden = (FILE_OVERRIDE_HEADER, "1");
        let overrides = |uri: &str, headers: &[_]| {
            let caller = decide(&settings(), &request(uri, headers)).expect("is let in");
            caller.overrides_files
        };
        for (uri, expected) in [
            ("/files?path=a", true),
            ("/filesystem.Filesystem/MakeDir", true),
            ("/files?path=a&archive=tar", false),
            ("/files/uploads", false),
            ("/file.FileService/Chown", false),
            ("/process.Process/Start", false),
        ] {
            assert_eq!(overrides(uri, &[token, overridden]), expected, "{uri}");
            assert!(!overrides(uri, &[token]), "{uri}");
        }
        let signed = "/files?path=hello.txt&username=user&signature=v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";
        assert!(!overrides(signed, &[overridden]));
    }

    #[test]
    fn an_expired_signature_says_so() {
        let made = file_signature("a", "read", "", TOKEN, Some("0")).replace('+', "%2B");
        let uri = format!("/files?path=a&signature={made}&signature_expiration=0");
        assert_eq!(
            message(decide(&settings(), &request(&uri, &[]))),
            "signature is already expired"
        );
    }

    #[test]
    fn basic_auth_beats_query_username() {
        let token = ("x-access-token", TOKEN);
        let named =
            |uri, headers: &[_]| decide(&settings(), &request(uri, headers)).map(|c| c.name);
        assert_eq!(named("/x?username=a", &[token]), Ok(Some("a".into())));
        assert_eq!(
            named(
                "/x?username=a",
                &[token, ("authorization", "Basic cm9vdDo=")]
            ),
            Ok(Some("root".into()))
        );
        let basic = |text: &str| {
            let value = format!("Basic {}", STANDARD.encode(text));
            let request = request("/x", &[token, ("authorization", &value)]);
            decide(&settings(), &request)
                .expect("is let in")
                .name
                .expect("a user")
        };
        assert_eq!(
            ["1000:1000:", "a:", "a", "a:password"].map(basic),
            ["1000:1000", "a", "a", "a"]
        );
        assert_eq!(named("/x", &[token]), Ok(None));
        assert!(named("/x", &[token, ("authorization", "Basic %%%")]).is_err());
        assert!(named("/x", &[("x-access-token", "wrong")]).is_err());
    }

    #[test]
    fn nothing_is_let_in_before_init() {
        let settings = Settings::new(true);
        assert!(decide(&settings, &request("/envs", &[("x-access-token", "")])).is_err());
        assert!(decide(&Settings::new(false), &request("/envs", &[])).is_ok());
    }
}
