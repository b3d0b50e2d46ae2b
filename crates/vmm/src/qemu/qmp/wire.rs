//! Reads lines of JSON that a QEMU sends over QMP, within bounds.
//!
//! A QEMU that was taken over by its guest sends anything, for as long as it likes. So a line is
//! never longer than [`LINE_LIMIT`], which is also the most that is buffered of a line without an
//! end, and messages and bytes have budgets in time. A QEMU that exceeds one of them, or speaks no
//! QMP, is refused for good ([`QmpError::Violation`]); the owner of the VM ends it.

use std::io;

use futures::StreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use crate::budget::Budget;

/// Maximum line, bytes. The longest answer is the content of the console's ring, 88 KiB as base64.
const LINE_LIMIT: usize = 1 << 20;

/// Messages per second, and at once. QEMU sends a handful of events in the life of a VM; a guest
/// whose disk is full on the host makes it send one for each failed request.
const MESSAGE_RATE: u64 = 5_000;
const MESSAGE_BURST: u64 = 50_000;

/// Bytes per second, and at once. A guest that prints as fast as it can makes 1.5 MB/s of answers.
const BYTE_RATE: u64 = 8 << 20;
const BYTE_BURST: u64 = 64 << 20;

/// Reason why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(in crate::qemu) enum QmpError {
    /// The connection can be made again.
    #[error("the connection broke: {0}")]
    Lost(#[from] io::Error),
    #[error("it {0}")]
    Violation(#[from] Violation),
}

/// Violation of the protocol, which shows that the process was taken over, or is no QEMU. Texts
/// follow "it".
#[derive(Debug, thiserror::Error)]
pub(in crate::qemu) enum Violation {
    #[error("sent a QMP line of more than {LINE_LIMIT} bytes")]
    LongLine,
    #[error("sent a QMP line that is no text")]
    NotText,
    #[error("sent more than {MESSAGE_RATE} QMP messages a second for a while")]
    TooManyMessages,
    #[error("sent more than {BYTE_RATE} bytes of QMP a second for a while")]
    TooManyBytes,
    #[error("sent a line that is no QMP message ({0})")]
    NotMessage(serde_json::Error),
    #[error("sent no greeting at the beginning of a QMP connection")]
    NoGreeting,
    #[error("sent a wrong greeting ({0}) at the beginning of a QMP connection")]
    WrongGreeting(serde_json::Error),
    #[error("refused a command ({0}) at the beginning of a QMP connection")]
    RefusedHandshake(CommandError),
    #[error("does not answer but sends other messages at the beginning of a QMP connection")]
    NoHandshakeAnswer,
    #[error("sent a SHUTDOWN event that is none")]
    WrongShutdown,
}

/// Error of a command that was answered.
#[derive(Debug, thiserror::Error)]
pub(in crate::qemu) enum CommandError {
    /// QEMU refused it, with this text, bounded and printable.
    #[error("{0}")]
    Refused(String),
    #[error("its answer is not what was expected")]
    UnexpectedAnswer(#[source] serde_json::Error),
}

/// Reader of messages within the bounds.
#[derive(Debug)]
pub(super) struct Lines {
    lines: FramedRead<OwnedReadHalf, LinesCodec>,
    messages: Budget,
    bytes: Budget,
}

/// Line, with the members that tell its kind.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) line: String,
}

/// Members that tell the kind of a message.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    /// Id of the command, in an answer.
    #[serde(default)]
    pub(super) id: Option<u64>,
    #[serde(default)]
    pub(super) event: Option<String>,
    /// Member of the greeting.
    #[serde(default, rename = "QMP")]
    pub(super) greeting: Option<IgnoredAny>,
}

/// Splits a socket into both directions of a connection.
pub(super) fn split_socket(socket: UnixStream) -> (Lines, OwnedWriteHalf) {
    let (read, write) = socket.into_split();
    let lines = FramedRead::new(read, LinesCodec::new_with_max_length(LINE_LIMIT));
    let messages = Budget::new(MESSAGE_RATE, MESSAGE_BURST);
    (
        Lines {
            lines,
            messages,
            bytes: Budget::new(BYTE_RATE, BYTE_BURST),
        },
        write,
    )
}

impl Lines {
    /// Returns the next message. Cancel-safe.
    ///
    /// # Errors
    /// [`QmpError::Lost`] at the end of the connection.
    pub(super) async fn next_message(&mut self) -> Result<Message, QmpError> {
        let line = match self.lines.next().await {
            Some(Ok(line)) => line,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                return Err(Violation::LongLine.into());
            }
            // Lines that are not UTF-8 are reported as this, too.
            Some(Err(LinesCodecError::Io(error))) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Violation::NotText.into());
            }
            Some(Err(LinesCodecError::Io(error))) => return Err(QmpError::Lost(error)),
            None => return Err(QmpError::Lost(io::ErrorKind::UnexpectedEof.into())),
        };
        if !self.messages.spend(1) {
            return Err(Violation::TooManyMessages.into());
        }
        if !self.bytes.spend(line.len() as u64) {
            return Err(Violation::TooManyBytes.into());
        }
        match serde_json::from_str(&line) {
            Ok(head) => Ok(Message { head, line }),
            Err(error) => Err(Violation::NotMessage(error).into()),
        }
    }
}

/// Reads everything that a QEMU sends, to the end of the connection or to the first violation.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use tokio::io::AsyncWriteExt;
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
    else {
        return;
    };
    runtime.block_on(async {
        let Ok((ours, mut theirs)) = UnixStream::pair() else {
            return;
        };
        let (mut lines, _write) = split_socket(ours);
        let read = async move { while lines.next_message().await.is_ok() {} };
        let write = async move { drop(theirs.write_all(bytes).await) };
        tokio::join!(read, write);
    });
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Sends the bytes until the reader stops. Returns the number of messages that it read, and its
    /// error.
    async fn read_all(content: &[u8], repeat: usize) -> (usize, QmpError) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut lines, write) = split_socket(ours);
        let content = content.to_owned();
        let sender = tokio::spawn(async move {
            for _ in 0..repeat {
                if theirs.write_all(&content).await.is_err() {
                    return;
                }
            }
        });
        let mut messages = 0;
        let error = loop {
            match lines.next_message().await {
                Ok(_) => messages += 1,
                Err(error) => break error,
            }
        };
        assert!(
            lines.lines.read_buffer().capacity() <= 4 * LINE_LIMIT,
            "kept: {}",
            lines.lines.read_buffer().len()
        );
        drop((lines, write));
        sender.await.unwrap();
        (messages, error)
    }

    fn is_violation(error: &QmpError, words: &str) -> bool {
        matches!(error, QmpError::Violation(violation) if violation.to_string().contains(words))
    }

    #[tokio::test]
    async fn line_without_end_is_violation() {
        let (messages, error) = read_all(&[b'x'; 64 << 10], usize::MAX).await;
        assert!(
            messages == 0 && is_violation(&error, "line of more than"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn flood_of_events_is_violation() {
        let event = b"{\"event\": \"NIC_RX_FILTER_CHANGED\", \"data\": {}, \"timestamp\": {\"seconds\": 1}}\r\n";
        let (messages, error) = read_all(event, usize::MAX).await;
        let most = usize::try_from(MESSAGE_BURST).unwrap();
        assert!(
            messages >= most && is_violation(&error, "messages a second"),
            "{messages}: {error}"
        );
    }

    #[tokio::test]
    async fn flood_of_long_lines_is_violation() {
        let line = [
            b"{\"a\": \"",
            vec![b'x'; LINE_LIMIT - 100].as_slice(),
            b"\"}\n",
        ]
        .concat();
        let (_, error) = read_all(&line, usize::MAX).await;
        assert!(is_violation(&error, "bytes of QMP a second"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_message_is_violation() {
        for wrong in [
            "hello",
            "{\"id\": \"x\"}",
            "{\"id\": -1}",
            "[",
            "7",
            "{\"event\": {}}",
        ] {
            let (_, error) = read_all(format!("{wrong}\n").as_bytes(), 1).await;
            assert!(is_violation(&error, "no QMP message"), "{wrong}: {error}");
        }
        let (_, error) = read_all(b"\xff\xfe\n", 1).await;
        assert!(is_violation(&error, "no text"), "{error}");
        // Deep nesting costs no stack.
        let (messages, error) = read_all(
            &["{\"a\": ", &"[".repeat(100_000), "\n"]
                .concat()
                .into_bytes(),
            1,
        )
        .await;
        assert!(
            messages == 0 && is_violation(&error, "no QMP message"),
            "{error}"
        );
        let (messages, error) = read_all(b"{\"return\": {}, \"id\": 7}\n", 1).await;
        assert!(
            messages == 1 && matches!(error, QmpError::Lost(_)),
            "{error}"
        );
    }
}
