//! Replaces settings of a sandbox.

use model::IdleSettings;

use crate::operation::OperationError;
use crate::sandbox::context::Context;

/// Writes the settings into the record, and reports them. They count from now on, or from the next
/// resume on.
pub(super) async fn set_idle(
    context: &Context,
    settings: IdleSettings,
) -> Result<(), OperationError> {
    let mut record = context.record();
    if record.spec.idle_settings() == settings {
        return Ok(());
    }
    record.spec.set_idle_settings(settings);
    record.generation = context.state.generations.next(record.generation);
    context.write_record(record.clone()).await?;
    context.publish_record(record);
    Ok(())
}
