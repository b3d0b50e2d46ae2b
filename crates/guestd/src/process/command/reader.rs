//! One reader of a command's output, as a stream of messages.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use futures::Stream;
use guest_rpc::command as rpc;
use guest_rpc::command::__buffa::oneof::attach_response::Event;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::log::Progress;
use super::table::Command;
use crate::process::output::Source;

/// Bytes of one message.
const PIECE: usize = 64 << 10;

pub struct Reader {
    command: Arc<Command>,
    progress: watch::Receiver<Progress>,
    offset: u64,
    until: Until,
    keepalive: Duration,
    state: State,
    /// Place among the readers of the command.
    _permit: OwnedSemaphorePermit,
}

/// Where a stream ends.
#[derive(Debug, Clone, Copy)]
enum Until {
    /// With the command.
    End,
    /// At this offset.
    Offset(u64),
    /// With the first output, or at this time.
    Output(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Reading,
    Over,
}

impl Reader {
    /// Creates a reader as a request asks for it.
    ///
    /// # Errors
    /// `invalid_argument` for an offset behind the end; `failed_precondition` if there are too many
    /// readers.
    pub fn new(
        command: Arc<Command>,
        request: &rpc::AttachRequest,
        keepalive: Duration,
    ) -> Result<Self, ConnectError> {
        let progress = command.log.watch();
        let Progress { end, .. } = command.log.progress();
        if request.offset > end {
            return Err(ConnectError::invalid_argument(format!(
                "offset {} lies behind the output of the command, which ends at {end}",
                request.offset
            )));
        }
        let permit = Arc::clone(&command.readers).try_acquire_owned();
        let permit = permit.map_err(|_| {
            ConnectError::failed_precondition(
                "the command has as many readers as it may have: close one first",
            )
        })?;
        let wait = Duration::from_millis(request.wait_ms.into());
        let until = match request.follow {
            true => Until::End,
            false if request.offset == end && !wait.is_zero() => {
                Until::Output(Instant::now() + wait)
            }
            false => Until::Offset(end),
        };
        Ok(Self {
            command,
            progress,
            offset: request.offset,
            until,
            keepalive,
            state: State::Fresh,
            _permit: permit,
        })
    }

    /// Converts the reader to a stream of messages.
    pub fn into_stream(
        self,
    ) -> impl Stream<Item = Result<rpc::AttachResponse, ConnectError>> + Send + 'static {
        futures::stream::unfold((self, None), |(mut reader, waiting)| async move {
            let event = match waiting {
                Some(event) => Ok(event),
                None => match reader.next().await {
                    Ok(Some(event)) => Ok(event),
                    Ok(None) => return None,
                    Err(error) => {
                        reader.state = State::Over;
                        Err(error)
                    }
                },
            };
            let (event, waiting) = match event {
                Ok((event, after)) => (Ok(event), after.map(|after| (after, None))),
                Err(error) => (Err(error), None),
            };
            let message = event.map(|event| rpc::AttachResponse {
                event: Some(event),
                ..Default::default()
            });
            Some((message, (reader, waiting)))
        })
    }

    /// Returns the next event, and the one that follows it at once, if there is one.
    async fn next(&mut self) -> Result<Option<(Event, Option<Event>)>, ConnectError> {
        match self.state {
            State::Over => return Ok(None),
            State::Fresh => {
                self.state = State::Reading;
                return Ok(Some((Event::Attached(Box::new(self.command.info())), None)));
            }
            State::Reading => {}
        }
        loop {
            // Before the output is read: what is read after the end is all there is.
            let Progress { end, ended, .. } = *self.progress.borrow_and_update();
            if let Some(found) = self.read().await? {
                return Ok(Some(found));
            }
            // A stream without `follow` can end before output that has come since.
            if ended.is_some() && self.offset >= end {
                self.state = State::Over;
                return Ok(Some((ended_event(&self.command), None)));
            }
            match self.until {
                Until::Offset(_) => return Ok(None),
                Until::Output(deadline) => {
                    if timeout_at(deadline, self.progress.changed()).await.is_err() {
                        return Ok(None);
                    }
                    let Progress { end, .. } = self.command.log.progress();
                    self.until = Until::Offset(end);
                }
                Until::End => {
                    if timeout(self.keepalive, self.progress.changed())
                        .await
                        .is_err()
                    {
                        let keepalive = rpc::attach_response::KeepAlive::default();
                        return Ok(Some((Event::from(keepalive), None)));
                    }
                }
            }
        }
    }

    /// Reads output from the present offset on; `None` where the stream has no more now.
    async fn read(&mut self) -> Result<Option<(Event, Option<Event>)>, ConnectError> {
        let limit = match self.until {
            Until::Offset(end) => usize::try_from(end.saturating_sub(self.offset))
                .unwrap_or(PIECE)
                .min(PIECE),
            Until::End | Until::Output(_) => PIECE,
        };
        if limit == 0 {
            return Ok(None);
        }
        let (command, offset) = (self.command.clone(), self.offset);
        let reading = tokio::task::spawn_blocking(move || command.log.read(offset, limit));
        let read = reading
            .await
            .map_err(|e| ConnectError::internal(e.to_string()))?
            .map_err(|e| ConnectError::internal(format!("output cannot be read: {e}")))?;
        let Some((piece, data)) = read else {
            return Ok(None);
        };
        self.offset = piece.offset + data.len() as u64;
        let output = Event::from(rpc::attach_response::Output {
            offset: piece.offset,
            stream: stream(piece.source).into(),
            data,
            ..Default::default()
        });
        if piece.dropped == 0 {
            return Ok(Some((output, None)));
        }
        let dropped = rpc::attach_response::Dropped {
            bytes: piece.dropped,
            offset: piece.offset,
            ..Default::default()
        };
        Ok(Some((Event::from(dropped), Some(output))))
    }
}

fn ended_event(command: &Command) -> Event {
    Event::Ended(Box::new(command.info()))
}

fn stream(source: Source) -> rpc::Stream {
    match source {
        Source::Stdout => rpc::Stream::STREAM_STDOUT,
        Source::Stderr => rpc::Stream::STREAM_STDERR,
        Source::Terminal => rpc::Stream::STREAM_TERMINAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::command::log::Ended;
    use crate::process::output::End;
    use crate::reaper::Exit;

    fn reader(command: &Arc<Command>, offset: u64) -> Reader {
        let request = rpc::AttachRequest {
            offset,
            ..Default::default()
        };
        Reader::new(command.clone(), &request, Duration::from_secs(60)).unwrap()
    }

    /// Returns the output of the next event, and whether it is the end of the command.
    async fn next(reader: &mut Reader) -> (Vec<u8>, bool) {
        match reader.next().await.unwrap() {
            Some((Event::Output(output), None)) => (output.data, false),
            Some((Event::Ended(_), None)) => (Vec::new(), true),
            None => (Vec::new(), false),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn reader_without_follow_tells_end_after_all_output() {
        let command = Command::example(1, false);
        command.log.append(Source::Stdout, b"one");
        let mut first = reader(&command, 0);
        assert!(matches!(
            first.next().await.unwrap(),
            Some((Event::Attached(_), None))
        ));
        assert_eq!(next(&mut first).await, (b"one".to_vec(), false));
        command.log.append(Source::Stdout, b"two");
        command.log.finish(Ended {
            end: End {
                exit: Exit::Code(0),
                timed_out: false,
            },
            at_ms: 1,
        });
        assert_eq!(next(&mut first).await, (Vec::new(), false));
        let mut second = reader(&command, 3);
        second.next().await.unwrap();
        assert_eq!(next(&mut second).await, (b"two".to_vec(), false));
        assert_eq!(next(&mut second).await, (Vec::new(), true));
    }
}
