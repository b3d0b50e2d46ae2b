//! `wrenn network`.

use client::types::{NetworkRules, Sandbox};

use super::Session;
use crate::args::{NetworkArgs, RulesArgs};
use crate::ids;
use crate::output::{self, printable};

/// Shows the rules, or puts others in their place.
pub async fn network(session: &Session, args: NetworkArgs) -> anyhow::Result<()> {
    let id = ids::resolve(&session.client, &args.id).await?;
    let sandbox = match (rules(args.rules), args.open) {
        (Some(rules), _) => session.client.set_network(&id, &rules).await?,
        (None, true) => session.client.set_network(&id, &NetworkRules::default()).await?,
        (None, false) => session.client.get(&id).await?,
    };
    if session.json { output::json(&sandbox.network) } else { output::line(&described(&sandbox)) }
}

/// What the flags say; none where there is no flag.
pub fn rules(args: RulesArgs) -> Option<NetworkRules> {
    let RulesArgs { allow_out, deny_out, no_internet } = args;
    let has_any = no_internet || !allow_out.is_empty() || !deny_out.is_empty();
    has_any.then_some(NetworkRules { allow_out, deny_out, allow_internet: !no_internet })
}

/// In one line, for those who look at a sandbox.
pub fn summary(rules: &NetworkRules) -> String {
    let list = |what: &str, entries: &[String]| match entries {
        [] => None,
        entries => Some(format!("{what} {}", entries.join(", "))),
    };
    let rest = if rules.allow_internet { "the rest of the internet is open" } else { "no internet" };
    let parts = [list("allow", &rules.allow_out), list("deny", &rules.deny_out), Some(rest.to_owned())];
    match *rules == NetworkRules::default() {
        true => "the internet is open".to_owned(),
        false => parts.into_iter().flatten().collect::<Vec<_>>().join("; "),
    }
}

fn described(sandbox: &Sandbox) -> String {
    let rules = &sandbox.network;
    let list = |name: &str, entries: &[String]| entries.iter().map(|entry| format!("{name:<9}{entry}")).collect();
    let rest = if rules.allow_internet { "allow" } else { "deny" };
    let lines: [Vec<String>; 3] = [
        list("allow", &rules.allow_out),
        list("deny", &rules.deny_out),
        vec![format!("{rest:<9}the {}internet", if rules == &NetworkRules::default() { "" } else { "rest of the " })],
    ];
    lines.concat().iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
}
