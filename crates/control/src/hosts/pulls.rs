//! Pulls of images, as hosts stream them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api_types::{PullPhase, RegistryCredentials};
use host_rpc as rpc;
use host_rpc::__buffa::oneof::pull_image_response::Event;
use host_rpc::__buffa::view::PullImageResponseView;
use model::{ErrorCode, TemplateName};

use super::Host;
use super::calls::{Messages, streaming};
use super::images::template_from;
use super::templates::Template;
use crate::error::{Error, Result};

/// Longest time without a message: hosts send one every five seconds at least.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// An image to pull.
#[derive(Debug, Clone)]
pub struct ImagePull {
    pub name: TemplateName,
    pub reference: String,
    pub credentials: Option<PullCredentials>,
    pub replace: bool,
}

/// Credentials of a request for a registry. No log has them.
#[derive(Clone)]
pub struct PullCredentials(RegistryCredentials);

impl fmt::Debug for PullCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PullCredentials")
    }
}

impl PullCredentials {
    /// Checks credentials of a request.
    ///
    /// # Errors
    /// `InvalidRequest` unless they are a name with a password, or an identity token.
    pub fn new(given: RegistryCredentials) -> Result<Self> {
        let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let fields = [&given.username, &given.password, &given.identity_token].map(is_set);
        if matches!(fields, [true, true, false] | [false, false, true]) {
            return Ok(Self(given));
        }
        let text = "credentials must have either username and password, or identity_token";
        Err(Error::invalid(text))
    }

    fn into_message(self) -> rpc::RegistryCredentials {
        let RegistryCredentials {
            username,
            password,
            identity_token,
        } = self.0;
        rpc::RegistryCredentials {
            username: username.unwrap_or_default(),
            password: password.unwrap_or_default(),
            identity_token: identity_token.unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    pub phase: PullPhase,
    pub bytes: u64,
    pub total_bytes: u64,
    pub layers_done: u32,
    pub layers: u32,
}

/// Event of a pull.
#[derive(Debug, Clone)]
pub enum PullEvent {
    Progress(PullProgress),
    /// The last one.
    Done(Box<Template>),
}

/// Events of a pull as they come. Dropped, it hangs up, and the pull ends.
#[derive(Debug)]
pub struct PullStream(Messages<PullImageResponseView<'static>>);

impl PullStream {
    /// Waits for the next event.
    ///
    /// # Errors
    /// The host's; there is no image then, unless it is one that does not tell.
    pub async fn next(&mut self) -> Result<PullEvent> {
        loop {
            let message = self.0.stream.message::<rpc::PullImageResponse>();
            let message = tokio::time::timeout(IDLE_TIMEOUT, message)
                .await
                .map_err(|_| {
                    let seconds = IDLE_TIMEOUT.as_secs();
                    let text = format!("nothing was heard of the pull for {seconds} s");
                    Error::new(ErrorCode::Timeout, text)
                })?;
            let message = message.map_err(|error| self.0.host.failed(&error))?;
            let Some(message) = message else {
                let text = "the host agent ended the pull before its end";
                return Err(Error::new(ErrorCode::AgentError, text));
            };
            match message.to_owned_message().event {
                Some(Event::Image(image)) => {
                    self.0.host.forget_inventory();
                    return template_from(*image).map(|image| PullEvent::Done(Box::new(image)));
                }
                Some(Event::Progress(progress)) => {
                    if let Some(progress) = progress_from(&progress) {
                        return Ok(PullEvent::Progress(progress));
                    }
                }
                None => {}
            }
        }
    }
}

impl Host {
    /// Begins to pull an image.
    ///
    /// # Errors
    /// That the host cannot be reached; its own come as the first event.
    pub async fn pull_image(self: &Arc<Self>, pull: &ImagePull) -> Result<PullStream> {
        let credentials = pull.credentials.clone();
        let request = rpc::PullImageRequest {
            name: pull.name.to_string(),
            reference: pull.reference.clone(),
            credentials: credentials.map(PullCredentials::into_message).into(),
            replace: pull.replace,
            ..Default::default()
        };
        self.forget_inventory();
        let stream = streaming!(self, images.pull_image(request), failed);
        Ok(PullStream(stream))
    }
}

/// Returns `None` while the registry is asked for the image.
fn progress_from(progress: &rpc::PullProgress) -> Option<PullProgress> {
    let phase = match progress.phase.as_known()? {
        rpc::PullPhase::PULL_PHASE_DOWNLOADING => PullPhase::Downloading,
        rpc::PullPhase::PULL_PHASE_UNPACKING => PullPhase::Unpacking,
        rpc::PullPhase::PULL_PHASE_RESOLVING | rpc::PullPhase::PULL_PHASE_UNSPECIFIED => {
            return None;
        }
    };
    Some(PullProgress {
        phase,
        bytes: progress.bytes,
        total_bytes: progress.total_bytes,
        layers_done: progress.layers_done,
        layers: progress.layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_whole_and_unseen() {
        let given = |fields: [Option<&str>; 3]| {
            let [username, password, identity_token] = fields.map(|it| it.map(str::to_owned));
            PullCredentials::new(RegistryCredentials {
                username,
                password,
                identity_token,
            })
        };
        let whole = given([Some("ann"), Some("secret"), None]).unwrap();
        assert_eq!(format!("{whole:?}"), "PullCredentials");
        given([None, None, Some("token")]).unwrap();
        for fields in [
            [None, None, None],
            [Some("ann"), None, None],
            [Some("ann"), Some(""), None],
            [Some("ann"), Some("secret"), Some("token")],
        ] {
            let error = given(fields).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
        }
    }
}
