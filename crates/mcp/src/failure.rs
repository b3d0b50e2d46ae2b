//! Failures as a model reads them: the result of a call, with what to do next.

use rmcp::ErrorData;
use rmcp::handler::server::tool::IntoCallToolResult;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock};

/// Result of a tool.
pub type Answer<T = CallToolResult> = Result<T, Failure>;

/// Failure of a tool. Not an error of the protocol: clients do not show those to the model.
#[derive(Debug)]
pub struct Failure(pub String);

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error.code() {
            Some(code) => Self(format!("{code}: {error}")),
            None => Self(with_causes(&error)),
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl IntoCallToolResult for Failure {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        CallToolResult::error(vec![ContentBlock::text(self.0)]).into_call_tool_result()
    }
}

/// Returns an answer of text.
pub fn text(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text.into())])
}
