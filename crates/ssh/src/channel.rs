//! A channel (RFC 4254, section 5) from both sides: the state that the connection keeps, and the
//! end that a task has.
//!
//! Flow control: the client may send [`WINDOW`] bytes beyond what the task has consumed, and gets
//! more room as the task goes on, so input waits in memory within that bound and keeps no other
//! channel waiting. The task sends as much as the client has room for, and waits for more.
//!
//! ```text
//! opening ── confirmed ──> open ── one Close ──> closing ── the other Close ──> gone
//!    └────── refused ────────────────────────────────────────────────────────> gone
//! ```

use std::sync::Arc;

use bytes::Bytes;
use client::types::{ProcessSignal, TerminalSize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

/// Bytes that a client may send before they are consumed.
pub const WINDOW: u32 = 1024 * 1024;

/// Largest piece of data in one message, both ways.
pub const MAX_DATA: u32 = 32 * 1024;

/// Input of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Data(Bytes),
    Eof,
    Resize(TerminalSize),
    Signal(ProcessSignal),
}

/// Output of a task, for the connection.
#[derive(Debug)]
pub enum Output {
    /// A channel that the client has asked for exists, or why not.
    Opened(Result<(), String>),
    Data(Bytes),
    Stderr(Bytes),
    /// Bytes of input that need no room any more.
    Consumed(u32),
    Eof,
    /// Exit code of the program.
    Exit(u32),
    /// The last one.
    Close,
}

/// Output with the channel that it is of.
pub type ChannelOutput = (u32, Output);

/// State of a channel that the connection keeps.
#[derive(Debug)]
pub struct Channel {
    /// The client's number of it.
    pub peer: u32,
    /// Bytes that the client has room for.
    pub room: Arc<Semaphore>,
    /// Bytes that the client may send.
    window: u32,
    /// Bytes that were consumed and that the client does not know of.
    consumed: u32,
    pub input: mpsc::UnboundedSender<Input>,
    pub task: Option<AbortHandle>,
    /// True once our Close was sent.
    pub is_closing: bool,
}

/// The end of a channel that a task has.
#[derive(Debug)]
pub struct ChannelEnd {
    pub input: mpsc::UnboundedReceiver<Input>,
    pub sender: ChannelSender,
}

/// The part of it that sends.
#[derive(Debug, Clone)]
pub struct ChannelSender {
    number: u32,
    output: mpsc::Sender<ChannelOutput>,
    room: Arc<Semaphore>,
    max_data: u32,
}

/// The connection is gone, and with it every channel.
#[derive(Debug)]
pub struct Gone;

impl Channel {
    /// Creates both sides. `room` and `max_data` are the client's.
    pub fn new(
        number: u32,
        peer: u32,
        room: u32,
        max_data: u32,
        output: mpsc::Sender<ChannelOutput>,
    ) -> (Self, ChannelEnd) {
        let (input, receiver) = mpsc::unbounded_channel();
        let max_data = max_data.clamp(1, MAX_DATA);
        let room = Arc::new(Semaphore::new(size(room)));
        let sender = ChannelSender {
            number,
            output,
            room: room.clone(),
            max_data,
        };
        let channel = Self {
            peer,
            room,
            window: WINDOW,
            consumed: 0,
            input,
            task: None,
            is_closing: false,
        };
        let end = ChannelEnd {
            input: receiver,
            sender,
        };
        (channel, end)
    }

    /// Takes data of the client; false if it had no room for that.
    pub fn receive(&mut self, data: Bytes) -> bool {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let Some(left) = self.window.checked_sub(length) else {
            return false;
        };
        self.window = left;
        if self.input.send(Input::Data(data)).is_err() {
            // The program has ended: what it did not read needs no room.
            self.consumed = self.consumed.saturating_add(length);
        }
        true
    }

    /// Returns the room to grant the client, once there is enough of it to be worth a message.
    pub fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.consumed = self.consumed.saturating_add(bytes);
        if self.consumed < WINDOW / 2 {
            return None;
        }
        let granted = std::mem::take(&mut self.consumed);
        self.window = self.window.saturating_add(granted);
        Some(granted)
    }

    /// Notes that the client has more room.
    pub fn add_room(&self, bytes: u32) {
        let free = Semaphore::MAX_PERMITS - self.room.available_permits();
        self.room.add_permits(size(bytes).min(free));
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl ChannelSender {
    pub async fn send(&self, output: Output) -> Result<(), Gone> {
        let sent = self.output.send((self.number, output)).await;
        sent.map_err(|_| Gone)
    }

    /// Tells that input was taken, so that the client gets room for more.
    pub async fn send_consumed(&self, input: &Bytes) -> Result<(), Gone> {
        let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
        self.send(Output::Consumed(length)).await
    }

    /// Sends data, as the client has room for it.
    pub async fn send_data(&self, mut data: Bytes, is_stderr: bool) -> Result<(), Gone> {
        while !data.is_empty() {
            let wanted = data.len().min(size(self.max_data));
            let length = self.reserve(wanted).await?;
            let part = data.split_to(length);
            self.send(match is_stderr {
                true => Output::Stderr(part),
                false => Output::Data(part),
            })
            .await?;
        }
        Ok(())
    }

    /// Waits for room, and takes as much of it as is wanted and there.
    async fn reserve(&self, wanted: usize) -> Result<usize, Gone> {
        self.room.acquire().await.map_err(|_| Gone)?.forget();
        let more = self.room.available_permits().min(wanted - 1);
        let more = u32::try_from(more).unwrap_or_default();
        match self.room.try_acquire_many(more) {
            Ok(taken) => {
                taken.forget();
                Ok(1 + size(more))
            }
            // Only this task takes any; were it not so, one byte would still be right.
            Err(_) => Ok(1),
        }
    }

    /// Ends the channel of a program with its exit code.
    pub async fn exit(&self, code: u32) -> Result<(), Gone> {
        self.send(Output::Exit(code)).await?;
        self.close().await
    }

    /// Ends the channel.
    pub async fn close(&self) -> Result<(), Gone> {
        self.send(Output::Eof).await?;
        self.send(Output::Close).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(room: u32) -> (Channel, ChannelEnd, mpsc::Receiver<ChannelOutput>) {
        let (output, outputs) = mpsc::channel(16);
        let (channel, end) = Channel::new(3, 9, room, MAX_DATA, output);
        (channel, end, outputs)
    }

    #[test]
    fn client_stays_within_its_window() {
        let (mut channel, _end, _outputs) = channel(0);
        let half = Bytes::from(vec![0; size(WINDOW / 2)]);
        assert!(channel.receive(half.clone()));
        assert!(channel.receive(half.clone()));
        assert!(!channel.receive(Bytes::from_static(b"x")));
        assert_eq!(channel.consume(WINDOW / 2 - 1), None);
        assert_eq!(channel.consume(1), Some(WINDOW / 2));
        assert!(channel.receive(half));
        assert!(!channel.receive(Bytes::from_static(b"x")));
    }

    #[tokio::test]
    async fn data_waits_for_room() {
        let (channel, end, mut outputs) = channel(3);
        let sending = tokio::spawn(async move {
            end.sender
                .send_data(Bytes::from_static(b"abcdef"), false)
                .await
        });
        let data = |output| match output {
            Some((3, Output::Data(data))) => data,
            other => panic!("{other:?}"),
        };
        assert_eq!(data(outputs.recv().await), "abc");
        tokio::task::yield_now().await;
        assert!(outputs.try_recv().is_err(), "the client has no room");
        channel.add_room(2);
        let mut rest = Vec::new();
        while rest.len() < 2 {
            rest.extend_from_slice(&data(outputs.recv().await));
        }
        assert_eq!(rest, b"de");
        channel.add_room(u32::MAX);
        assert_eq!(data(outputs.recv().await), "f");
        sending.await.unwrap().unwrap();
    }
}
