//! Decides which host takes a new sandbox. Pure: views of the hosts go in, hosts in the order to try
//! come out.

/// Scheduler's view of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub has_template: bool,
    /// Its agent knows all that the spec asks for.
    pub is_able: bool,
    /// It takes no new sandboxes.
    pub is_draining: bool,
    pub sandboxes: u32,
    pub memory_bytes: u64,
}

/// Reason why no host can take a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unschedulable {
    /// No host is connected.
    NoHost,
    /// No host has the template.
    NoTemplate,
    /// The hosts that have it have agents of the version before, which ignore a part of the spec.
    OldAgents,
    /// The hosts that are left then take no new sandboxes.
    Draining,
}

/// Returns the indices of the hosts to try, best first: those with the template and an agent that
/// can do what is asked for, unless they are draining, ordered by memory per sandbox. `None` stands for a host that does not
/// answer. The list is never empty.
///
/// # Errors
/// If there is no such host.
pub fn rank_hosts(hosts: &[Option<HostView>]) -> Result<Vec<usize>, Unschedulable> {
    if hosts.iter().all(Option::is_none) {
        return Err(Unschedulable::NoHost);
    }
    let answering = hosts
        .iter()
        .enumerate()
        .filter_map(|(index, view)| Some((index, view.as_ref()?)));
    let mut fit: Vec<(usize, &HostView)> =
        answering.filter(|(_, view)| view.has_template).collect();
    if fit.is_empty() {
        return Err(Unschedulable::NoTemplate);
    }
    fit.retain(|(_, view)| view.is_able);
    if fit.is_empty() {
        return Err(Unschedulable::OldAgents);
    }
    fit.retain(|(_, view)| !view.is_draining);
    if fit.is_empty() {
        return Err(Unschedulable::Draining);
    }
    fit.sort_by_key(|(index, view)| {
        let share = view.memory_bytes / (u64::from(view.sandboxes) + 1);
        (std::cmp::Reverse(share), *index)
    });
    Ok(fit.into_iter().map(|(index, _)| index).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(has_template: bool, sandboxes: u32, memory_bytes: u64) -> Option<HostView> {
        Some(HostView {
            has_template,
            is_able: true,
            is_draining: false,
            sandboxes,
            memory_bytes,
        })
    }

    #[test]
    fn roomiest_host_with_template_is_first() {
        let hosts = [
            view(true, 9, 100),
            None,
            view(true, 1, 100),
            view(false, 0, 100),
        ];
        assert_eq!(rank_hosts(&hosts), Ok(vec![2, 0]));
    }

    #[test]
    fn missing_host_or_template_is_told() {
        assert_eq!(rank_hosts(&[]), Err(Unschedulable::NoHost));
        assert_eq!(rank_hosts(&[None]), Err(Unschedulable::NoHost));
        let others = [view(false, 0, 1), None];
        assert_eq!(rank_hosts(&others), Err(Unschedulable::NoTemplate));
    }

    #[test]
    fn host_with_old_agent_is_left_out() {
        let unable = |has_template| {
            view(has_template, 0, 1000).map(|view| HostView {
                is_able: false,
                ..view
            })
        };
        let hosts = [unable(true), view(true, 9, 100)];
        assert_eq!(rank_hosts(&hosts), Ok(vec![1]));
        let hosts = [unable(true), view(false, 9, 100)];
        assert_eq!(rank_hosts(&hosts), Err(Unschedulable::OldAgents));
        assert_eq!(rank_hosts(&[unable(false)]), Err(Unschedulable::NoTemplate));
    }

    #[test]
    fn draining_host_is_left_out() {
        let draining = view(true, 0, 1000).map(|view| HostView {
            is_draining: true,
            ..view
        });
        let hosts = [draining.clone(), view(true, 9, 100)];
        assert_eq!(rank_hosts(&hosts), Ok(vec![1]));
        let hosts = [draining, view(false, 9, 100)];
        assert_eq!(rank_hosts(&hosts), Err(Unschedulable::Draining));
    }

    proptest! {
        /// The ranking has each host that answers and has the template once, and no other.
        #[test]
        fn ranking_has_exactly_fit_hosts(hosts in proptest::collection::vec(
            proptest::option::of((any::<bool>(), any::<u32>(), any::<u64>())), 0..8,
        )) {
            let hosts: Vec<Option<HostView>> = hosts
                .into_iter()
                .map(|host| host.and_then(|(has, n, memory)| view(has, n, memory)))
                .collect();
            let mut chosen = rank_hosts(&hosts).unwrap_or_default();
            chosen.sort_unstable();
            let fit = |view: &Option<HostView>| view.as_ref().is_some_and(|view| view.has_template);
            let expected: Vec<usize> = (0..hosts.len()).filter(|&index| fit(&hosts[index])).collect();
            prop_assert_eq!(chosen, expected);
        }
    }
}
