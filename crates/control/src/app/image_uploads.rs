//! Uploads of images: how many a team may have at once, and how long one may stand still.
//!
//! An upload holds a name, and room on the disk of a host, for as long as its sender likes. Each may
//! also keep one of the few unpackers of the host busy, so that no team has all of them for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use model::{ErrorCode, TeamId};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Imports of a team at a time, in this process.
pub(crate) const MAX_IMPORTS: usize = 2;
/// Longest time without a byte of an upload.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Imports that are under way, by team.
#[derive(Debug, Clone, Default)]
pub struct ImageUploads(Arc<Mutex<BTreeMap<TeamId, usize>>>);

/// Place of one import of a team, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadPlace {
    uploads: ImageUploads,
    team: TeamId,
}

impl Drop for UploadPlace {
    fn drop(&mut self) {
        let mut teams = self.uploads.0.lock();
        if let Some(count) = teams.get_mut(&self.team) {
            *count -= 1;
            if *count == 0 {
                teams.remove(&self.team);
            }
        }
    }
}

impl ImageUploads {
    /// Reserves a place for an import.
    ///
    /// # Errors
    /// `ResourceExhausted` if the team has as many as it may.
    pub(super) fn reserve_place(&self, team: &TeamId) -> Result<UploadPlace> {
        let mut teams = self.0.lock();
        let count = teams.entry(team.clone()).or_default();
        if *count >= MAX_IMPORTS {
            let text = format!(
                "your team imports {MAX_IMPORTS} images at this moment, and may not import more at once; try again \
                 when one has ended"
            );
            return Err(Error::new(ErrorCode::ResourceExhausted, text));
        }
        *count += 1;
        Ok(UploadPlace {
            uploads: self.clone(),
            team: team.clone(),
        })
    }
}

/// Ends an upload with an error when nothing comes for [`IDLE_LIMIT`]. The time in which the host
/// takes nothing does not count.
pub(super) fn with_idle_limit<S>(upload: S) -> impl Stream<Item = Result<Bytes>> + Send + 'static
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    stream::unfold(Some(Box::pin(upload)), |upload| async move {
        let mut upload = upload?;
        match tokio::time::timeout(IDLE_LIMIT, upload.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(upload))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Err(_) => {
                let seconds = IDLE_LIMIT.as_secs();
                let text = format!("nothing came of the upload for {seconds} s; send it again");
                Some((Err(Error::invalid(text)), None))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_team_are_bounded() {
        let uploads = ImageUploads::default();
        let team: TeamId = "one".parse().unwrap();
        let places = [(); MAX_IMPORTS].map(|()| uploads.reserve_place(&team).unwrap());
        let refused = uploads.reserve_place(&team).unwrap_err();
        assert_eq!(refused.code, ErrorCode::ResourceExhausted);
        uploads.reserve_place(&"other".parse().unwrap()).unwrap();
        drop(places);
        uploads.reserve_place(&team).unwrap();
        assert!(uploads.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_upload_ends_with_error() {
        let bytes = || Ok(Bytes::from_static(b"x"));
        let slow = stream::iter([bytes(), bytes()]).then(|bytes| async {
            tokio::time::sleep(IDLE_LIMIT / 2).await;
            bytes
        });
        let silent = slow.chain(stream::pending());
        let items: Vec<_> = with_idle_limit(silent).collect().await;
        assert!(items[..2].iter().all(Result::is_ok));
        let error = items[2].as_ref().unwrap_err();
        assert!(error.message.contains("60 s"), "{error:?}");
        assert_eq!(items.len(), 3);
    }
}
