//! The Connect service `file.FileService`: what E2B's `filesystem.Filesystem` does not have.
//!
//! As there, every call acts as its user on a blocking thread under that user's file system
//! identity, and a call that was begun ends also when its client hangs up. Nothing is kept between
//! calls: the cursor of a listing is the path of its last entry.

use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::{
    ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};
use guest_rpc::file as rpc;
use guest_rpc::file::FileService;

use crate::Agent;
use crate::as_user::{blocking_as_user, run};
use crate::auth::Caller;
use crate::filesystem::error::{FileError, Kind};
use crate::filesystem::watch::{Watch, Wish};
use crate::filesystem::{operations, path};
use crate::settings::Settings;
use crate::user::User;

mod mode;
mod owner;
mod page;
mod search;
mod walk;
mod watch;

use mode::ModeChange;
use owner::OwnerChange;

/// Creates the service's router, to be merged with the others.
pub fn service(agent: &Agent) -> connectrpc::Router {
    let service = Service {
        settings: agent.settings.clone(),
    };
    connectrpc::Router::new().add_service(Arc::new(service))
}

struct Service {
    settings: Arc<Settings>,
}

impl Service {
    fn user(&self, context: &RequestContext) -> Result<User, ConnectError> {
        Caller::of(context.extensions()).rpc_user(&self.settings)
    }

    /// Resolves user and path of a request that changes something: an empty path is an error.
    fn at_named(
        &self,
        context: &RequestContext,
        path: &str,
    ) -> Result<(User, PathBuf), ConnectError> {
        let user = self.user(context)?;
        let path = path::resolve_named(&self.settings, &user, path, "path")?;
        Ok((user, path))
    }
}

#[expect(
    refining_impl_trait,
    reason = "the generated trait asks for more freedom than we need"
)]
impl FileService for Service {
    async fn r#move(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::MoveRequest>,
    ) -> ServiceResult<rpc::MoveResponse> {
        let user = self.user(&context)?;
        let source = path::resolve_named(&self.settings, &user, request.source, "source")?;
        let destination =
            path::resolve_named(&self.settings, &user, request.destination, "destination")?;
        let no_replace = request.no_replace;
        let entry = run(&user, move || match no_replace {
            true => operations::rename_without_replacing(&source, &destination),
            false => operations::rename_entry(&source, &destination),
        })
        .await
        .map_err(|e| match e.kind {
            // Between file systems: no later attempt is different.
            Kind::Precondition => FileError::invalid(e.message),
            _ => e,
        })?;
        Response::ok(rpc::MoveResponse {
            entry: entry.into(),
            ..Default::default()
        })
    }

    async fn set_mode(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::SetModeRequest>,
    ) -> ServiceResult<rpc::SetModeResponse> {
        let (user, path) = self.at_named(&context, request.path)?;
        let change = ModeChange::parse(request.mode)?;
        let recursive = request.recursive;
        let entry = run(&user, move || {
            mode::change_mode(&path, &change, recursive)?;
            operations::stat_entry(&path)
        })
        .await?;
        Response::ok(rpc::SetModeResponse {
            entry: entry.into(),
            ..Default::default()
        })
    }

    async fn set_owner(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::SetOwnerRequest>,
    ) -> ServiceResult<rpc::SetOwnerResponse> {
        let (user, path) = self.at_named(&context, request.path)?;
        let change = OwnerChange::resolve(request.owner, request.group)?;
        let recursive = request.recursive;
        let entry = run(&user, move || {
            owner::change_owner(&path, change, recursive)?;
            operations::stat_entry(&path)
        })
        .await?;
        Response::ok(rpc::SetOwnerResponse {
            entry: entry.into(),
            ..Default::default()
        })
    }

    async fn list_page(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::ListPageRequest>,
    ) -> ServiceResult<rpc::ListPageResponse> {
        let user = self.user(&context)?;
        let path = path::resolve_path(&self.settings, &user, request.path)?;
        let after = page::parse_after(request.after)?;
        let depth = request.depth.max(1);
        let limit = request.limit;
        let page = run(&user, move || page::list_page(&path, depth, &after, limit)).await?;
        Response::ok(rpc::ListPageResponse {
            entries: page.entries,
            next: page.next,
            ..Default::default()
        })
    }

    async fn watch(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::WatchRequest>,
    ) -> ServiceResult<ServiceStream<rpc::WatchResponse>> {
        let user = self.user(&context)?;
        let wish = Wish {
            path: path::resolve_path(&self.settings, &user, request.path)?,
            recursive: request.recursive,
            include_entry: false,
            allow_network_mounts: request.allow_network_mounts,
            pair_renames: true,
            queue_limit: watch::QUEUE,
        };
        let watch = blocking_as_user(move || Watch::start(wish, &user)).await?;
        Response::stream_ok(watch::stream_changes(watch, &context)?)
    }

    async fn search(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, rpc::SearchRequest>,
    ) -> ServiceResult<ServiceStream<rpc::SearchResponse>> {
        let user = self.user(&context)?;
        let request = request.to_owned_message();
        let path = path::resolve_path(&self.settings, &user, &request.path)?;
        let query = search::Query::parse(&request)?;
        let top = path.clone();
        run(&user, move || operations::stat_entry(&top)).await?;
        Response::stream_ok(search::search(path, query, user))
    }
}
