//! Decides which host takes a new sandbox. Pure: views of the hosts go in, hosts in the order to try
//! come out.

use model::TemplateName;

/// Scheduler's view of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    /// Names.
    pub templates: Vec<String>,
    pub sandboxes: u32,
    pub memory_bytes: u64,
}

/// Reason why no host can take a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unschedulable {
    /// No host is connected.
    NoHost,
    /// No host has the template. Names of those that there are.
    NoTemplate(Vec<String>),
}

/// Returns the indices of the hosts to try, best first: those with the template, ordered by memory
/// per sandbox. `None` stands for a host that does not answer. The list is never empty.
///
/// # Errors
/// If no host has the template.
pub fn rank_hosts(
    template: &TemplateName,
    hosts: &[Option<HostView>],
) -> Result<Vec<usize>, Unschedulable> {
    let answering: Vec<(usize, &HostView)> = hosts
        .iter()
        .enumerate()
        .filter_map(|(index, view)| Some((index, view.as_ref()?)))
        .collect();
    if answering.is_empty() {
        return Err(Unschedulable::NoHost);
    }
    let has = |view: &HostView| view.templates.iter().any(|name| name == template.as_str());
    let mut fit: Vec<(usize, &HostView)> = answering
        .iter()
        .copied()
        .filter(|(_, view)| has(view))
        .collect();
    if fit.is_empty() {
        let mut known: Vec<String> = answering
            .iter()
            .flat_map(|(_, view)| view.templates.clone())
            .collect();
        known.sort();
        known.dedup();
        return Err(Unschedulable::NoTemplate(known));
    }
    fit.sort_by_key(|(index, view)| {
        (
            std::cmp::Reverse(view.memory_bytes / (u64::from(view.sandboxes) + 1)),
            *index,
        )
    });
    Ok(fit.into_iter().map(|(index, _)| index).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(templates: &[&str], sandboxes: u32, memory_bytes: u64) -> Option<HostView> {
        Some(HostView {
            templates: templates.iter().map(|&name| name.to_owned()).collect(),
            sandboxes,
            memory_bytes,
        })
    }

    fn minimal() -> TemplateName {
        "minimal".parse().unwrap()
    }

    #[test]
    fn roomiest_host_with_template_is_first() {
        let hosts = [
            view(&["minimal"], 9, 100),
            None,
            view(&["minimal"], 1, 100),
            view(&["other"], 0, 100),
        ];
        assert_eq!(rank_hosts(&minimal(), &hosts), Ok(vec![2, 0]));
    }

    #[test]
    fn missing_host_or_template_is_named() {
        assert_eq!(rank_hosts(&minimal(), &[]), Err(Unschedulable::NoHost));
        assert_eq!(rank_hosts(&minimal(), &[None]), Err(Unschedulable::NoHost));
        let others = [view(&["b", "a"], 0, 1), view(&["a"], 0, 1), None];
        assert_eq!(
            rank_hosts(&minimal(), &others),
            Err(Unschedulable::NoTemplate(vec![
                "a".to_owned(),
                "b".to_owned()
            ]))
        );
    }

    proptest! {
        /// The ranking has each host that answers and has the template once, and no other.
        #[test]
        fn ranking_has_exactly_fit_hosts(hosts in proptest::collection::vec(
            proptest::option::of((any::<bool>(), any::<u32>(), any::<u64>())), 0..8,
        )) {
            let hosts: Vec<Option<HostView>> = hosts
                .into_iter()
                .map(|host| host.and_then(|(has, n, memory)| view(if has { &["minimal"] } else { &[] }, n, memory)))
                .collect();
            let mut chosen = rank_hosts(&minimal(), &hosts).unwrap_or_default();
            chosen.sort_unstable();
            let fit = |view: &Option<HostView>| view.as_ref().is_some_and(|view| !view.templates.is_empty());
            let expected: Vec<usize> = (0..hosts.len()).filter(|&index| fit(&hosts[index])).collect();
            prop_assert_eq!(chosen, expected);
        }
    }
}
