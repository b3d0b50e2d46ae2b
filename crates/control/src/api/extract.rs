//! Extractors of requests for handlers. Strict: unknown or malformed input is refused with its
//! name.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::{DeliveryId, ErrorCode, InvalidValue, SandboxId, SandboxName, WebhookId};
use serde::de::{DeserializeOwned, Deserializer};

use crate::app::App;
use crate::error::Error;

/// Bytes of a JSON body.
pub const MAX_JSON: usize = 2 * 1024 * 1024;

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let content_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        expect_type(content_type, "application/json")?;
        let length = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > MAX_JSON) {
            return Err(too_large());
        }
        let body = Limited::new(request.into_body(), MAX_JSON)
            .collect()
            .await
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    too_large()
                } else {
                    Error::invalid("the body broke off")
                }
            })?;
        parse(&body.to_bytes()).map(Self)
    }
}

/// A JSON body that may be left out, content type and all.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        if request.headers().get(CONTENT_TYPE).is_none() && request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        Json::from_request(request, state)
            .await
            .map(|Json(body)| Self(body))
    }
}

fn too_large() -> Error {
    Error::new(
        ErrorCode::TooLarge,
        format!("a JSON body must be at most {MAX_JSON} bytes"),
    )
}

/// Checks the media type, without its parameters.
pub fn expect_type(sent: Option<&str>, right: &str) -> Result<(), Error> {
    let essence = sent.map(|sent| sent.split(';').next().unwrap_or_default().trim());
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case(right)) {
        return Ok(());
    }
    let was = sent.map_or_else(|| "missing".to_owned(), |sent| format!("{sent:?}"));
    Err(Error::new(
        ErrorCode::UnsupportedMediaType,
        format!("the content type must be {right}; it is {was}"),
    ))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // serde would also take an array, as the fields in their order.
    if body
        .trim_ascii_start()
        .first()
        .is_some_and(|&first| first != b'{')
    {
        return Err(Error::invalid("the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = read_body(&mut json)?;
    json.end()
        .map_err(|error| Error::invalid(format!("the body is not JSON: {error}")))?;
    Ok(value)
}

/// Reads a body.
///
/// # Errors
/// `InvalidRequest` names the field that is wrong.
pub(crate) fn read_body<'de, T: DeserializeOwned, D: Deserializer<'de>>(body: D) -> Result<T, Error>
where
    D::Error: Display,
{
    serde_path_to_error::deserialize(body).map_err(|error| {
        let path = error.path().to_string();
        let error = error.inner();
        match path.as_str() {
            "." => Error::invalid(format!("the body is not what this route reads: {error}")),
            path => Error::invalid(format!(
                "the body is not what this route reads: {path}: {error}"
            )),
        }
    })
}

/// A query string.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let parsed = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        match parsed {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(error) => {
                let text = error.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Err(Error::invalid(format!(
                    "the query is not what this route reads: {text}"
                )))
            }
        }
    }
}

/// Query of routes that read none.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoQuery {}

/// The `{id}` of a path: the id of a sandbox, or the name of a living one of the caller's team.
#[derive(Debug)]
pub struct Id(pub SandboxId);

impl FromRequestParts<Arc<App>> for Id {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Error> {
        let id = segment(parts, app, "id").await?;
        if let Ok(id) = id.parse() {
            return Ok(Self(id));
        }
        let (Ok(name), Some(principal)) = (id.parse::<SandboxName>(), parts.extensions.get())
        else {
            let id: String = id.chars().take(64).collect();
            return Err(Error::new(
                ErrorCode::NotFound,
                format!(
                    "there is no sandbox {id:?}: ids are sb- and 20 of a-z and 0-9, names are of a-z, 0-9 and '-'"
                ),
            ));
        };
        app.resolve_name(principal, &name).await.map(Self)
    }
}

/// The `{name}` of a path.
#[derive(Debug)]
pub struct Name<T>(pub T);

impl<S: Send + Sync, T: FromStr<Err = InvalidValue>> FromRequestParts<S> for Name<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let name = segment(parts, state, "name").await?;
        name.parse().map(Self).map_err(|error| {
            let name: String = name.chars().take(64).collect();
            Error::new(
                ErrorCode::NotFound,
                format!(
                    "there is nothing of the name {name:?}: a name {}",
                    error.problem
                ),
            )
        })
    }
}

/// Length of the id of a resumable upload.
pub const UPLOAD_ID_LENGTH: usize = 32;

/// Longest reference to a command.
pub const MAX_COMMAND_REF: usize = 128;

/// The `{command}` of a path: id, name or pid of a background command.
#[derive(Debug)]
pub struct CommandRef(pub String);

impl<S: Send + Sync> FromRequestParts<S> for CommandRef {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let command = segment(parts, state, "command").await?;
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let has_form = command.len() <= MAX_COMMAND_REF
            && command
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric())
            && command.bytes().all(is_inner);
        if has_form {
            return Ok(Self(command));
        }
        let command: String = command.chars().take(64).collect();
        Err(Error::new(
            ErrorCode::NotFound,
            format!(
                "there is no command {command:?}: ids and names are letters, digits, '.', '_' and '-', and begin with a \
                 letter or digit"
            ),
        ))
    }
}

/// The `{upload}` of a path: id of a resumable upload.
#[derive(Debug)]
pub struct UploadId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for UploadId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let upload = segment(parts, state, "upload").await?;
        if upload.len() == UPLOAD_ID_LENGTH && upload.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self(upload));
        }
        let upload: String = upload.chars().take(64).collect();
        Err(Error::new(
            ErrorCode::NotFound,
            format!("there is no upload {upload:?}: ids are {UPLOAD_ID_LENGTH} hexadecimal digits"),
        ))
    }
}

/// Type of a part of a path, which has the type's name.
pub trait PathPart: FromStr<Err = InvalidValue> {
    const NAME: &'static str;
}

impl PathPart for WebhookId {
    const NAME: &'static str = "webhook";
}

impl PathPart for DeliveryId {
    const NAME: &'static str = "delivery";
}

/// A part of a path.
#[derive(Debug)]
pub struct Part<T>(pub T);

impl<S: Send + Sync, T: PathPart> FromRequestParts<S> for Part<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let text = segment(parts, state, T::NAME).await?;
        text.parse().map(Self).map_err(|error| {
            let text: String = text.chars().take(64).collect();
            let text = format!("there is no {} {text:?}: an id {}", T::NAME, error.problem);
            Error::new(ErrorCode::NotFound, text)
        })
    }
}

async fn segment<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<String, Error> {
    let Path(mut segments) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|error| Error::invalid(format!("the path is wrong: {}", error.body_text())))?;
    Ok(segments.remove(name).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use api_types::CreateSandbox;

    use super::*;

    #[test]
    fn refusals_name_the_field() {
        for (body, said) in [
            (r#"{"vcpus": "two"}"#, "vcpus"),
            (r#"{"memroy_mb": 1}"#, "memroy_mb"),
            (r#"{"envs": {"A": 1}}"#, "envs.A"),
            ("{} {}", "trailing"),
            ("[]", "object"),
            ("{broken", "key must be a string"),
        ] {
            let error = parse::<CreateSandbox>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert!(error.message.contains(said), "{body}: {}", error.message);
        }
    }

    #[test]
    fn media_types_may_have_parameters() {
        assert!(expect_type(Some("Application/JSON; charset=utf-8"), "application/json").is_ok());
        for wrong in [None, Some(""), Some("text/json"), Some("application/jsonx")] {
            assert_eq!(
                expect_type(wrong, "application/json").unwrap_err().code,
                ErrorCode::UnsupportedMediaType
            );
        }
    }
}
