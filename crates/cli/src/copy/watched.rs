//! Streams on their way up: their bytes are counted, and their errors kept.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use crate::output::Progress;

/// Slot in which a stream leaves the error with which it ended: the upload's own error only says
/// that it broke off.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    /// Keeps the error of a stream.
    pub fn watch<S>(&self, data: S) -> impl Stream<Item = io::Result<Bytes>> + Send + use<S>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        let failure = self.clone();
        data.map(move |part| {
            part.map_err(|error| {
                let copy = io::Error::new(error.kind(), error.to_string());
                *failure.0.lock() = Some(error);
                copy
            })
        })
    }

    /// Returns the error that was kept.
    pub fn take(&self) -> Option<io::Error> {
        self.0.lock().take()
    }
}

/// Adds the bytes of a stream to the progress that is shown.
pub fn counted<S>(
    data: S,
    progress: &Arc<Progress>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<S>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let progress = progress.clone();
    data.inspect(move |part| progress.add(part.as_ref().map_or(0, Bytes::len)))
}
