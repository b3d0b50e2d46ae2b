//! Source of each page of a memory in layers. Pure.
//!
//! One sorted list of extents over all layers, computed once: the upper ones are cut into the lower
//! ones. Pages in no extent are zeroes, and so are those that the guest has given back.

use std::ops::Range;

/// Extent of memory in the file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// Offsets in the memory; whole pages.
    pub(super) range: Range<u64>,
    /// Number of the layer, 0 being the lowest.
    pub(super) file: usize,
    /// Offset of its content in the file.
    pub(super) at: u64,
}

/// Content of a range of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Zeroes,
    File { file: usize, at: u64 },
}

/// Extents, sorted and without overlap.
#[derive(Debug, Default)]
pub(super) struct PageMap(Vec<Extent>);

impl PageMap {
    /// Adds a layer over the existing ones. Its stretches are sorted and without overlap.
    pub(super) fn add_layer(
        &mut self,
        file: usize,
        stretches: impl IntoIterator<Item = (Range<u64>, u64)>,
    ) {
        let upper: Vec<Extent> = stretches
            .into_iter()
            .map(|(range, at)| Extent { range, file, at })
            .filter(|e| !e.range.is_empty())
            .collect();
        let mut all = Vec::with_capacity(self.0.len() + 2 * upper.len());
        let mut first = 0;
        for extent in self.0.drain(..) {
            while upper
                .get(first)
                .is_some_and(|over| over.range.end <= extent.range.start)
            {
                first += 1;
            }
            let mut rest = extent.clone();
            let end = extent.range.end;
            for over in upper[first..]
                .iter()
                .take_while(|over| over.range.start < end)
            {
                all.extend(rest.before(over.range.start));
                rest = rest.after(over.range.end);
                if rest.range.is_empty() {
                    break;
                }
            }
            all.extend(Some(rest).filter(|rest| !rest.range.is_empty()));
        }
        all.extend(upper);
        all.sort_unstable_by_key(|extent| extent.range.start);
        // Extents that are adjacent in the same file become one, so that they can be copied at
        // once.
        all.dedup_by(|next, before| before.takes(next));
        self.0 = all;
    }

    /// Makes the range zeroes.
    pub(super) fn make_zeroes(&mut self, range: &Range<u64>) {
        let first = self
            .0
            .partition_point(|extent| extent.range.end <= range.start);
        let last = self
            .0
            .partition_point(|extent| extent.range.start < range.end);
        if first >= last {
            return;
        }
        let before = self.0[first].before(range.start);
        let after =
            Some(self.0[last - 1].clone().after(range.end)).filter(|rest| !rest.range.is_empty());
        self.0.splice(first..last, before.into_iter().chain(after));
    }

    /// Returns the source of the page at `offset`, and the range around it with the same source,
    /// within `window`, which contains `offset`.
    pub(super) fn source_around(&self, offset: u64, window: &Range<u64>) -> (Range<u64>, Source) {
        let next = self.0.partition_point(|extent| extent.range.end <= offset);
        match self.0.get(next) {
            Some(extent) if extent.range.start <= offset => {
                let range = extent.range.start.max(window.start)..extent.range.end.min(window.end);
                let at = extent.at + (range.start - extent.range.start);
                (
                    range,
                    Source::File {
                        file: extent.file,
                        at,
                    },
                )
            }
            following => {
                let start = next
                    .checked_sub(1)
                    .map_or(0, |before| self.0[before].range.end);
                let end = following.map_or(u64::MAX, |extent| extent.range.start);
                (start.max(window.start)..end.min(window.end), Source::Zeroes)
            }
        }
    }
}

impl Extent {
    /// Returns the part before `end`, if there is any.
    fn before(&self, end: u64) -> Option<Self> {
        let range = self.range.start..self.range.end.min(end);
        (!range.is_empty()).then(|| Self {
            range,
            ..self.clone()
        })
    }

    /// Merges `next` into this extent if it follows it both in the memory and in the file.
    fn takes(&mut self, next: &Self) -> bool {
        let end = self.at + (self.range.end - self.range.start);
        let follows =
            self.range.end == next.range.start && self.file == next.file && end == next.at;
        if follows {
            self.range.end = next.range.end;
        }
        follows
    }

    /// Returns the part from `start` on; it may be empty.
    fn after(self, start: u64) -> Self {
        let start = start.clamp(self.range.start, self.range.end);
        let at = self.at + (start - self.range.start);
        Self {
            range: start..self.range.end,
            at,
            file: self.file,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 200;

    /// What happens to a memory: a layer over it, or pages that are given back.
    #[derive(Debug, Clone)]
    enum Act {
        Lay(Vec<(u64, u64)>),
        Free(u64, u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        // Gaps and lengths, so that they are in order.
        let stretches = prop::collection::vec((0..20_u64, 1..20_u64), 0..12);
        prop_oneof![3 => stretches.prop_map(Act::Lay), 1 => (0..PAGES, 1..60_u64).prop_map(|(at, n)| Act::Free(at, n))]
    }

    /// The simplest thing that can be right: each page, and where it is.
    fn play(acts: &[Act]) -> (PageMap, Vec<Source>) {
        let mut map = PageMap::default();
        let mut model = vec![Source::Zeroes; PAGES as usize];
        for (file, act) in acts.iter().enumerate() {
            match act {
                Act::Lay(gaps) => {
                    let mut page = 0;
                    let mut at = 7_u64;
                    let mut stretches = Vec::new();
                    for (gap, length) in gaps {
                        let range = (page + gap).min(PAGES)..(page + gap + length).min(PAGES);
                        page = range.end;
                        for number in range.clone() {
                            model[number as usize] = Source::File {
                                file,
                                at: at + (number - range.start),
                            };
                        }
                        stretches.push((range.clone(), at));
                        at += range.end - range.start;
                    }
                    map.add_layer(file, stretches);
                }
                Act::Free(at, count) => {
                    let end = (at + count).min(PAGES);
                    model[*at as usize..end as usize].fill(Source::Zeroes);
                    map.make_zeroes(&(*at..end));
                }
            }
        }
        (map, model)
    }

    proptest! {
        #[test]
        fn pages_are_where_model_says(
            acts in prop::collection::vec(act(), 0..10),
            window in (0..PAGES, 1..PAGES),
        ) {
            let (map, model) = play(&acts);
            prop_assert!(map.0.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            prop_assert!(map.0.iter().all(|extent| !extent.range.is_empty()));
            let window = window.0..(window.0 + window.1).min(PAGES);
            for page in window.clone() {
                let (range, source) = map.source_around(page, &window);
                prop_assert!(range.contains(&page) && range.start >= window.start && range.end <= window.end);
                for other in range.clone() {
                    let expected = match source {
                        Source::Zeroes => Source::Zeroes,
                        Source::File { file, at } => Source::File { file, at: at + (other - range.start) },
                    };
                    prop_assert_eq!(model[other as usize], expected, "page {} in the run of {}", other, page);
                }
            }
        }
    }
}
