//! `/v1/sandboxes/{id}/metrics`, `/v1/sandboxes/metrics` and `/v1/hosts/metrics`.

use std::sync::Arc;

use api_types::{HostMetrics, SandboxMetrics, SandboxUsage};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::HeaderValue;
use model::SandboxId;
use serde::Deserialize;
use stdx::time::now_ms;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::IntoParams;

use super::extract::{Id, Query};
use super::sandbox_list::{MAX_LIMIT, NEXT_CURSOR, page_limit};
use super::view;
use crate::app::App;
use crate::app::metrics::MAX_IDS;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::hosts;

/// Time before now from which a series begins unless the query says: ten minutes, which hosts keep
/// by the second.
const DEFAULT_SPAN_MS: i64 = 600_000;
/// Longest step: a day, which is all that hosts keep.
const MAX_STEP_SEC: u32 = 86_400;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// Begin, RFC 3339 or seconds since the Unix epoch. Default: ten minutes before the end.
    #[param(example = "2026-01-01T00:00:00Z")]
    from: Option<String>,
    /// End, RFC 3339 or seconds since the Unix epoch. Default: now.
    #[param(example = "1767225600")]
    to: Option<String>,
    /// Shortest time between two points, seconds. Default: the shortest that is kept for that time.
    #[param(minimum = 1, maximum = 86400)]
    step: Option<u32>,
}

impl MetricsQuery {
    fn usage_query(&self, now_ms: i64) -> Result<hosts::UsageQuery> {
        let time = |name, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| parse_time(name, text)).transpose()
        };
        let to = time("to", &self.to)?.unwrap_or(now_ms);
        let default = to.saturating_sub(DEFAULT_SPAN_MS);
        let from = time("from", &self.from)?.unwrap_or(default);
        if from > to {
            return Err(Error::invalid("from must not be after to"));
        }
        let step_sec = self.step.unwrap_or(1);
        if !(1..=MAX_STEP_SEC).contains(&step_sec) {
            return Err(Error::invalid(format!(
                "step must be from 1 to {MAX_STEP_SEC} seconds, not {step_sec}"
            )));
        }
        Ok(hosts::UsageQuery { from, to, step_sec })
    }
}

/// Parses a time as milliseconds since the Unix epoch.
fn parse_time(name: &str, text: &str) -> Result<i64> {
    let parsed = match text.parse::<i64>() {
        Ok(seconds) => seconds.checked_mul(1000),
        Err(_) => OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()),
    };
    let wrong = || {
        let shown: String = text.chars().take(64).collect();
        Error::invalid(format!(
            "{name} must be a time like 2026-01-01T00:00:00Z, or seconds since 1970, not {shown:?}"
        ))
    };
    parsed.filter(|&ms| ms >= 0).ok_or_else(wrong)
}

/// Get what a sandbox used
///
/// Processor, memory, disk and network, measured by the host: a point for each second of the last
/// ten minutes, and one for each minute of the last day. Does not resume a paused sandbox, and does
/// not count as use. What was before the host agent started last is not kept.
#[utoipa::path(
    get, path = "/{id}/metrics", tag = "sandboxes", params(MetricsQuery),
    responses(
        (status = 200, description = "Its usage, oldest first", body = SandboxMetrics),
        (status = 502, description = "The host agent failed"),
    )
)]
pub async fn get_sandbox_metrics(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Query(query): Query<MetricsQuery>,
) -> Result<Answer<SandboxMetrics>> {
    let query = query.usage_query(now_ms())?;
    let series = app.list_usage(&principal, &id, query).await?;
    Ok(Answer(view::sandbox_metrics(id.to_string(), series)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Ids with commas between them, at most 1000. Default: all that run or are paused, newest
    /// first, in pages.
    #[param(
        example = "sb-0123456789abcdefghij",
        pattern = "^sb-[a-z0-9]{20}(,sb-[a-z0-9]{20})*$"
    )]
    ids: Option<String>,
    /// Most entries of a page. Default 1000. Not with ids.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `X-Next-Cursor` of the page before, unchanged. Not with ids.
    #[param(pattern = "^[0-9a-f]{16}\\.sb-[a-z0-9]{20}$")]
    cursor: Option<String>,
}

/// Get what sandboxes use now
///
/// The newest measurement of each, at most some seconds old. Sandboxes whose host does not answer
/// are left out: a page may have fewer entries than there are sandboxes on it.
#[utoipa::path(
    get, path = "/metrics", tag = "sandboxes", params(UsageQuery),
    responses(
        (status = 200, description = "One entry for each", body = Vec<SandboxUsage>,
            headers(("X-Next-Cursor" = Option<String>,
                description = "Where the next page begins; absent on the last one"))),
        (status = 404, description = "One of them is no sandbox"),
    )
)]
pub async fn get_usage(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<UsageQuery>,
) -> Result<Response> {
    let is_page = query.limit.is_some() || query.cursor.is_some();
    let (usage, next) = match &query.ids {
        Some(_) if is_page => {
            return Err(Error::invalid(
                "limit and cursor are of pages, which ids have none of",
            ));
        }
        Some(ids) => (app.get_usage(&principal, &parse_ids(ids)?).await?, None),
        None => {
            let cursor = query.cursor.as_deref().map(str::parse).transpose()?;
            let limit = page_limit(query.limit, MAX_LIMIT)?;
            app.list_present_usage(&principal, cursor.as_ref(), limit)
                .await?
        }
    };
    let entries = usage.into_iter();
    let entries: Vec<SandboxUsage> = entries
        .map(|(status, usage)| view::sandbox_usage(status, usage))
        .collect();
    let mut response = Answer(entries).into_response();
    if let Some(next) = next {
        let value = HeaderValue::from_str(&next.to_string()).map_err(Error::internal)?;
        response.headers_mut().insert(NEXT_CURSOR, value);
    }
    Ok(response)
}

fn parse_ids(text: &str) -> Result<Vec<SandboxId>> {
    let ids = text.split(',').map(|id| Ok(id.parse()?));
    let ids = ids.collect::<Result<Vec<SandboxId>>>()?;
    if ids.len() > MAX_IDS {
        return Err(Error::invalid(format!(
            "ids must be at most {MAX_IDS}, not {}",
            ids.len()
        )));
    }
    Ok(ids)
}

/// Get what the hosts used
///
/// The same for each host, all that it runs included. For keys of the team `default`: other teams
/// get an empty list. Hosts that do not answer are left out.
#[utoipa::path(
    get, path = "/v1/hosts/metrics", tag = "hosts", params(MetricsQuery),
    responses((status = 200, description = "One entry for each", body = Vec<HostMetrics>))
)]
pub async fn get_host_metrics(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<MetricsQuery>,
) -> Result<Answer<Vec<HostMetrics>>> {
    let query = query.usage_query(now_ms())?;
    let hosts = app.list_host_usage(&principal, query).await?;
    Ok(Answer(hosts.into_iter().map(view::host_metrics).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(from: Option<&str>, to: Option<&str>, step: Option<u32>) -> Result<hosts::UsageQuery> {
        let query = MetricsQuery {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
            step,
        };
        query.usage_query(1_767_225_600_000)
    }

    #[test]
    fn times_have_two_spellings() {
        let spelt = query(Some("2025-12-31T23:00:00Z"), Some("1767225000"), Some(60));
        let expected = hosts::UsageQuery {
            from: 1_767_222_000_000,
            to: 1_767_225_000_000,
            step_sec: 60,
        };
        assert_eq!(spelt.unwrap(), expected);
        let default = query(None, None, None).unwrap();
        assert_eq!((default.to - default.from, default.step_sec), (600_000, 1));
    }

    #[test]
    fn wrong_times_are_refused() {
        for (from, to, step, named) in [
            (Some("yesterday"), None, None, "from"),
            (None, Some("-1"), None, "to"),
            (Some("20"), Some("10"), None, "from"),
            (None, Some("9223372036854775807"), None, "to"),
            (None, None, Some(0), "step"),
            (None, None, Some(86_401), "step"),
        ] {
            let error = query(from, to, step).unwrap_err();
            assert!(error.message.contains(named), "{}", error.message);
        }
    }
}
