//! Checks a question of a guest, and makes its answer.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use model::NetworkSpec;
use model::network::{Access, is_blocked};

use super::address;
use crate::egress::{ADDRESSES, EgressPolicy};

/// Bytes of a question, which is one name and a few options.
pub(super) const LONGEST_QUESTION: usize = 1232;
/// Bytes of an answer over UDP: larger ones are lost on the way (DNS flag day 2020).
const LARGEST_OVER_UDP: u16 = 1232;
const SMALLEST: u16 = 512;

/// Returns the answer to a message; `None` if it is no question. Over UDP, an answer that is longer
/// than the guest takes is truncated, so that it asks again over TCP.
pub(super) async fn answer_question(
    policy: &EgressPolicy,
    bytes: &[u8],
    over_udp: bool,
) -> Option<Vec<u8>> {
    let question = Message::from_vec(bytes).ok()?;
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&question.queries);
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_OVER_UDP);
        answer.set_edns(edns);
    }
    match records(policy, &question).await {
        Ok(records) => answer.answers = records,
        Err(code) => answer.metadata.response_code = code,
    }
    let limit = if over_udp {
        question.max_payload().clamp(SMALLEST, LARGEST_OVER_UDP)
    } else {
        u16::MAX
    };
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit.into() {
        Some(bytes)
    } else {
        answer.truncate().to_vec().ok()
    }
}

/// Returns the answer `REFUSED` to a question beyond the limits; `None` if it is no question.
pub(super) fn refuse_question(bytes: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(bytes).ok()?;
    let is_question = question.metadata.message_type == MessageType::Query;
    let refused = Message::error_msg(
        question.metadata.id,
        question.metadata.op_code,
        ResponseCode::Refused,
    );
    is_question.then(|| refused.to_vec().ok()).flatten()
}

async fn records(policy: &EgressPolicy, question: &Message) -> Result<Vec<Record>, ResponseCode> {
    if question.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let [asked] = question.queries.as_slice() else {
        return Err(ResponseCode::FormErr);
    };
    let rules = policy.rules();
    let Some(name) = checked_name(asked, &rules) else {
        return Err(ResponseCode::Refused);
    };
    let access = rules.judge_name(&name);
    if access == Access::Denied {
        policy
            .events
            .log_denied(&format!("DNS question for {name}"));
        // Of all codes the one at which every resolver of a guest gives up at once.
        return Err(ResponseCode::NXDomain);
    }
    if has_no_answer(asked.query_type(), &rules, policy.has_ipv6) {
        return Ok(Vec::new());
    }
    let found = policy
        .upstream
        .ask(asked.name().clone(), asked.query_type())
        .await?;
    if access == Access::Open
        && let Some(other) = found
            .iter()
            .filter_map(alias)
            .find(|other| is_denied(&rules, other))
    {
        policy.events.log_denied(&format!(
            "DNS question for {name}, which is another name of {other}"
        ));
        return Err(ResponseCode::NXDomain);
    }
    let records = reachable(policy, &name, found);
    pin_addresses(policy, &name, &records).await?;
    Ok(records)
}

/// Adds the addresses of an answer to the kernel's sets, before the guest has the answer.
async fn pin_addresses(
    policy: &EgressPolicy,
    name: &str,
    records: &[Record],
) -> Result<(), ResponseCode> {
    // Loopback is the guest itself, so no rule applies.
    let addresses: Vec<IpAddr> = records
        .iter()
        .filter_map(address)
        .filter(|address| !address.is_loopback())
        .collect();
    if addresses.is_empty() {
        return Ok(());
    }
    let ttl = records.iter().map(|record| record.ttl).min();
    let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
    policy.pin(name, &addresses, ttl).await.map_err(|error| {
        // A guest decides how often, so this is no warning; its own log has it.
        tracing::debug!(
            error = stdx::error::chain(&error),
            "an answer is kept back: the kernel does not let it through"
        );
        ResponseCode::ServFail
    })
}

/// Returns the name in lower case, without a dot at its end. `None` if its class is not `IN`, or if
/// there are rules and a label has other characters than letters, digits, `-` and `_`: a label with
/// a dot in it would look like two.
fn checked_name(asked: &Query, rules: &NetworkSpec) -> Option<String> {
    let right = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_plain = asked.name().iter().all(|label| label.iter().all(right));
    let is_fine = is_plain || !(rules.has_names() || rules.is_closed());
    let name = asked.name().to_ascii().to_ascii_lowercase();
    (is_fine && asked.query_class() == DNSClass::IN).then(|| name.trim_end_matches('.').to_owned())
}

/// Returns true for types that get an empty answer: `AAAA` without IPv6, types that are no single
/// question, and with rules `HTTPS` and `SVCB`, which hold addresses and keys (ECH) that hide the
/// name of a connection.
fn has_no_answer(kind: RecordType, rules: &NetworkSpec, has_ipv6: bool) -> bool {
    match kind {
        RecordType::AAAA => !has_ipv6,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR => true,
        RecordType::HTTPS | RecordType::SVCB => rules.has_names() || rules.is_closed(),
        _ => false,
    }
}

fn alias(record: &Record) -> Option<&Name> {
    match &record.data {
        RData::CNAME(name) => Some(&name.0),
        _ => None,
    }
}

fn is_denied(rules: &NetworkSpec, name: &Name) -> bool {
    rules.judge_name(&name.to_ascii()) == Access::Denied
}

/// Removes addresses that no sandbox reaches, since a name of the internet has none of a private
/// network, and those beyond [`ADDRESSES`]. Loopback stays: names such as `localtest.me` and
/// `lvh.me` stand for the guest itself.
fn reachable(policy: &EgressPolicy, name: &str, found: Vec<Record>) -> Vec<Record> {
    let mut addresses = 0;
    let mut keep = |record: &Record| {
        let Some(address) = address(record) else {
            return true;
        };
        if is_blocked(address) && !address.is_loopback() {
            policy.events.log_denied(&format!(
                "{name} at {address}, an address that no sandbox reaches"
            ));
            return false;
        }
        addresses += 1;
        addresses <= ADDRESSES
    };
    found.into_iter().filter(|record| keep(record)).collect()
}
