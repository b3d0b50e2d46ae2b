//! Network options of a create, and `PUT /sandboxes/{id}/network`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use model::{NetworkSpec, Target};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Id};
use super::error::{Failure, Result};
use super::living::find_living;
use super::spec;
use crate::app::{App, spawn_detached};
use crate::auth::Principal;

/// Entry of `denyOut` that is the whole internet.
const EVERYWHERE: &str = "0.0.0.0/0";

/// Object `network` of a create, and body of an update (E2B contract 1.8).
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkBody {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    rules: Option<BTreeMap<String, Value>>,
    egress_proxy: Option<Value>,
    dns_servers: Option<Vec<String>>,
    https_ports: Option<Vec<u16>>,
    mask_request_host: Option<String>,
    allow_public_traffic: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
}

impl NetworkBody {
    /// Returns false if ports need a traffic token.
    pub fn allows_public_traffic(&self) -> bool {
        self.allow_public_traffic.unwrap_or(true)
    }

    /// Returns the rules that `body` asks for.
    ///
    /// # Errors
    /// 501 for what this server has not; 400 names the entry that is wrong.
    pub fn network_spec(body: Option<&Self>, allows_internet: bool) -> Result<NetworkSpec> {
        let none = Self::default();
        let body = body.unwrap_or(&none);
        body.refuse_unsupported()?;
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let (allow, deny) = (list(&body.allow_out), list(&body.deny_out));
        let allows_internet = allows_internet && body.allow_internet_access.unwrap_or(true);
        let rules = NetworkSpec::parse(&allow, &deny, allows_internet)?;
        let is_name = |target: &Target| matches!(target, Target::Name(_));
        if rules.deny_out.iter().any(is_name) {
            let text = "denyOut takes IP addresses and networks, not names";
            return Err(Failure::invalid(text));
        }
        let is_closed = !allows_internet || deny.iter().any(|entry| entry == EVERYWHERE);
        if rules.allow_out.iter().any(is_name) && !is_closed {
            let text = format!(
                "allowOut has names, which needs {EVERYWHERE:?} in denyOut: otherwise everything is allowed anyway"
            );
            return Err(Failure::invalid(text));
        }
        Ok(rules)
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        let all = [
            (
                self.rules.as_ref().is_some_and(|rules| !rules.is_empty()),
                "rules that change requests (network.rules)",
            ),
            (
                is_set(&self.egress_proxy),
                "upstream proxy (network.egressProxy)",
            ),
            (
                self.dns_servers.as_ref().is_some_and(|all| !all.is_empty()),
                "choice of resolvers (network.dnsServers)",
            ),
            (
                self.https_ports.as_ref().is_some_and(|all| !all.is_empty()),
                "TLS to ports of a sandbox (network.httpsPorts)",
            ),
            (
                self.mask_request_host.is_some(),
                "change of the host's name (network.maskRequestHost)",
            ),
        ];
        match all.into_iter().find(|(is_used, _)| *is_used) {
            Some((_, what)) => Err(Failure::unsupported(what, "leave it out")),
            None => Ok(()),
        }
    }
}

/// Returns the network options of a sandbox as they were asked for.
pub fn network_json(rules: &NetworkSpec, is_public: bool) -> Value {
    let texts =
        |targets: &[Target]| -> Vec<String> { targets.iter().map(ToString::to_string).collect() };
    json!({
        "allowOut": texts(&rules.allow_out),
        "denyOut": texts(&rules.deny_out),
        "allowPublicTraffic": is_public,
    })
}

/// Replaces all rules about where a sandbox may connect to. Its limits of speed stay.
pub async fn set_network(
    State(app): State<Arc<App>>,
    Extension(principal): Extension<Principal>,
    Id(id): Id,
    Body(body): Body<NetworkBody>,
) -> Result<StatusCode> {
    let row = find_living(&app, &principal, &id).await?;
    let rules = NetworkBody::network_spec(Some(&body), true)?;
    let rules = rules.with_bandwidth(spec::network_rules(&row.spec).bandwidth);
    let setting = async move { app.set_network(&principal, &id, &rules).await };
    spawn_detached(setting).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(body: Value) -> std::result::Result<NetworkSpec, u16> {
        let body: NetworkBody = serde_json::from_value(body).unwrap();
        NetworkBody::network_spec(Some(&body), true).map_err(|failure| failure.status().as_u16())
    }

    #[test]
    fn rules_of_names_need_closed_internet() {
        let named = |deny: &[&str]| rules(json!({"allowOut": ["example.com"], "denyOut": deny}));
        assert_eq!(named(&[]), Err(400));
        assert!(named(&[EVERYWHERE]).unwrap().is_closed());
        assert_eq!(rules(json!({"denyOut": ["example.com"]})), Err(400));
        let closed = rules(json!({"allow_internet_access": false})).unwrap();
        assert!(!closed.allow_internet);
    }

    #[test]
    fn unknown_options_are_named() {
        for body in [
            json!({"rules": {"a": []}}),
            json!({"egressProxy": {"address": "a:1"}}),
            json!({"dnsServers": ["1.1.1.1"]}),
            json!({"httpsPorts": [443]}),
            json!({"maskRequestHost": "a"}),
        ] {
            assert_eq!(rules(body), Err(501));
        }
        let empty = json!({"rules": {}, "egressProxy": null, "dnsServers": []});
        assert_eq!(rules(empty), Ok(NetworkSpec::default()));
    }
}
