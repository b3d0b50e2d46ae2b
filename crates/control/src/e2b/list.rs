//! Lists of sandboxes: `GET /v2/sandboxes`, and `/sandboxes` of older clients.
//!
//! Metadata in a query is encoded three times (E2B contract 1.9): keys and values by themselves, then
//! as pairs of a form, then as a value of the query.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::{HeaderName, HeaderValue, StatusCode};
use model::{LabelFilter, Labels, SandboxState};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::Value;
use store::{Cursor, SandboxFilter};

use super::body::Query;
use super::error::{Failure, Result};
use super::template_ref::TemplateRef;
use super::types;
use crate::api::parse_time;
use crate::app::App;
use crate::auth::Principal;

/// Header field with the token of the next page.
const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Most entries of a page, and those of one where the query does not say.
const MAX_LIMIT: u32 = 100;

/// Query of both lists, checked later.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListQuery {
    metadata: Option<String>,
    state: Option<String>,
    order: Option<String>,
    started_after: Option<String>,
    template: Option<String>,
    limit: Option<u32>,
    next_token: Option<String>,
}

/// Lists running sandboxes, all of them.
pub async fn list_sandboxes_v1(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ListQuery>,
) -> Result<Answer<Vec<Value>>> {
    let filter = SandboxFilter {
        labels: metadata_filters(query.metadata.as_deref())?,
        states: vec![SandboxState::Running],
        ..SandboxFilter::default()
    };
    let rows = app.list_all_sandboxes(&principal, &filter).await?;
    Ok(Answer(rows.iter().map(types::listed).collect()))
}

/// Lists running and paused sandboxes, one page of them.
pub async fn list_sandboxes_v2(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<ListQuery>,
) -> Result<Response> {
    let limit = page_limit(query.limit)?;
    let after = query.next_token.as_deref().filter(|text| !text.is_empty());
    let after: Option<Cursor> = after.map(str::parse).transpose()?;
    let Some(filter) = filter_from(&query)? else {
        return Ok(Answer(Vec::<Value>::new()).into_response());
    };
    let page = app
        .list_sandboxes(&principal, &filter, after.as_ref(), limit)
        .await?;
    let listed: Vec<Value> = page.sandboxes.iter().map(types::listed).collect();
    Ok(page_response(
        listed,
        page.next.map(|next| next.to_string()),
    ))
}

/// Returns the number of entries of a page.
///
/// # Errors
/// 400 if it is out of bounds.
pub fn page_limit(limit: Option<u32>) -> Result<u32> {
    let limit = limit.unwrap_or(MAX_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    let text = format!("limit must be from 1 to {MAX_LIMIT}, not {limit}");
    Err(Failure::invalid(text))
}

/// Returns a page, and the token of the next one.
pub fn page_response(entries: Vec<Value>, next: Option<String>) -> Response {
    let mut response = Answer(entries).into_response();
    let next = next.and_then(|next| HeaderValue::from_str(&next).ok());
    if let Some(next) = next {
        response.headers_mut().insert(NEXT_TOKEN, next);
    }
    response
}

/// Reads a filter; `None` if nothing can meet it.
fn filter_from(query: &ListQuery) -> Result<Option<SandboxFilter>> {
    let template = match query.template.as_deref() {
        None => None,
        Some(text) => match TemplateRef::parse(text) {
            Ok(reference) if reference.has_tag => {
                let text = "template must be an id or a name without a tag";
                return Err(Failure::invalid(text));
            }
            Ok(reference) => Some(reference.name.to_string()),
            Err(failure) if failure.status() == StatusCode::NOT_FOUND => return Ok(None),
            Err(failure) => return Err(failure),
        },
    };
    let started_after = query.started_after.as_deref().map(|text| {
        let text = text.replace(' ', "+");
        parse_time(&text).ok_or_else(|| Failure::invalid("startedAfter must be an ISO 8601 time"))
    });
    let is_oldest_first = match query.order.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(Failure::invalid("order must be asc or desc")),
    };
    Ok(Some(SandboxFilter {
        labels: metadata_filters(query.metadata.as_deref())?,
        states: read_states(query.state.as_deref())?,
        template,
        created_from: started_after.transpose()?,
        is_oldest_first,
        name_prefix: None,
    }))
}

fn read_states(text: Option<&str>) -> Result<Vec<SandboxState>> {
    let both = vec![SandboxState::Running, SandboxState::Paused];
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(both);
    };
    let read = |name| match name {
        "running" => Ok(SandboxState::Running),
        "paused" => Ok(SandboxState::Paused),
        _ => Err(Failure::invalid("state must be running, paused, or both")),
    };
    let names: Vec<&str> = text.split(',').take(both.len() + 1).collect();
    if names.len() > both.len() {
        let text = format!("state must name at most {} states", both.len());
        return Err(Failure::invalid(text));
    }
    names.into_iter().map(read).collect()
}

/// Reads the metadata of a query that is decoded once already.
fn metadata_filters(form: Option<&str>) -> Result<Vec<LabelFilter>> {
    let form = form.unwrap_or_default();
    let count = form.split('&').filter(|pair| !pair.is_empty()).count();
    let most = Labels::MAX_COUNT;
    if count > most {
        let text = format!("metadata must have at most {most} pairs, not {count}");
        return Err(Failure::invalid(text));
    }
    let decode = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        let decoded = decoded.map(std::borrow::Cow::into_owned);
        decoded.map_err(|_| Failure::invalid("metadata must be text in UTF-8"))
    };
    form_urlencoded::parse(form.as_bytes())
        .map(|(key, value)| {
            let (key, value) = (decode(&key)?, decode(&value)?);
            if key.contains('\0') || value.contains('\0') {
                return Err(Failure::invalid("metadata must have no NUL"));
            }
            let (longest_key, longest) = (Labels::MAX_METADATA_KEY, Labels::MAX_METADATA_VALUE);
            if key.len() > longest_key || value.len() > longest {
                let text = format!(
                    "metadata must have keys of at most {longest_key} bytes and values of at most {longest}"
                );
                return Err(Failure::invalid(text));
            }
            let value = Some(value);
            Ok(LabelFilter { key, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_decoded_thrice() {
        // As the JavaScript SDK sends {"a b": "c&d/é"}, after the first decoding.
        let read = metadata_filters(Some("a%2520b=c%2526d%252F%25C3%25A9")).unwrap();
        let expected = LabelFilter {
            key: "a b".to_owned(),
            value: Some("c&d/é".to_owned()),
        };
        assert_eq!(read, [expected]);
        assert_eq!(metadata_filters(None).unwrap(), []);
        assert_eq!(metadata_filters(Some("a=1&b=2")).unwrap().len(), 2);
        assert!(metadata_filters(Some("a=%2500")).is_err());
    }

    #[test]
    fn filters_beyond_limits_name_limit() {
        let refused = |form: &str| match metadata_filters(Some(form)) {
            Ok(filters) => panic!("{} filters", filters.len()),
            Err(failure) => format!("{failure:?}"),
        };
        let most = Labels::MAX_COUNT;
        let pairs = "a=1&".repeat(most);
        assert_eq!(metadata_filters(Some(&pairs)).unwrap().len(), most);
        assert!(refused(&format!("{pairs}a=1")).contains(&format!("at most {most} pairs")));
        let key = "k".repeat(Labels::MAX_METADATA_KEY);
        let value = "v".repeat(Labels::MAX_METADATA_VALUE);
        assert_eq!(
            metadata_filters(Some(&format!("{key}={value}")))
                .unwrap()
                .len(),
            1
        );
        for longer in [format!("{key}k={value}"), format!("{key}={value}v")] {
            assert!(refused(&longer).contains("at most 255 bytes"));
        }
        assert_eq!(read_states(Some("paused,paused")).unwrap().len(), 2);
        let states = read_states(Some("paused,running,paused")).unwrap_err();
        assert!(format!("{states:?}").contains("at most 2 states"));
    }

    #[test]
    fn queries_are_checked() {
        let read = |query: ListQuery| filter_from(&query);
        let states = read(ListQuery::default()).unwrap().unwrap().states;
        assert_eq!(states, [SandboxState::Running, SandboxState::Paused]);
        let wrong = |set: fn(&mut ListQuery, String), text: &str| {
            let mut query = ListQuery::default();
            set(&mut query, text.to_owned());
            read(query).is_err()
        };
        assert!(wrong(|query, text| query.state = Some(text), "gone"));
        assert!(wrong(|query, text| query.order = Some(text), "up"));
        assert!(wrong(|query, text| query.started_after = Some(text), "x"));
        assert!(wrong(|query, text| query.template = Some(text), "a:latest"));
        let unknown = ListQuery {
            template: Some("No".to_owned()),
            ..ListQuery::default()
        };
        assert_eq!(read(unknown).unwrap(), None);
    }
}
