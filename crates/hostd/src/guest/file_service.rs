//! Files in the guest, beyond what E2B's service has.

use connectrpc::client::ServerStream;
use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::file as rpc;
use guest_rpc::file::__buffa::view::{SearchResponseView, WatchResponseView};
use guest_rpc::file::FileServiceClient;
use guest_rpc::filesystem::EntryInfo;

use super::{Guest, RpcTransport, as_user, prompt_as_user, unreachable_agent};

/// Changes below a directory, as the guest sends them.
pub type WatchStream = ServerStream<
    <RpcTransport as connectrpc::client::ClientTransport>::ResponseBody,
    WatchResponseView<'static>,
>;

/// Matches of a search, as the guest sends them.
pub type SearchStream = ServerStream<
    <RpcTransport as connectrpc::client::ClientTransport>::ResponseBody,
    SearchResponseView<'static>,
>;

/// Replaces the answer of a guest agent of an earlier version, which knows no such service.
pub fn explain_old_files(error: ConnectError) -> ConnectError {
    if error.code != ErrorCode::Unimplemented {
        return error;
    }
    ConnectError::failed_precondition(
        "the sandbox was started by an earlier version, whose guest agent cannot do this with files: run a command \
         in it that does, or create the sandbox again",
    )
}

impl Guest {
    fn files(&self) -> Result<FileServiceClient<RpcTransport>, ConnectError> {
        let config = self.config().map_err(unreachable_agent)?;
        Ok(FileServiceClient::new(self.rpc.clone(), config))
    }

    /// Moves or renames a path.
    ///
    /// # Errors
    /// The guest's own error: nothing there, something in the way, another file system.
    pub async fn move_path(
        &self,
        request: rpc::MoveRequest,
        user: Option<&str>,
    ) -> Result<EntryInfo, ConnectError> {
        let options = prompt_as_user(user);
        let moved = self.files()?.move_with_options(request, options).await;
        let moved = moved.map_err(explain_old_files)?;
        Ok(moved.into_owned().entry.into_option().unwrap_or_default())
    }

    /// Changes permission bits. No time limit, as of all that works on trees.
    ///
    /// # Errors
    /// The guest's own error.
    pub async fn set_mode(
        &self,
        request: rpc::SetModeRequest,
        user: Option<&str>,
    ) -> Result<EntryInfo, ConnectError> {
        let options = as_user(user);
        let set = self.files()?.set_mode_with_options(request, options).await;
        let set = set.map_err(explain_old_files)?;
        Ok(set.into_owned().entry.into_option().unwrap_or_default())
    }

    /// Changes owner and group. No time limit, as of all that works on trees.
    ///
    /// # Errors
    /// The guest's own error.
    pub async fn set_owner(
        &self,
        request: rpc::SetOwnerRequest,
        user: Option<&str>,
    ) -> Result<EntryInfo, ConnectError> {
        let options = as_user(user);
        let set = self.files()?.set_owner_with_options(request, options).await;
        let set = set.map_err(explain_old_files)?;
        Ok(set.into_owned().entry.into_option().unwrap_or_default())
    }

    /// Watches a directory. Refusals can also come with the first message.
    ///
    /// # Errors
    /// The guest's own error.
    pub async fn watch_dir(
        &self,
        request: rpc::WatchRequest,
        user: Option<&str>,
    ) -> Result<WatchStream, ConnectError> {
        let options = as_user(user);
        let watch = self.files()?.watch_with_options(request, options).await;
        watch.map_err(explain_old_files)
    }

    /// Searches below a directory. Refusals can also come with the first message.
    ///
    /// # Errors
    /// The guest's own error.
    pub async fn search(
        &self,
        request: rpc::SearchRequest,
        user: Option<&str>,
    ) -> Result<SearchStream, ConnectError> {
        let options = as_user(user);
        let found = self.files()?.search_with_options(request, options).await;
        found.map_err(explain_old_files)
    }

    /// Lists a page of a directory; `None` where the guest agent is of an earlier version.
    ///
    /// # Errors
    /// The guest's own error.
    pub async fn list_page(
        &self,
        request: rpc::ListPageRequest,
        user: Option<&str>,
    ) -> Result<Option<rpc::ListPageResponse>, ConnectError> {
        let options = prompt_as_user(user);
        match self.files()?.list_page_with_options(request, options).await {
            Ok(page) => Ok(Some(page.into_owned())),
            Err(error) if error.code == ErrorCode::Unimplemented => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the error for a call that a guest agent of an earlier version cannot answer.
pub fn old_guest_error() -> ConnectError {
    explain_old_files(ConnectError::unimplemented(""))
}
