//! `/v1/sandboxes` as a list: filters, pages and counts.

use std::sync::Arc;

use api_types::{Sandbox, SandboxCount, SandboxStatus};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::HeaderValue;
use model::{SandboxName, TemplateName};
use store::{Cursor, SandboxFilter};
use utoipa::IntoParams;

use super::extract::Query;
use super::view;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Header field with the cursor of the next page.
pub(super) const NEXT_CURSOR: &str = "x-next-cursor";
const DEFAULT_LIMIT: u32 = 100;
pub const MAX_LIMIT: u32 = 1000;
/// Conditions on labels in one query: each costs a look-up for each row.
const MAX_LABELS: usize = 16;

/// Returns the number of entries of a page, of which the query wants `limit`.
///
/// # Errors
/// `InvalidRequest` if that is not within 1 and [`MAX_LIMIT`].
pub(super) fn page_limit(limit: Option<u32>, default: u32) -> Result<u32> {
    let limit = limit.unwrap_or(default);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    let text = format!("limit must be from 1 to {MAX_LIMIT}, not {limit}");
    Err(Error::invalid(text))
}

/// Conditions, all of which hold.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `read_query` reads")]
pub struct FilterQuery {
    /// `KEY=VALUE`, or `KEY` for any value. May come several times: all of them hold.
    #[param(example = json!(["team=search", "env"]))]
    label: Option<Vec<String>>,
    /// May come several times: one of them holds.
    status: Option<Vec<SandboxStatus>>,
    /// Name of the template.
    template: Option<String>,
    /// Beginning of the name.
    name_prefix: Option<String>,
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `read_query` reads")]
pub struct PageQuery {
    /// Most entries wanted. Default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `X-Next-Cursor` of the page before, unchanged. Filters are those of that page.
    #[param(pattern = "^[0-9a-f]{16}\\.sb-[a-z0-9]{20}$")]
    cursor: Option<String>,
}

/// Query of a list, checked.
#[derive(Debug, Default, PartialEq, Eq)]
struct ListQuery {
    filter: SandboxFilter,
    limit: Option<u32>,
    cursor: Option<Cursor>,
}

/// Reads a query, of which some fields may come several times. `is_page` allows those of a page.
fn read_query(pairs: Vec<(String, String)>, is_page: bool) -> Result<ListQuery> {
    let mut query = ListQuery::default();
    let filter = &mut query.filter;
    for (name, value) in pairs {
        let is_double = match name.as_str() {
            "label" => {
                filter.labels.push(value.parse()?);
                filter.labels.len() > MAX_LABELS
            }
            "status" => {
                filter.states.push(value.parse()?);
                false
            }
            "template" => filter.template.replace(value).is_some(),
            "name_prefix" => filter.name_prefix.replace(value).is_some(),
            "limit" if is_page => {
                let limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_LIMIT).contains(limit));
                let limit = limit.ok_or_else(|| {
                    let value: String = value.chars().take(32).collect();
                    Error::invalid(format!("limit must be from 1 to {MAX_LIMIT}, not {value}"))
                })?;
                query.limit.replace(limit).is_some()
            }
            "cursor" if is_page => query.cursor.replace(value.parse()?).is_some(),
            _ => {
                let name: String = name.chars().take(64).collect();
                let text =
                    format!("the query is not what this route reads: unknown field `{name}`");
                return Err(Error::invalid(text));
            }
        };
        if is_double {
            return Err(Error::invalid(format!(
                "the query has too many of the field `{name}`"
            )));
        }
    }
    check_filter(filter)?;
    filter.states.sort_by_key(|state| state.as_str());
    filter.states.dedup();
    Ok(query)
}

fn check_filter(filter: &SandboxFilter) -> Result<()> {
    if let Some(template) = &filter.template {
        let _: TemplateName = template.parse()?;
    }
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if let Some(prefix) = &filter.name_prefix
        && (prefix.len() > SandboxName::MAX_LEN || !prefix.bytes().all(is_part))
    {
        let text = format!(
            "name_prefix must be at most {} characters of a-z, 0-9 and '-'",
            SandboxName::MAX_LEN
        );
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// List sandboxes
///
/// In whatever state, newest first, one page at a time. Sandboxes that come or go between two pages
/// move no others.
#[utoipa::path(
    get, path = "", tag = "sandboxes", params(FilterQuery, PageQuery),
    responses((status = 200, description = "One page", body = Vec<Sandbox>,
        headers(("X-Next-Cursor" = Option<String>,
            description = "Where the next page begins; absent on the last one"))))
)]
pub async fn list_sandboxes(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response> {
    let query = read_query(pairs, true)?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let page = app
        .list_sandboxes(&principal, &query.filter, query.cursor.as_ref(), limit)
        .await?;
    let sandboxes: Vec<Sandbox> = page
        .sandboxes
        .into_iter()
        .map(view::listed_sandbox)
        .collect();
    let mut response = Answer(sandboxes).into_response();
    if let Some(next) = page.next {
        let value = HeaderValue::from_str(&next.to_string()).map_err(Error::internal)?;
        response.headers_mut().insert(NEXT_CURSOR, value);
    }
    Ok(response)
}

/// Count sandboxes
///
/// Those that the list would have on all its pages.
#[utoipa::path(
    get, path = "/count", tag = "sandboxes", params(FilterQuery),
    responses((status = 200, description = "How many there are", body = SandboxCount))
)]
pub async fn count_sandboxes(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Answer<SandboxCount>> {
    let query = read_query(pairs, false)?;
    let count = app.count_sandboxes(&principal, &query.filter).await?;
    Ok(Answer(SandboxCount { count }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ListQuery> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        read_query(pairs.map(pair).collect(), true)
    }

    #[test]
    fn filters_come_several_times() {
        let query =
            read("label=a=b&status=paused&label=c&status=error&status=paused&limit=5").unwrap();
        let labels: Vec<String> = query
            .filter
            .labels
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(labels, ["a=b", "c"]);
        assert_eq!(
            query.filter.states,
            [SandboxStatus::Error, SandboxStatus::Paused]
        );
        assert_eq!(query.limit, Some(5));
    }

    #[test]
    fn wrong_queries_name_the_field() {
        for (text, said) in [
            ("limit=0", "limit must be from 1"),
            ("limit=1&limit=2", "`limit`"),
            ("label==b", "labels"),
            ("status=done", "status"),
            ("template=A", "template"),
            ("name_prefix=a_", "name_prefix"),
            ("cursor=x", "cursor"),
            ("labels=a", "unknown field `labels`"),
        ] {
            let error = read(text).unwrap_err().message;
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(read(&"label=a&".repeat(MAX_LABELS + 1)).is_err());
    }
}
