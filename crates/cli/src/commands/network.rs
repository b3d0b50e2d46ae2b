//! `wrenn network`.

use client::types::{NetworkRules, Sandbox};

use super::Session;
use crate::args::{NetworkArgs, RulesArgs};
use crate::ids;
use crate::output::{self, printable};

/// Shows the rules, or puts others in their place.
pub async fn manage_network(session: &Session, args: NetworkArgs) -> anyhow::Result<()> {
    let id = ids::resolve_id(&session.client, &args.id).await?;
    let sandbox = match (rules_from(args.rules), args.open) {
        (Some(rules), _) => session.client.set_network(&id, &rules).await?,
        (None, true) => {
            session
                .client
                .set_network(&id, &NetworkRules::default())
                .await?
        }
        (None, false) => session.client.get(&id).await?,
    };
    if session.json {
        output::print_json(&sandbox.network)
    } else {
        output::print_line(&described(&sandbox))
    }
}

/// Returns the network rules that the flags ask for; `None` without flags.
pub fn rules_from(args: RulesArgs) -> Option<NetworkRules> {
    let RulesArgs {
        allow_out,
        deny_out,
        no_internet,
        egress_mbps,
        ingress_mbps,
    } = args;
    let rules = NetworkRules {
        allow_out,
        deny_out,
        allow_internet: !no_internet,
        egress_mbps,
        ingress_mbps,
    };
    (rules != NetworkRules::default()).then_some(rules)
}

/// Returns the rules in one line, for `info`.
pub fn summarize_rules(rules: &NetworkRules) -> String {
    let list = |what: &str, entries: &[String]| match entries {
        [] => None,
        entries => Some(format!("{what} {}", entries.join(", "))),
    };
    let rest = match (rules.allow_internet, is_open(rules)) {
        (true, true) => "the internet is open",
        (true, false) => "the rest of the internet is open",
        (false, _) => "no internet",
    };
    let speed =
        |what: &str, mbps: Option<u32>| mbps.map(|mbps| format!("{what} at most {mbps} Mbit/s"));
    let parts = [
        list("allow", &rules.allow_out),
        list("deny", &rules.deny_out),
        Some(rest.to_owned()),
        speed("sends", rules.egress_mbps),
        speed("receives", rules.ingress_mbps),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn described(sandbox: &Sandbox) -> String {
    let rules = &sandbox.network;
    let list = |name: &str, entries: &[String]| {
        entries
            .iter()
            .map(|entry| format!("{name:<9}{entry}"))
            .collect()
    };
    let rest = if rules.allow_internet {
        "allow"
    } else {
        "deny"
    };
    let speed =
        |name: &str, mbps: Option<u32>| mbps.map(|mbps| format!("{name:<9}at most {mbps} Mbit/s"));
    let lines: [Vec<String>; 4] = [
        list("allow", &rules.allow_out),
        list("deny", &rules.deny_out),
        vec![format!(
            "{rest:<9}the {}internet",
            if is_open(rules) { "" } else { "rest of the " }
        )],
        [
            speed("send", rules.egress_mbps),
            speed("receive", rules.ingress_mbps),
        ]
        .into_iter()
        .flatten()
        .collect(),
    ];
    lines
        .concat()
        .iter()
        .map(|line| printable(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns true if no rule restricts where the sandbox may connect to.
fn is_open(rules: &NetworkRules) -> bool {
    rules.allow_internet && rules.allow_out.is_empty() && rules.deny_out.is_empty()
}
