//! The list of all services of a host agent.

use std::sync::Arc;

use connectrpc::Router;

use crate::{
    CommandService, CommandServiceExt, FileService, FileServiceExt, HostService, HostServiceExt,
    ImageService, ImageServiceExt, LogService, LogServiceExt, NetworkService, NetworkServiceExt,
    SandboxService, SandboxServiceExt, SnapshotService, SnapshotServiceExt, StatsService,
    StatsServiceExt, TemplateService, TemplateServiceExt,
};

/// Returns a router of all services of the contract.
#[must_use]
pub fn register_services<S>(agent: &Arc<S>) -> Router
where
    S: HostService
        + SandboxService
        + CommandService
        + FileService
        + SnapshotService
        + TemplateService
        + ImageService
        + NetworkService
        + LogService
        + StatsService,
{
    let router = Router::new();
    let router = HostServiceExt::register(Arc::clone(agent), router);
    let router = SandboxServiceExt::register(Arc::clone(agent), router);
    let router = CommandServiceExt::register(Arc::clone(agent), router);
    let router = FileServiceExt::register(Arc::clone(agent), router);
    let router = SnapshotServiceExt::register(Arc::clone(agent), router);
    let router = TemplateServiceExt::register(Arc::clone(agent), router);
    let router = ImageServiceExt::register(Arc::clone(agent), router);
    let router = NetworkServiceExt::register(Arc::clone(agent), router);
    let router = LogServiceExt::register(Arc::clone(agent), router);
    StatsServiceExt::register(Arc::clone(agent), router)
}
