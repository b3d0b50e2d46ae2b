//! Extractors of requests of E2B's clients. Lenient where those are: older and newer ones send fields
//! that others do not know, and some leave bodies out.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::SandboxId;
use serde::de::DeserializeOwned;

use super::error::{Failure, Result};
use crate::api::MAX_JSON;

/// A JSON body. One that is absent is `{}`, and no content type is asked for.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let body = Limited::new(request.into_body(), MAX_JSON).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::new(
                http::StatusCode::PAYLOAD_TOO_LARGE,
                format!("a JSON body must be at most {MAX_JSON} bytes"),
            ),
            false => Failure::invalid("the body broke off"),
        })?;
        let bytes = body.to_bytes();
        let text = match bytes.trim_ascii() {
            b"" | b"null" => b"{}",
            text => text,
        };
        let mut json = serde_json::Deserializer::from_slice(text);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let text = format!("the body is not what this route reads: {error}");
            Failure::invalid(text)
        })?;
        Ok(Self(value))
    }
}

/// The query of a request. Fields that are not known are passed over.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(error) => Err(Failure::invalid(error.body_text())),
        }
    }
}

/// The `{id}` of a path, the id of a sandbox.
#[derive(Debug)]
pub struct Id(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Segment(id) = Segment::from_request_parts(parts, state).await?;
        id.parse().map(Self).map_err(|_| Failure::no_sandbox(&id))
    }
}

/// The one variable part of a path, unescaped: names have slashes and colons in them.
#[derive(Debug)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text))
            .map_err(|error| Failure::invalid(error.body_text()))
    }
}
