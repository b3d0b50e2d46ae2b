//! `wrenn mcp`.

use mcp::Options;

use super::Session;
use crate::args::McpArgs;
use crate::interrupt::Interrupt;

/// Serves a client on standard input and output until it ends or asks to.
pub async fn serve_client(session: &Session, args: McpArgs) -> anyhow::Result<()> {
    let options = Options {
        attached: args.sandboxes,
        template: args.template,
        keep: args.keep,
    };
    let mut interrupt = Interrupt::listen()?;
    let stopping = async {
        interrupt.recv().await;
    };
    let served = mcp::serve_stdio(session.client.clone(), options, stopping);
    served.await.map_err(|error| anyhow::anyhow!(error))
}
