//! `wrenn events`.

use std::time::Duration;

use client::EventQuery;
use client::types::Event;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Session;
use crate::args::EventsArgs;
use crate::ids;
use crate::output::{self, printable, printable_json};
use crate::values::parse_seconds;

/// Tries to connect again, each after a pause of twice the length: half a minute in all, which a
/// control plane needs to be restarted.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

pub async fn print_events(session: &Session, args: &EventsArgs) -> anyhow::Result<()> {
    let sandbox = match &args.id {
        Some(id) => Some(ids::resolve_id(&session.client, id).await?),
        None => None,
    };
    let mut query = EventQuery {
        kinds: args.kinds.clone(),
        since: args.since.as_deref().map(resolve_time).transpose()?,
        sandbox,
        ..EventQuery::default()
    };
    let mut printer = Printer::new(session.json, args.follow);
    loop {
        let page = session.client.events(&query).await?;
        let is_last = page.items.is_empty();
        for event in &page.items {
            printer.print(event)?;
        }
        query.cursor = page.next.or(query.cursor);
        if is_last {
            break;
        }
    }
    if args.follow {
        follow(session, query, &mut printer).await?;
    }
    printer.finish()
}

/// Prints what comes, and connects again when the connection breaks.
async fn follow(
    session: &Session,
    mut query: EventQuery,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        let broke = follow_once(session, &mut query, printer, &mut tries).await;
        match broke {
            Err(error) if tries >= TRIES || !is_broken(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries)).await;
        tries += 1;
    }
}

/// Returns true for errors that another connection may not have.
fn is_broken(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<client::Error>() {
        Some(client::Error::Api { code, .. }) => code == "host_unavailable",
        Some(_) => true,
        None => false,
    }
}

async fn follow_once(
    session: &Session,
    query: &mut EventQuery,
    printer: &mut Printer,
    tries: &mut u32,
) -> anyhow::Result<()> {
    let mut stream = session.client.follow_events(query).await?;
    *tries = 0;
    loop {
        let next = stream.next().await;
        // Also that of events that were passed over.
        if let Some(cursor) = stream.cursor() {
            query.cursor = Some(cursor.to_owned());
        }
        match next? {
            Some(event) => printer.print(&event)?,
            None => return Ok(()),
        }
    }
}

/// Returns a time as the server reads it.
fn resolve_time(text: &str) -> anyhow::Result<String> {
    match parse_seconds(text) {
        Ok(seconds) => {
            let time = OffsetDateTime::now_utc() - Duration::from_secs(seconds.into());
            Ok(time.format(&Rfc3339)?)
        }
        Err(_) => Ok(text.to_owned()),
    }
}

/// Prints events one by one: as text, as lines of JSON, or as one array.
struct Printer {
    json: bool,
    as_array: bool,
    separator: &'static str,
}

impl Printer {
    fn new(json: bool, follow: bool) -> Self {
        Self {
            json,
            as_array: json && !follow,
            separator: "[\n",
        }
    }

    fn print(&mut self, event: &Event) -> anyhow::Result<()> {
        if !self.json {
            return output::print_line(&text(event));
        }
        let document = serde_json::to_string(event)?;
        let document = printable_json(&document);
        if !self.as_array {
            return output::print_line(&document);
        }
        let separator = std::mem::replace(&mut self.separator, ",\n");
        output::print_raw(format!("{separator}{document}").as_bytes())
    }

    fn finish(self) -> anyhow::Result<()> {
        match (self.as_array, self.separator) {
            (false, _) => Ok(()),
            (true, ",\n") => output::print_line("\n]"),
            (true, _) => output::print_line("[]"),
        }
    }
}

fn text(event: &Event) -> String {
    let mut line = format!(
        "{} {} {} by {}",
        printable(&event.time),
        console::style(printable(&event.kind)).cyan(),
        printable(&event.subject),
        printable(&event.actor.id),
    );
    for (name, value) in event.data.iter().filter(|(_, value)| !value.is_null()) {
        let value = match value {
            serde_json::Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        line.push_str(&format!(" {}={}", printable(name), printable(&value)));
    }
    line
}
