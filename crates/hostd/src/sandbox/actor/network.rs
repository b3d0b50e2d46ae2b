//! Replaces the network rules of a sandbox.

use model::NetworkSpec;

use crate::operation::{OperationError, OperationKind};
use crate::sandbox::context::Context;

/// Writes the rules into the record, then applies them if there is a network. If that fails the
/// former ones are written again.
pub(super) async fn set_rules(
    context: &Context,
    rules: &NetworkSpec,
) -> Result<(), OperationError> {
    let former = write_rules(context, rules.clone()).await?;
    fail::fail_point!("network::rules-written");
    let egress = context.handle.egress.lock().clone();
    if let Some(egress) = egress
        && let Err(error) = egress.change(rules.clone()).await
    {
        write_rules(context, former).await?;
        let error = OperationKind::Network.error(error);
        return Err(error.context("the sandbox's former network rules hold"));
    }
    let line = "the sandbox has other network rules";
    context.handle.log.add_event(line);
    context.report_sandbox();
    Ok(())
}

/// Writes the rules into the record, and returns the former ones.
async fn write_rules(context: &Context, rules: NetworkSpec) -> Result<NetworkSpec, OperationError> {
    let mut record = context.record();
    let former = record.spec.replace_network(rules);
    record.generation = context.state.generations.next(record.generation);
    context.write_record(record.clone()).await?;
    context.record.send_replace(record);
    Ok(former)
}
