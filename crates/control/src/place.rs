//! Decides which host takes a new sandbox. Pure: what was seen of the hosts goes in, hosts in the
//! order to try come out.

use model::TemplateName;

/// A host as it answered just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub templates: Vec<String>,
    pub sandboxes: u32,
    pub memory_bytes: u64,
}

/// Why no host can take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPlace {
    /// No host answered.
    NoHost,
    /// Hosts answered, and none has the template. What there is instead.
    NoTemplate(Vec<String>),
}

/// Indices of the hosts to try, best first: those with the template, the one with the most memory
/// per sandbox before the others. `None` stands for a host that does not answer.
///
/// # Errors
/// Never an empty list: [`NoPlace`] says why there is no host.
pub fn place(template: &TemplateName, hosts: &[Option<Seen>]) -> Result<Vec<usize>, NoPlace> {
    let answering: Vec<(usize, &Seen)> = hosts
        .iter()
        .enumerate()
        .filter_map(|(index, seen)| Some((index, seen.as_ref()?)))
        .collect();
    if answering.is_empty() {
        return Err(NoPlace::NoHost);
    }
    let has = |seen: &Seen| seen.templates.iter().any(|name| name == template.as_str());
    let mut fit: Vec<(usize, &Seen)> = answering
        .iter()
        .copied()
        .filter(|(_, seen)| has(seen))
        .collect();
    if fit.is_empty() {
        let mut known: Vec<String> = answering
            .iter()
            .flat_map(|(_, seen)| seen.templates.clone())
            .collect();
        known.sort();
        known.dedup();
        return Err(NoPlace::NoTemplate(known));
    }
    fit.sort_by_key(|(index, seen)| {
        (
            std::cmp::Reverse(seen.memory_bytes / (u64::from(seen.sandboxes) + 1)),
            *index,
        )
    });
    Ok(fit.into_iter().map(|(index, _)| index).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(templates: &[&str], sandboxes: u32, memory_bytes: u64) -> Option<Seen> {
        Some(Seen {
            templates: templates.iter().map(|&name| name.to_owned()).collect(),
            sandboxes,
            memory_bytes,
        })
    }

    fn minimal() -> TemplateName {
        "minimal".parse().unwrap()
    }

    #[test]
    fn the_roomiest_host_with_the_template_is_first() {
        let hosts = [
            seen(&["minimal"], 9, 100),
            None,
            seen(&["minimal"], 1, 100),
            seen(&["other"], 0, 100),
        ];
        assert_eq!(place(&minimal(), &hosts), Ok(vec![2, 0]));
    }

    #[test]
    fn without_a_host_it_says_why() {
        assert_eq!(place(&minimal(), &[]), Err(NoPlace::NoHost));
        assert_eq!(place(&minimal(), &[None]), Err(NoPlace::NoHost));
        let others = [seen(&["b", "a"], 0, 1), seen(&["a"], 0, 1), None];
        assert_eq!(
            place(&minimal(), &others),
            Err(NoPlace::NoTemplate(vec!["a".to_owned(), "b".to_owned()]))
        );
    }

    proptest! {
        /// Whatever is chosen answers and has the template, and no such host is left out or named
        /// twice.
        #[test]
        fn choices_are_exactly_the_fit_hosts(hosts in proptest::collection::vec(
            proptest::option::of((any::<bool>(), any::<u32>(), any::<u64>())), 0..8,
        )) {
            let hosts: Vec<Option<Seen>> = hosts
                .into_iter()
                .map(|host| host.and_then(|(has, n, memory)| seen(if has { &["minimal"] } else { &[] }, n, memory)))
                .collect();
            let mut chosen = place(&minimal(), &hosts).unwrap_or_default();
            chosen.sort_unstable();
            let fit = |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| !seen.templates.is_empty());
            let expected: Vec<usize> = (0..hosts.len()).filter(|&index| fit(&hosts[index])).collect();
            prop_assert_eq!(chosen, expected);
        }
    }
}
