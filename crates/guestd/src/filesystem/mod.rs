//! The Connect service `filesystem.Filesystem` (E2B contract 2.2 and 2.5).
//!
//! Every call acts as its user: the work runs on a blocking thread under that user's file system
//! identity. State is the polled watchers only. A call that was begun ends also when its client
//! hangs up.

use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use guest_rpc::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, Filesystem, GetWatcherEventsRequest,
    GetWatcherEventsResponse, ListDirRequest, ListDirResponse, MakeDirRequest, MakeDirResponse,
    MoveRequest, MoveResponse, RemoveRequest, RemoveResponse, RemoveWatcherRequest,
    RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest, WatchDirResponse,
};

use crate::Agent;
use crate::as_user::{blocking_as_user, run};
use crate::auth::Caller;
use crate::settings::Settings;
use crate::user::User;

pub mod change;
pub mod entry;
pub mod error;
pub mod operations;
pub mod path;
mod removal;
mod stream;
mod tree;
pub mod watch;
mod watchers;

use watch::{Watch, Wish};
use watchers::Watchers;

/// Creates the service's router, to be merged with the others.
pub fn service(agent: &Agent) -> connectrpc::Router {
    let service = Service {
        settings: agent.settings.clone(),
        watchers: Watchers::default(),
    };
    connectrpc::Router::new().add_service(Arc::new(service))
}

struct Service {
    settings: Arc<Settings>,
    watchers: Watchers,
}

impl Service {
    fn user(&self, context: &RequestContext) -> Result<User, ConnectError> {
        Caller::of(context.extensions()).rpc_user(&self.settings)
    }

    /// Resolves user and path of a request.
    fn at(&self, context: &RequestContext, path: &str) -> Result<(User, PathBuf), ConnectError> {
        let user = self.user(context)?;
        let path = path::resolve_path(&self.settings, &user, path)?;
        Ok((user, path))
    }
}

#[expect(
    refining_impl_trait,
    reason = "the generated trait asks for more freedom than we need"
)]
impl Filesystem for Service {
    async fn stat(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<StatResponse> {
        let (user, path) = self.at(&context, request.path)?;
        let entry = run(&user, move || operations::stat_entry(&path)).await?;
        Response::ok(StatResponse {
            entry: entry.into(),
            ..Default::default()
        })
    }

    async fn make_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<MakeDirResponse> {
        let (user, path) = self.at(&context, request.path)?;
        let entry = run(&user, move || operations::make_dir(&path)).await?;
        Response::ok(MakeDirResponse {
            entry: entry.into(),
            ..Default::default()
        })
    }

    async fn r#move(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<MoveResponse> {
        let user = self.user(&context)?;
        let source = path::resolve_named(&self.settings, &user, request.source, "source")?;
        let destination =
            path::resolve_named(&self.settings, &user, request.destination, "destination")?;
        let entry = run(&user, move || {
            operations::rename_entry(&source, &destination)
        })
        .await?;
        Response::ok(MoveResponse {
            entry: entry.into(),
            ..Default::default()
        })
    }

    async fn list_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<ListDirResponse> {
        let (user, path) = self.at(&context, request.path)?;
        let depth = request.depth;
        let entries = run(&user, move || operations::list_dir(&path, depth)).await?;
        Response::ok(ListDirResponse {
            entries,
            ..Default::default()
        })
    }

    async fn remove(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<RemoveResponse> {
        let user = self.user(&context)?;
        let path = path::resolve_named(&self.settings, &user, request.path, "path")?;
        run(&user, move || operations::remove_entry(&path)).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let (user, path) = self.at(&context, request.path)?;
        let wish = Wish {
            path,
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
            pair_renames: false,
            queue_limit: watch::QUEUE_LIMIT,
        };
        let watch = blocking_as_user(move || Watch::start(wish, &user)).await?;
        Response::stream_ok(stream::stream_events(watch, &context)?)
    }

    async fn create_watcher(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let (user, path) = self.at(&context, request.path)?;
        let wish = Wish {
            path,
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
            pair_renames: false,
            queue_limit: watch::QUEUE_LIMIT,
        };
        let watcher_id = self.watchers.create(wish, user).await?;
        Response::ok(CreateWatcherResponse {
            watcher_id,
            ..Default::default()
        })
    }

    async fn get_watcher_events(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self.watchers.poll(request.watcher_id).await?;
        Response::ok(GetWatcherEventsResponse {
            events,
            ..Default::default()
        })
    }

    async fn remove_watcher(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        self.watchers.remove(request.watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}
