//! Clients of the services of one host agent.

use std::fmt::Display;

use connectrpc::client::{ClientConfig, ClientTransport, HttpClient};
use connectrpc::http_body::Body;
use connectrpc::{ConnectError, ErrorCode};

use crate::{
    CommandServiceClient, FileServiceClient, HostServiceClient, ImageServiceClient,
    LogServiceClient, NetworkServiceClient, SandboxServiceClient, SnapshotServiceClient,
    StatsServiceClient, TemplateServiceClient,
};

/// Client of a host agent. All services are reached over the same transport, with the same header
/// fields.
#[derive(Debug, Clone)]
pub struct HostClient<T = HttpClient> {
    transport: T,
    config: ClientConfig,
}

impl<T: ClientTransport> HostClient<T> {
    #[must_use]
    pub fn new(transport: T, config: ClientConfig) -> Self {
        Self { transport, config }
    }
}

/// Declares the methods that return the client of a service.
macro_rules! service_clients {
    ($($name:ident: $client:ident),* $(,)?) => {
        impl<T: ClientTransport> HostClient<T>
        where
            <T::ResponseBody as Body>::Error: Display,
        {
            $(
                #[must_use]
                pub fn $name(&self) -> $client<T> {
                    $client::new(self.transport.clone(), self.config.clone())
                }
            )*
        }
    };
}

service_clients! {
    host: HostServiceClient,
    sandboxes: SandboxServiceClient,
    commands: CommandServiceClient,
    files: FileServiceClient,
    snapshots: SnapshotServiceClient,
    templates: TemplateServiceClient,
    images: ImageServiceClient,
    network: NetworkServiceClient,
    logs: LogServiceClient,
    stats: StatsServiceClient,
}

/// Returns true if the connection of a call broke after the call may have been sent: what was called
/// may have carried it out. The RPC client gives that the same code as a refused connection.
#[must_use]
pub fn has_connection_broken(error: &ConnectError) -> bool {
    error.code == ErrorCode::Unavailable
        && error.source_arc().is_some()
        && !has_failed_to_connect(error)
}

/// Returns true if no connection could be made, so that nothing was sent.
#[must_use]
pub fn has_failed_to_connect(error: &ConnectError) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let transport = error.downcast_ref::<hyper_util::client::legacy::Error>();
        if transport.is_some_and(hyper_util::client::legacy::Error::is_connect) {
            return true;
        }
        cause = error.source();
    }
    false
}
