//! The handler of the protocol: who may ask, which tools there are.

use std::sync::{Arc, LazyLock};

use http::request::Parts;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::{IntoCallToolResult, ToolCallContext};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, Implementation, InitializeRequestParams,
    InitializeResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};

use crate::failure::Answer;
use crate::resources;
use crate::session::{Caller, Session};

const INSTRUCTIONS: &str = "Sandboxes are Linux virtual machines in which you may run anything. \
    Begin with create_sandbox; while there is one sandbox, the other tools need no name of it. \
    run_command waits for the end of a command, start_command does not and read_output reads what it wrote. \
    A server in a sandbox gets an address for the user by expose_port. Before something risky make a \
    checkpoint; roll_back undoes everything since, memory and files. Sandboxes are deleted when the \
    session ends, or after a day where there is no session, unless keep_sandbox is called.";

/// The tools, which are the same in every session.
static TOOLS: LazyLock<ToolRouter<SandboxServer>> = LazyLock::new(|| {
    SandboxServer::sandbox_tools()
        + SandboxServer::command_tools()
        + SandboxServer::file_tools()
        + SandboxServer::state_tools()
});

/// Tools and resources of one session.
#[derive(Debug, Clone)]
pub struct SandboxServer {
    pub(crate) session: Arc<Session>,
}

impl SandboxServer {
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self {
            session: Arc::new(session),
        }
    }

    /// Lets in the caller of an HTTP request; a program's is known.
    fn admit(&self, context: &RequestContext<RoleServer>) -> Answer<()> {
        let parts = context.extensions.get::<Parts>();
        match parts.and_then(|parts| parts.extensions.get::<Caller>()) {
            Some(caller) => self.session.admit(caller),
            None => self.session.client().map(drop),
        }
    }

    fn admit_request(&self, context: &RequestContext<RoleServer>) -> Result<(), ErrorData> {
        let refused =
            |failure: crate::failure::Failure| ErrorData::invalid_request(failure.0, None);
        self.admit(context).map_err(refused)
    }
}

impl ServerHandler for SandboxServer {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("wrenn", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.admit_request(&context)?;
        self.session.begin();
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(TOOLS.list_all()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        TOOLS.get(name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if let Err(failure) = self.admit(&context) {
            return failure.into_call_tool_result();
        }
        TOOLS
            .call(ToolCallContext::new(self, request, context))
            .await
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.admit_request(&context)?;
        Ok(resources::list(&self.session))
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(resources::templates())
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.admit_request(&context)?;
        resources::read(&self.session, &request.uri)
            .await
            .map(ReadResourceResponse::from)
    }
}
