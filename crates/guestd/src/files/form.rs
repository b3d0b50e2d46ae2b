//! `POST /files` as a multipart form: each part named `file` becomes a file.
//!
//! The parser takes over all that its source has ready before it looks at any of it. So the source
//! stands behind a gate that lets one piece through, and only when the parser has nothing more to
//! give: memory holds a piece or two, whatever the form holds and however fast it comes.

use std::collections::HashSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::poll_fn;
use futures::{FutureExt as _, Stream, StreamExt as _};
use guest_rpc::http::WrittenFile;

use super::body::{BodyError, Pieces};
use super::target::Wish;
use super::upload::{write_pieces, written_file};
use crate::http::error::HttpError;

/// Maximum number of bytes without content: what is between two parts, with the headers of the
/// next. A piece of the body can be half of it.
const HEAD_LIMIT: usize = 1 << 20;

/// Writes the parts named `file` of a form, each to where `place` says for its file name.
///
/// # Errors
/// Errors of the files; 400 for a form that cannot be read or names a path twice.
pub async fn save_form(
    boundary: &str,
    body: &mut Pieces,
    place: impl Fn(Option<&str>) -> Result<Wish, HttpError>,
) -> Result<Vec<WrittenFile>, HttpError> {
    let gate = Arc::new(Gate::default());
    let mut form = multer::Multipart::new(gated(gate.clone(), body), boundary);
    let mut paths = HashSet::<PathBuf>::new();
    let mut done = Vec::new();
    while let Some(field) = next_field(&gate, &mut form).await? {
        let is_file = field.name() == Some("file");
        let name = field.file_name().map(str::to_owned);
        let mut content = pin!(contents(gate.clone(), field));
        if !is_file {
            // Others are passed over, as the reference does.
            while let Some(piece) = content.next().await {
                piece.map_err(|e| broken(&e))?;
            }
            continue;
        }
        let wish = place(name.as_deref())?;
        if !paths.insert(wish.path.clone()) {
            let path = wish.path.display();
            return Err(HttpError::bad_request(format!(
                "path '{path}' is in the form twice: only the first was written"
            )));
        }
        done.push(written_file(
            write_pieces(wish, content, |e| broken(&e)).await?,
        ));
    }
    Ok(done)
}

/// Reads a form, and refuses its first file.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let piece = Bytes::copy_from_slice(bytes);
    let mut body: Pieces = Box::pin(futures::stream::iter([Ok(piece)]));
    let refuse = |_: Option<&str>| Err(HttpError::bad_request("no files here"));
    let _ = futures::executor::block_on(save_form("x", &mut body, refuse));
}

/// Gate that lets the parser have one piece at a time; see the module.
#[derive(Debug, Default)]
struct Gate {
    open: AtomicBool,
    /// Bytes that went through.
    passed: AtomicUsize,
}

impl Gate {
    /// Polls the parser, and lets it have one piece each time that it cannot go on without.
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut parser: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            if let Poll::Ready(given) = parser(context) {
                self.open.store(false, Ordering::Relaxed);
                return Poll::Ready(given);
            }
            // Still open: it was the source that had nothing, and the source will wake this task.
            if self.open.swap(true, Ordering::Relaxed) {
                return Poll::Pending;
            }
        }
    }
}

fn gated(
    gate: Arc<Gate>,
    body: &mut Pieces,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    futures::stream::poll_fn(move |context| {
        if !gate.open.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let piece = ready!(body.poll_next_unpin(context));
        gate.open.store(false, Ordering::Relaxed);
        if let Some(Ok(bytes)) = &piece {
            gate.passed.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Poll::Ready(piece)
    })
}

async fn next_field<'a>(
    gate: &Gate,
    form: &mut multer::Multipart<'a>,
) -> Result<Option<multer::Field<'a>>, HttpError> {
    let before = gate.passed.load(Ordering::Relaxed);
    let mut next = pin!(form.next_field());
    let field = poll_fn(|context| {
        gate.poll(context, |context| {
            if gate.passed.load(Ordering::Relaxed) - before > HEAD_LIMIT {
                return Poll::Ready(None);
            }
            next.poll_unpin(context).map(Some)
        })
    });
    let too_long = || {
        HttpError::bad_request(format!(
            "the multipart form has {HEAD_LIMIT} bytes outside of its parts"
        ))
    };
    field.await.ok_or_else(too_long)?.map_err(|e| broken(&e))
}

fn contents(
    gate: Arc<Gate>,
    mut field: multer::Field<'_>,
) -> impl Stream<Item = Result<Bytes, multer::Error>> {
    futures::stream::poll_fn(move |context| {
        gate.poll(context, |context| field.poll_next_unpin(context))
    })
}

fn broken(error: &multer::Error) -> HttpError {
    use std::error::Error as _;
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    HttpError::bad_request(format!("the multipart form cannot be read: {error}{cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of the form is ready at once, and then for ever more.
    fn endless(start: &str) -> (Arc<AtomicUsize>, Pieces) {
        let taken = Arc::new(AtomicUsize::new(0));
        let start = Bytes::from(start.to_owned());
        let count = taken.clone();
        let rest = futures::stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from_static(&[b'x'; 4096]))
        });
        (
            taken,
            Box::pin(futures::stream::once(async { Ok(start) }).chain(rest)),
        )
    }

    #[tokio::test]
    async fn parser_reads_no_further_than_needed() {
        let (taken, mut body) =
            endless("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n");
        let gate = Arc::new(Gate::default());
        let mut form = multer::Multipart::new(gated(gate.clone(), &mut body), "b");
        let field = next_field(&gate, &mut form)
            .await
            .expect("reads")
            .expect("a part");
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        let mut content = pin!(contents(gate.clone(), field));
        for _ in 0..10 {
            content.next().await.expect("content").expect("reads");
        }
        assert!(taken.load(Ordering::Relaxed) <= 11, "{taken:?}");
    }

    #[tokio::test]
    async fn headers_without_end_are_refused() {
        let (taken, mut body) = endless("--b\r\nContent-Disposition: ");
        let refused = save_form("b", &mut body, |_| panic!("no part is complete"))
            .await
            .expect_err("must be refused");
        assert!(
            refused.message.contains(&HEAD_LIMIT.to_string()),
            "{}",
            refused.message
        );
        assert!(taken.load(Ordering::Relaxed) <= HEAD_LIMIT / 4096 + 1);
    }
}
