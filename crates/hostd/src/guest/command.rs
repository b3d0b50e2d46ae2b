//! Background commands in the guest.

use std::time::Duration;

use connectrpc::client::ServerStream;
use connectrpc::{ConnectError, ErrorCode};
use guest_rpc::command as rpc;
use guest_rpc::command::__buffa::view::AttachResponseView;
use guest_rpc::command::CommandServiceClient;

use super::{Guest, RpcTransport, as_user, prompt_as_user, unreachable_agent};

/// Output of a command, as the guest sends it.
pub type AttachStream = ServerStream<
    <RpcTransport as connectrpc::client::ClientTransport>::ResponseBody,
    AttachResponseView<'static>,
>;

/// Time for the guest to say whether commands keep the sandbox in use.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Replaces the answer of a guest agent of an earlier version, which knows no such service.
pub fn explain_old_guest(error: ConnectError) -> ConnectError {
    if error.code != ErrorCode::Unimplemented {
        return error;
    }
    ConnectError::failed_precondition(
        "the sandbox was started by an earlier version, whose guest agent has no background commands: run it with \
         exec, or create the sandbox again",
    )
}

impl Guest {
    fn commands(&self) -> Result<CommandServiceClient<RpcTransport>, ConnectError> {
        let config = self.config().map_err(unreachable_agent)?;
        Ok(CommandServiceClient::new(self.rpc.clone(), config))
    }

    /// Starts a command as a user.
    ///
    /// # Errors
    /// The guest's own error: no such program, user or directory; too many; a name that is taken.
    pub async fn start_command(
        &self,
        request: rpc::StartRequest,
        user: Option<&str>,
    ) -> Result<rpc::Command, ConnectError> {
        let started = self
            .commands()?
            .start_with_options(request, as_user(user))
            .await;
        let started = started.map_err(explain_old_guest)?;
        let command = started.into_owned().command.into_option();
        command.ok_or_else(no_command)
    }

    /// Sets the start command, which the guest starts by itself, within a time. The same one again
    /// changes nothing.
    ///
    /// # Errors
    /// `FailedPrecondition` where the guest agent has no start commands.
    pub async fn supervise(
        &self,
        request: rpc::SuperviseRequest,
        timeout: Duration,
    ) -> Result<(), ConnectError> {
        let options = prompt_as_user(None).with_timeout(timeout);
        let set = self
            .commands()?
            .supervise_with_options(request, options)
            .await;
        set.map(drop).map_err(|error| match error.code {
            ErrorCode::Unimplemented => ConnectError::failed_precondition(
                "its guest agent is of an earlier version, which has no start command: leave start_command out, or \
                 make the snapshot again from a sandbox of this version",
            ),
            _ => error,
        })
    }

    /// Lists all commands that run or are kept.
    ///
    /// # Errors
    /// When the guest agent does not answer or has no background commands.
    pub async fn list_commands(&self) -> Result<Vec<rpc::Command>, ConnectError> {
        let request = rpc::ListRequest::default();
        let options = prompt_as_user(None);
        let listed = self.commands()?.list_with_options(request, options).await;
        let listed = listed.map_err(explain_old_guest)?;
        Ok(listed.into_owned().commands)
    }

    /// Finds a command by id, name or pid.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_command(&self, command: String) -> Result<rpc::Command, ConnectError> {
        let request = rpc::GetRequest {
            command,
            ..Default::default()
        };
        let options = prompt_as_user(None);
        let found = self.commands()?.get_with_options(request, options).await;
        let found = found.map_err(explain_old_guest)?.into_owned();
        found.command.into_option().ok_or_else(no_command)
    }

    /// Sends input. Waits while the command does not read.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn send_command_input(
        &self,
        request: rpc::SendInputRequest,
    ) -> Result<(), ConnectError> {
        let sent = self.commands()?.send_input(request).await;
        sent.map(drop).map_err(explain_old_guest)
    }

    /// Signals the process group of a command.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn signal_command(
        &self,
        request: rpc::SendSignalRequest,
    ) -> Result<(), ConnectError> {
        let options = prompt_as_user(None);
        let sent = self
            .commands()?
            .send_signal_with_options(request, options)
            .await;
        sent.map(drop).map_err(explain_old_guest)
    }

    /// Streams the output of a command.
    ///
    /// # Errors
    /// `NotFound`; an offset behind the end.
    pub async fn attach_command(
        &self,
        request: rpc::AttachRequest,
    ) -> Result<AttachStream, ConnectError> {
        let attached = self.commands()?.attach(request).await;
        attached.map_err(explain_old_guest)
    }

    /// Returns whether commands that count as use run, and since when none does.
    pub async fn kept_alive(&self) -> KeptAlive {
        let request = rpc::GetKeepAliveRequest::default();
        let options = prompt_as_user(None).with_timeout(KEEP_ALIVE_TIMEOUT);
        let Ok(client) = self.commands() else {
            return KeptAlive::Unknown;
        };
        match client.get_keep_alive_with_options(request, options).await {
            Ok(answer) => {
                let answer = answer.into_owned();
                match (answer.running, answer.idle_ms) {
                    (0, None) => KeptAlive::Never,
                    (0, Some(idle)) => KeptAlive::Until(Duration::from_millis(idle)),
                    _ => KeptAlive::Now,
                }
            }
            // An agent of an earlier version, which has no background commands.
            Err(error) if error.code == ErrorCode::Unimplemented => KeptAlive::Never,
            Err(_) => KeptAlive::Unknown,
        }
    }
}

/// Use of a sandbox by its own commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptAlive {
    Now,
    /// Until so long ago.
    Until(Duration),
    /// No command of its own ever used it.
    Never,
    /// It did not answer: it may be busy.
    Unknown,
}

fn no_command() -> ConnectError {
    ConnectError::internal("the guest agent did not say which command it means")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn guest_without_commands_is_explained() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = Guest::new(listener.local_addr().unwrap(), "token");
        let other_services = connectrpc::Router::new().into_axum_service();
        let router = axum::Router::new().fallback_service(other_services);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        let listed = guest.list_commands().await.unwrap_err();
        let attached = match guest.attach_command(rpc::AttachRequest::default()).await {
            Ok(mut stream) => stream.message::<rpc::AttachResponse>().await.map(drop),
            Err(error) => Err(error),
        };
        for error in [listed, explain_old_guest(attached.unwrap_err())] {
            assert_eq!(error.code, ErrorCode::FailedPrecondition);
            assert!(error.message.unwrap().contains("create the sandbox again"));
        }
        let refused = guest
            .supervise(rpc::SuperviseRequest::default(), KEEP_ALIVE_TIMEOUT)
            .await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, ErrorCode::FailedPrecondition);
        assert!(refused.message.unwrap().contains("leave start_command out"));
        assert_eq!(guest.kept_alive().await, KeptAlive::Never);
        serving.abort();
    }

    #[tokio::test]
    async fn silent_guest_is_not_known_idle() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let guest = Guest::new(address, "token");
        assert_eq!(guest.kept_alive().await, KeptAlive::Unknown);
    }
}
