//! Flags of `wrenn mcp`.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Speaks the Model Context Protocol on standard input and output; a client starts it. For example in its configuration:

  { \"mcpServers\": { \"wrenn\": { \"command\": \"wrenn\", \"args\": [\"mcp\"] } } }

Sandboxes that its tools create are deleted when the client ends, unless they are kept. A client that speaks HTTP needs
no program: the server has the same tools at /mcp, with the API key as `Authorization: Bearer KEY`.")]
pub struct McpArgs {
    /// Sandbox that may be used from the beginning, by id or name; it is not deleted at the end.
    /// Can be given several times
    #[arg(long = "sandbox", value_name = "SANDBOX")]
    pub sandboxes: Vec<String>,

    /// Template of sandboxes where a tool names none; `wrenn templates` lists them
    /// [default: minimal]
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,

    /// Keep the sandboxes when the client ends
    #[arg(long)]
    pub keep: bool,
}
