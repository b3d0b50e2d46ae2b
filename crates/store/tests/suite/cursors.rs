//! Paging through the list.

use model::{SandboxId, TeamId};
use proptest::prelude::*;
use store::{Cursor, SandboxFilter};

use crate::db::{Db, insert, newest_first};

pub async fn pages_hold_every_row_once(db: Db) {
    let store = db.store().await;
    // Several rows of one moment, so that pages end between them; and times before 1970 and far
    // ahead.
    for now in [5, 5, 5, 5, 7, 6, -3, i64::MAX - 1] {
        insert(&store, now).await;
    }
    let all = newest_first(store.sandbox_list_all().await.unwrap());

    for size in [1, 2, 3, 8, 100] {
        let mut paged = Vec::new();
        let mut cursor = None;
        loop {
            let page = store
                .sandbox_list(
                    &TeamId::default(),
                    &SandboxFilter::default(),
                    cursor.as_ref(),
                    size,
                )
                .await
                .unwrap();
            assert!(page.len() <= size as usize);
            let Some(last) = page.last() else { break };
            // As it goes through a URL.
            cursor = Some(last.cursor().to_string().parse().unwrap());
            paged.extend(page);
        }
        assert_eq!(paged, all);
    }

    // Rows that come or go between two pages move no others, and the row of the cursor may be gone
    // itself.
    let cursor = all[3].cursor();
    store.sandbox_remove(&all[3].id, 9).await.unwrap();
    insert(&store, 1000).await;
    assert_eq!(
        store
            .sandbox_list(
                &TeamId::default(),
                &SandboxFilter::default(),
                Some(&cursor),
                100
            )
            .await
            .unwrap(),
        all[4..]
    );
    assert!(
        store
            .sandbox_list(&TeamId::default(), &SandboxFilter::default(), None, 0)
            .await
            .unwrap()
            .is_empty()
    );
}

#[test]
fn hostile_cursors_are_refused() {
    let id = "sb-abcdefghijklmnopqrst";
    let good = format!("0000000000000005.{id}");
    assert!(good.parse::<Cursor>().is_ok());
    let bad = [
        String::new(),
        ".".to_owned(),
        id.to_owned(),
        format!("5.{id}"),
        format!("00000000000000005.{id}"),
        format!("+000000000000005.{id}"),
        format!("000000000000000A.{id}"),
        format!("000000000000000é.{id}"),
        format!("0000000000000005.{id}x"),
        format!("0000000000000005.{id} "),
        format!(" {good}"),
        format!("{good}\0"),
        "0000000000000005.' OR 1=1 --".to_owned(),
        "9".repeat(100_000),
    ];
    for text in bad {
        let refused = text.parse::<Cursor>().unwrap_err();
        assert_eq!(refused.field, "cursor");
        assert!(!refused.to_string().contains("OR 1=1"));
    }
}

proptest! {
    #[test]
    fn cursors_survive_as_text(created_at: i64) {
        let cursor = Cursor { created_at, id: SandboxId::random() };
        let text = cursor.to_string();
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'));
        prop_assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
    }

    /// One cursor, one spelling.
    #[test]
    fn whatever_parses_is_its_own_spelling(text in "[0-9a-f]{15,17}\\.sb-[a-z0-9]{19,21}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            prop_assert_eq!(cursor.to_string(), text);
        }
    }
}
