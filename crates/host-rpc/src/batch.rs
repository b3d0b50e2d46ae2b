//! Lists whose length users control, as streams of messages of a bounded size.
//!
//! A caller refuses an answer of more than 4 MiB. A list of sandboxes in one answer would outgrow
//! that with some large specs, and its host could not be reconciled any more.

use buffa::Message;
use connectrpc::ServiceStream;
use futures::{StreamExt, stream};

/// Bytes of items after which a message is complete. Far below the 4 MiB of one message with the
/// largest item on top.
pub const BATCH_BYTES: usize = 1 << 20;

/// Groups items in their order. Each group but the last has at least [`BATCH_BYTES`] bytes, and no
/// more than one item over that. Items are made as the groups are taken.
pub fn group_items<M: Message>(mut items: impl Iterator<Item = M>) -> impl Iterator<Item = Vec<M>> {
    std::iter::from_fn(move || {
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some(item) = items.next() else { break };
            bytes += item.encoded_len() as usize;
            group.push(item);
        }
        (!group.is_empty()).then_some(group)
    })
}

/// Streams groups of items as messages.
pub fn stream_items<M, R>(
    items: impl Iterator<Item = M> + Send + 'static,
    to_message: impl Fn(Vec<M>) -> R + Send + 'static,
) -> ServiceStream<R>
where
    M: Message + Send + 'static,
    R: 'static,
{
    stream::iter(group_items(items).map(move |group| Ok(to_message(group)))).boxed()
}

#[cfg(test)]
mod tests {
    use super::{BATCH_BYTES, group_items};
    use crate::Template;

    fn named(bytes: usize) -> Template {
        Template {
            name: "x".repeat(bytes),
            ..Default::default()
        }
    }

    #[test]
    fn groups_end_at_bound() {
        let items = [BATCH_BYTES / 2, BATCH_BYTES / 2, 1, 2 * BATCH_BYTES, 1];
        let sizes = |group: Vec<Template>| group.iter().map(|item| item.name.len()).collect();
        let groups: Vec<Vec<usize>> = group_items(items.into_iter().map(named))
            .map(sizes)
            .collect();
        assert_eq!(groups[0], items[..2]);
        assert_eq!(groups[1], items[2..4]);
        assert_eq!(groups[2], items[4..]);
        assert_eq!(groups.len(), 3);
    }

    #[test]
    fn no_items_make_no_group() {
        assert_eq!(group_items(std::iter::empty::<Template>()).count(), 0);
    }
}
