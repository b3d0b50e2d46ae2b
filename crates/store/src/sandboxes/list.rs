//! Filtered lists of a team's sandboxes, newest first, in pages; and how many there are.
//!
//! Each page is one range of one index, up to its limit: of a label where the filter has one, since
//! labels are the most selective; else of state or template, else of age alone. Everything else is
//! looked up for each row of that range.

use model::{LabelFilter, SandboxState, TeamId};
use sqlx::AssertSqlSafe;

use super::Sandbox;
use super::row::{SandboxRow, columns};
use crate::db::{all, rows, single_count, without_nul};
use crate::{Cursor, Error, Store};

/// Conditions on sandboxes, all of which hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    pub labels: Vec<LabelFilter>,
    /// Any of these; all states where it is empty.
    pub states: Vec<SandboxState>,
    pub template: Option<String>,
    /// Beginning of the name, in the characters of names.
    pub name_prefix: Option<String>,
    /// Earliest creation, milliseconds since the Unix epoch.
    pub created_from: Option<i64>,
    /// True for the oldest first.
    pub is_oldest_first: bool,
}

/// A query in parts, and the texts of its parameters in order.
struct Query {
    tables: String,
    conditions: Vec<String>,
    /// Columns that order the rows as `(created_at, id)` does.
    order: [&'static str; 2],
    is_oldest_first: bool,
    /// Number of parameters before `texts`.
    fixed: usize,
    texts: Vec<String>,
}

impl Query {
    /// Builds the query of a filter. The first parameter is the team, and `fixed` come before those
    /// of the filter.
    fn new(filter: &SandboxFilter, fixed: usize) -> Self {
        let mut query = Self {
            tables: "sandboxes".to_owned(),
            conditions: vec!["NOT deleting".to_owned(), "team_id = $1".to_owned()],
            order: ["created_at", "id"],
            is_oldest_first: false,
            fixed,
            texts: Vec::new(),
        };
        let mut labels: Vec<&LabelFilter> = filter.labels.iter().collect();
        // An equality is met by fewer rows than a presence.
        labels.sort_by_key(|label| label.value.is_none());
        let mut labels = labels.into_iter();
        if let Some(first) = labels.next() {
            query.drive_by_label(first);
        }
        for label in labels {
            query.require_label(label);
        }
        query.require_state(&filter.states);
        if let Some(template) = &filter.template {
            let place = query.bind(template);
            query.conditions.push(format!("template = {place}"));
        }
        if let Some(prefix) = &filter.name_prefix {
            let from = query.bind(prefix);
            // The first text after all that begin with the prefix: names are ASCII.
            let to = query.bind(&format!("{prefix}\u{7f}"));
            query
                .conditions
                .push(format!("name >= {from} AND name < {to}"));
        }
        if let Some(from) = filter.created_from {
            let [age, _] = query.order;
            query.conditions.push(format!("{age} >= {from}"));
        }
        query.is_oldest_first = filter.is_oldest_first;
        query
    }

    /// Adds a parameter, and returns its place.
    fn bind(&mut self, text: &str) -> String {
        self.texts.push(text.to_owned());
        format!("${}", self.fixed + self.texts.len())
    }

    /// Reads the rows in the order of an index of labels. `CROSS JOIN` keeps SQLite from beginning
    /// with the other table.
    fn drive_by_label(&mut self, label: &LabelFilter) {
        self.tables = "sandbox_labels CROSS JOIN sandboxes".to_owned();
        self.order = ["since", "sandbox_id"];
        let key = self.bind(&label.key);
        self.conditions
            .push("id = sandbox_id AND of_team = $1".to_owned());
        self.conditions.push(format!("label_key = {key}"));
        if let Some(value) = &label.value {
            let value = self.bind(value);
            self.conditions.push(format!("label_value = {value}"));
        }
    }

    fn require_label(&mut self, label: &LabelFilter) {
        let key = self.bind(&label.key);
        let value = label.value.as_ref().map(|value| self.bind(value));
        let value = value.map_or_else(String::new, |place| {
            format!(" AND other.label_value = {place}")
        });
        self.conditions.push(format!(
            "EXISTS (SELECT 1 FROM sandbox_labels AS other WHERE other.sandbox_id = id AND other.label_key = {key}{value})"
        ));
    }

    fn require_state(&mut self, states: &[SandboxState]) {
        let places: Vec<String> = states
            .iter()
            .map(|state| self.bind(state.as_str()))
            .collect();
        match places.as_slice() {
            [] => {}
            [one] => self.conditions.push(format!("state = {one}")),
            many => self
                .conditions
                .push(format!("state IN ({})", many.join(", "))),
        }
    }

    fn page_sql(&self) -> String {
        let [age, id] = self.order;
        let (after, order) = match self.is_oldest_first {
            true => (">", "ASC"),
            false => ("<", "DESC"),
        };
        format!(
            "SELECT {} FROM {} WHERE {} AND ({age}, {id}) {after} ($2, $3) ORDER BY {age} {order}, {id} {order} LIMIT $4",
            columns!(),
            self.tables,
            self.conditions.join(" AND "),
        )
    }

    fn count_sql(&self) -> String {
        format!(
            "SELECT count(*) FROM {} WHERE {}",
            self.tables,
            self.conditions.join(" AND ")
        )
    }
}

impl Store {
    /// Returns at most `limit` rows of a team after `after`, in the filter's order, without those that are
    /// being deleted.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text with a NUL in it; as [`Store::sandbox_get`].
    pub async fn sandbox_list(
        &self,
        team: &TeamId,
        filter: &SandboxFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<Sandbox>, Error> {
        check(filter)?;
        // No row is as young as i64::MAX or as old as i64::MIN, so the first page is the one after that.
        let first = match filter.is_oldest_first {
            true => i64::MIN,
            false => i64::MAX,
        };
        let (created_at, id) = after.map_or((first, ""), |cursor| {
            (cursor.created_at, cursor.id.as_str())
        });
        let query = Query::new(filter, 4);
        // Nothing of the filter is in it but places of parameters, and numbers.
        let sql = AssertSqlSafe(query.page_sql());
        let db = self.read("listing sandboxes");
        let (team, limit) = (team.as_str(), i64::from(limit));
        all(rows!(db, SandboxRow, sql, team, created_at, id, limit; each query.texts)?)
    }

    /// Counts the rows of a team, without those that are being deleted.
    ///
    /// # Errors
    /// As [`Store::sandbox_list`].
    pub async fn sandbox_count(&self, team: &TeamId, filter: &SandboxFilter) -> Result<u64, Error> {
        check(filter)?;
        let query = Query::new(filter, 1);
        let sql = AssertSqlSafe(query.count_sql());
        let db = self.read("counting sandboxes");
        single_count(rows!(db, (i64,), sql, team.as_str(); each query.texts)?)
    }
}

fn check(filter: &SandboxFilter) -> Result<(), Error> {
    let template = filter.template.iter().map(|it| ("template", it));
    let prefix = filter.name_prefix.iter().map(|it| ("name_prefix", it));
    let keys = filter.labels.iter().map(|it| ("label", &it.key));
    let values = filter.labels.iter().filter_map(|it| it.value.as_ref());
    let values = values.map(|value| ("label", value));
    template
        .chain(prefix)
        .chain(keys)
        .chain(values)
        .try_for_each(|(field, text)| without_nul(field, text))
}

#[cfg(test)]
mod tests {
    use sqlx::{Executor, Row};

    use super::*;
    use crate::explain::{
        POSTGRES_NUMBERS, SQLITE_NUMBERS, create_postgres, create_sqlite, rows_read,
    };

    /// Filters, and the index whose range each of their pages is.
    fn filters() -> Vec<(SandboxFilter, &'static str)> {
        let labels = |labels: &[&str]| SandboxFilter {
            labels: labels.iter().map(|label| label.parse().unwrap()).collect(),
            ..SandboxFilter::default()
        };
        vec![
            (SandboxFilter::default(), "sandboxes_of_team_by_age"),
            (labels(&["rare"]), "sandbox_labels_by_key"),
            (labels(&["all", "rare=1"]), "sandbox_labels_by_value"),
            (
                SandboxFilter {
                    states: vec![SandboxState::Error],
                    ..SandboxFilter::default()
                },
                "sandboxes_of_state_by_age",
            ),
            (
                SandboxFilter {
                    template: Some("rare".to_owned()),
                    ..SandboxFilter::default()
                },
                "sandboxes_of_template_by_age",
            ),
        ]
    }

    /// Inserts 10,000 sandboxes, every thousandth of which a rare filter meets.
    fn fill_sql(numbers: &str) -> String {
        format!(
            "INSERT INTO sandboxes (id, state, generation, spec, key_id, created_at, last_updated, template, labels) \
             SELECT 'sb-' || (100000 + n), CASE WHEN n % 1000 = 0 THEN 'error' ELSE 'running' END, 1, '{{}}', 'k', n, n, \
             CASE WHEN n % 1000 = 0 THEN 'rare' ELSE 'minimal' END, \
             CASE WHEN n % 1000 = 0 THEN '{{\"all\":\"1\",\"rare\":\"1\"}}' ELSE '{{\"all\":\"1\"}}' END \
             FROM {numbers}"
        )
    }

    #[tokio::test]
    async fn sqlite_reads_pages_by_index() {
        let (_directory, _store, mut connection) = create_sqlite().await;
        connection
            .execute(AssertSqlSafe(fill_sql(SQLITE_NUMBERS)))
            .await
            .unwrap();
        for (filter, index) in filters() {
            let query = Query::new(&filter, 4);
            let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", query.page_sql()));
            let plan = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
            let plan = steps.join("\n");
            assert!(plan.contains(index), "{filter:?}: {plan}");
            assert!(
                !plan.contains("TEMP B-TREE") && !plan.contains("SCAN"),
                "{filter:?}: {plan}"
            );
        }
        let due = "EXPLAIN QUERY PLAN SELECT id FROM sandboxes WHERE ends_at IS NOT NULL AND NOT deleting \
                   AND state IN ('pending', 'running', 'paused') ORDER BY ends_at LIMIT 10";
        let plan = sqlx::query(due).fetch_all(&mut connection).await.unwrap();
        assert!(
            plan[0]
                .get::<String, _>("detail")
                .contains("sandboxes_by_end")
        );
    }

    #[tokio::test]
    async fn postgres_reads_pages_by_index() {
        let (_database, _store, mut connection) = create_postgres().await;
        connection
            .execute(AssertSqlSafe(fill_sql(POSTGRES_NUMBERS)))
            .await
            .unwrap();
        connection.execute("ANALYZE").await.unwrap();
        for (filter, _) in filters() {
            let query = Query::new(&filter, 4);
            let sql = format!("EXPLAIN (ANALYZE, FORMAT JSON) {}", query.page_sql());
            let explain = sqlx::query(AssertSqlSafe(sql));
            let explain = explain.bind("default").bind(i64::MAX).bind("").bind(10_i64);
            let explain = query
                .texts
                .iter()
                .fold(explain, |explain, text| explain.bind(text));
            let plan = explain.fetch_one(&mut connection).await.unwrap();
            let (read, plan) = rows_read(&plan);
            assert!(read <= 100.0, "{filter:?} reads {read} rows: {plan}");
        }
    }
}
