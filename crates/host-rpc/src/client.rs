//! Clients of the services of one host agent.

use std::fmt::Display;

use connectrpc::client::{ClientConfig, ClientTransport, HttpClient};
use connectrpc::http_body::Body;

use crate::{
    CommandServiceClient, FileServiceClient, HostServiceClient, LogServiceClient,
    NetworkServiceClient, SandboxServiceClient, SnapshotServiceClient, StatsServiceClient,
    TemplateServiceClient,
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
    network: NetworkServiceClient,
    logs: LogServiceClient,
    stats: StatsServiceClient,
}
