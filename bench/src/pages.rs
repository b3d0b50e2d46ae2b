//! Pages of a list of [`SANDBOXES`] sandboxes: over REST, and by the query of the store alone, from
//! this process and on the same database.
//!
//! Over REST each page is a request with its key, the query, JSON, and a round trip. Sandboxes of a
//! plane before count: there is at least one more page after the last that is read.

use std::time::Instant;

use anyhow::{Context, ensure};
use client::types::CreateSandbox;
use client::{ListQuery, SandboxFilter};
use futures::{StreamExt, TryStreamExt, stream};
use model::TeamId;
use store::{Cursor, Store};

use crate::pairs::{Pairs, Side, print_progress, side_order};
use crate::plane::Plane;
use crate::report::{Row, Target};
use crate::stats::Better;

/// Number of sandboxes in the list.
const SANDBOXES: u64 = 10_000;
/// Sandboxes of a page, the default of the API.
const PAGE: u32 = 100;
/// One sandbox in so many has the label that is filtered by.
const LABELLED: u64 = 50;
const LABEL: &str = "tier=gold";
const LATE_PAGE: usize = 100;
const READS: usize = 300;
const WARM_UP: usize = 20;
/// Creates at a time.
const AT_ONCE: usize = 32;
/// Maximum ratio of a page to its query.
const MAX_RATIO: f64 = 1.5;

/// Names of the rows of a database: first page, filtered page, page [`LATE_PAGE`].
pub type Names = [&'static str; 3];

pub const SQLITE: Names = [
    "first page of 10,000 sandboxes, SQLite",
    "filtered page of 10,000 sandboxes, SQLite",
    "page 100 of 10,000 sandboxes, SQLite",
];

pub const POSTGRES: Names = [
    "first page of 10,000 sandboxes, PostgreSQL",
    "filtered page of 10,000 sandboxes, PostgreSQL",
    "page 100 of 10,000 sandboxes, PostgreSQL",
];

/// One page, as each side asks for it.
struct Page {
    query: ListQuery,
    filter: store::SandboxFilter,
    after: Option<Cursor>,
}

/// Measures pages of a control plane, which gets sandboxes until it has enough.
///
/// # Errors
/// When it refuses a request, or its database cannot be opened.
pub async fn measure(plane: &Plane, names: &Names) -> anyhow::Result<Vec<Row>> {
    fill(plane).await?;
    let store = Store::open(&plane.database).await?;
    let pages = [first_page(), filtered_page()?, late_page(plane).await?];
    let mut rows = Vec::new();
    for (name, page) in names.iter().zip(&pages) {
        rows.push(measure_page(plane, &store, name, page).await?);
    }
    store.close().await;
    Ok(rows)
}

async fn fill(plane: &Plane) -> anyhow::Result<()> {
    let there = plane.client.count(&SandboxFilter::default()).await?;
    let create = |number: u64| {
        let labels = number.is_multiple_of(LABELLED).then_some(LABEL);
        let labels = labels.and_then(|label| label.split_once('='));
        let request = CreateSandbox {
            labels: labels
                .map(|(key, value)| [(key.to_owned(), value.to_owned())].into())
                .unwrap_or_default(),
            ..CreateSandbox::default()
        };
        async move { plane.client.create(&request).await }
    };
    stream::iter(there..SANDBOXES + u64::from(PAGE))
        .map(create)
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(())
}

fn first_page() -> Page {
    Page {
        query: ListQuery {
            limit: Some(PAGE),
            ..ListQuery::default()
        },
        filter: store::SandboxFilter::default(),
        after: None,
    }
}

fn filtered_page() -> anyhow::Result<Page> {
    let first = first_page();
    let filter = store::SandboxFilter {
        labels: vec![LABEL.parse()?],
        ..first.filter
    };
    let query = ListQuery {
        filter: SandboxFilter {
            labels: vec![LABEL.to_owned()],
            ..SandboxFilter::default()
        },
        ..first.query
    };
    Ok(Page {
        query,
        filter,
        after: None,
    })
}

/// Walks to the page by cursors, as a client does.
async fn late_page(plane: &Plane) -> anyhow::Result<Page> {
    let mut page = first_page();
    for _ in 1..LATE_PAGE {
        let answer = plane.client.list(&page.query).await?;
        page.query.cursor = Some(answer.next.context("the list has too few pages")?);
    }
    page.after = page.query.cursor.as_deref().map(str::parse).transpose()?;
    Ok(page)
}

async fn measure_page(
    plane: &Plane,
    store: &Store,
    name: &'static str,
    page: &Page,
) -> anyhow::Result<Row> {
    let team = TeamId::default();
    let mut pairs = Pairs::default();
    for pair in 0..WARM_UP + READS {
        for side in side_order(pair) {
            let began = Instant::now();
            let count = match side {
                Side::Ours => plane.client.list(&page.query).await?.items.len(),
                Side::Bare => {
                    let after = page.after.as_ref();
                    let rows = store.sandbox_list(&team, &page.filter, after, PAGE).await?;
                    rows.len()
                }
            };
            if pair >= WARM_UP {
                pairs.push(side, began.elapsed().as_secs_f64() * 1000.0);
            }
            ensure!(count == PAGE as usize, "a page has {count} sandboxes");
        }
        print_progress(name, pair + 1, WARM_UP + READS);
    }
    Ok(pairs.row(name, "ms", Better::Lower, Target::RatioAtMost(MAX_RATIO)))
}
