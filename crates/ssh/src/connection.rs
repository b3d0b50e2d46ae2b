//! The connection of a client: its channels and requests (RFC 4254), in one task that owns the
//! transport. Everything that waits for the sandbox is a task of its own, one for each channel.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::channel::{Channel, ChannelEnd, ChannelOutput, Input, MAX_DATA, Output, WINDOW};
use crate::error::{Error, Result};
use crate::forward::{Incoming, Target, carry_connection, carry_incoming, listen_in_sandbox};
use crate::program::{Kind, Sandbox, run_program};
use crate::request::{Request, Setup, agent_tool};
use crate::transport::Transport;
use crate::wire::{Fields, Message, message};

/// Most channels at once. Each is a connection to the server.
const MAX_CHANNELS: usize = 256;

/// Messages of tasks that wait; beyond it the tasks do.
const QUEUE: usize = 64;

/// Bytes that are gathered before they are written.
const GATHERED: usize = 256 * 1024;

/// Reasons why a channel is not opened (RFC 4254, section 5.1).
const CONNECT_FAILED: u32 = 2;
const UNKNOWN_TYPE: u32 = 3;
const RESOURCE_SHORTAGE: u32 = 4;

/// Data of the program's standard error.
const STDERR: u32 = 1;

/// Writes a note for the user, beside the connection.
pub type Report = fn(&str);

/// Connection; see the module.
pub struct Connection<R, W> {
    transport: Transport<R, W>,
    sandbox: Sandbox,
    user: Option<String>,
    report: Report,
    channels: HashMap<u32, Channel>,
    /// Sessions whose program has not started, by channel.
    setups: HashMap<u32, (Setup, ChannelEnd)>,
    /// Connections to ports of the sandbox that the client has not taken yet, by channel.
    incoming: HashMap<u32, Incoming>,
    listening: HashMap<(String, u32), AbortHandle>,
    next: u32,
    outputs: mpsc::Sender<ChannelOutput>,
    arrivals: mpsc::Sender<Incoming>,
}

impl<R, W> Connection<R, W> {
    /// Serves the client until it ends the connection.
    pub async fn serve(
        transport: Transport<R, W>,
        sandbox: Sandbox,
        user: Option<String>,
        report: Report,
    ) -> Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (outputs, mut output) = mpsc::channel(QUEUE);
        let (arrivals, mut arrival) = mpsc::channel(QUEUE);
        let mut connection = Self {
            transport,
            sandbox,
            user,
            report,
            channels: HashMap::new(),
            setups: HashMap::new(),
            incoming: HashMap::new(),
            listening: HashMap::new(),
            next: 0,
            outputs,
            arrivals,
        };
        loop {
            tokio::select! {
                packet = connection.transport.receive() => {
                    let packet = connection.transport.filter(packet?).await?;
                    if let Some(packet) = packet
                        && !connection.handle_message(packet).await?
                    {
                        return Ok(());
                    }
                }
                Some(made) = output.recv() => {
                    connection.put_output(made)?;
                    while connection.transport.pending() < GATHERED
                        && let Ok(made) = output.try_recv()
                    {
                        connection.put_output(made)?;
                    }
                }
                Some(incoming) = arrival.recv() => connection.offer_incoming(incoming)?,
            }
            connection.transport.flush().await?;
        }
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Handles a message of the client; false if it ends the connection.
    async fn handle_message(&mut self, packet: Bytes) -> Result<bool> {
        let mut fields = Fields::new(packet);
        match fields.u8()? {
            message::DISCONNECT => return Ok(false),
            message::GLOBAL_REQUEST => self.handle_global(&mut fields).await?,
            message::CHANNEL_OPEN => self.open_channel(&mut fields)?,
            message::CHANNEL_OPEN_CONFIRMATION => self.confirmed(&mut fields)?,
            message::CHANNEL_OPEN_FAILURE => {
                let number = fields.u32()?;
                self.incoming.remove(&number);
                self.channels.remove(&number);
            }
            message::CHANNEL_WINDOW_ADJUST => {
                let (channel, _) = self.channel(&mut fields)?;
                let bytes = fields.u32()?;
                channel.add_room(bytes);
            }
            message::CHANNEL_DATA => {
                let (channel, number) = self.channel(&mut fields)?;
                let data = fields.bytes()?;
                if !channel.receive(data) {
                    return Err(Error::protocol("more than it had room for"));
                }
                self.grant(number, 0)?;
            }
            message::CHANNEL_EOF => {
                let (channel, _) = self.channel(&mut fields)?;
                // A program that has ended needs no end of input.
                let _ = channel.input.send(Input::Eof);
            }
            message::CHANNEL_CLOSE => {
                let (_, number) = self.channel(&mut fields)?;
                self.close_channel(number)?;
            }
            message::CHANNEL_REQUEST => self.handle_request(&mut fields)?,
            message::REQUEST_SUCCESS
            | message::REQUEST_FAILURE
            | message::CHANNEL_SUCCESS
            | message::CHANNEL_FAILURE
            | message::CHANNEL_EXTENDED_DATA => {}
            _ => {
                let sequence = self.transport.last_sequence();
                let unknown = Message::new(message::UNIMPLEMENTED).u32(sequence);
                self.transport.put(unknown)?;
            }
        }
        Ok(true)
    }

    /// Reads the number of a channel and finds it.
    fn channel(&mut self, fields: &mut Fields) -> Result<(&mut Channel, u32)> {
        let number = fields.u32()?;
        match self.channels.get_mut(&number) {
            Some(channel) => Ok((channel, number)),
            None => Err(Error::protocol(format!(
                "the number {number} of no channel"
            ))),
        }
    }

    fn new_channel(&mut self, peer: u32, room: u32, max_data: u32) -> (u32, ChannelEnd) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let (channel, end) = Channel::new(number, peer, room, max_data, self.outputs.clone());
        self.channels.insert(number, channel);
        (number, end)
    }

    fn set_task(&mut self, number: u32, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task).abort_handle();
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.task = Some(task);
        }
    }

    fn open_channel(&mut self, fields: &mut Fields) -> Result<()> {
        let kind = fields.text()?;
        let (peer, room, max_data) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if self.channels.len() >= MAX_CHANNELS {
            let text = format!("{MAX_CHANNELS} channels are open");
            return self.refuse_channel(peer, RESOURCE_SHORTAGE, &text);
        }
        let target = match kind.as_str() {
            "session" => {
                let (number, end) = self.new_channel(peer, room, max_data);
                self.setups.insert(number, (Setup::default(), end));
                return self.confirm_channel(number);
            }
            "direct-tcpip" => Target::from_host(&fields.text()?, fields.u32()?),
            "direct-streamlocal@openssh.com" => Ok(Target::from_path(&fields.text()?)),
            _ => {
                let text = format!("channels of type {kind:?} are not served");
                return self.refuse_channel(peer, UNKNOWN_TYPE, &text);
            }
        };
        match target {
            Ok(target) => {
                let (number, end) = self.new_channel(peer, room, max_data);
                let (sandbox, user) = (self.sandbox.clone(), self.user.clone());
                self.set_task(number, carry_connection(sandbox, user, target, end));
                Ok(())
            }
            Err(text) => self.refuse_channel(peer, CONNECT_FAILED, &text),
        }
    }

    fn confirm_channel(&mut self, number: u32) -> Result<()> {
        let Some(channel) = self.channels.get(&number) else {
            return Ok(());
        };
        let confirmation = Message::new(message::CHANNEL_OPEN_CONFIRMATION).u32(channel.peer);
        self.transport
            .put(confirmation.u32(number).u32(WINDOW).u32(MAX_DATA))
    }

    fn refuse_channel(&mut self, peer: u32, reason: u32, text: &str) -> Result<()> {
        let refusal = Message::new(message::CHANNEL_OPEN_FAILURE).u32(peer);
        self.transport.put(refusal.u32(reason).text(text).text(""))
    }

    /// Answers the client's Close, or ends the channel after ours was answered.
    fn close_channel(&mut self, number: u32) -> Result<()> {
        self.setups.remove(&number);
        match self.channels.remove(&number) {
            Some(channel) if !channel.is_closing => self
                .transport
                .put(Message::new(message::CHANNEL_CLOSE).u32(channel.peer)),
            _ => Ok(()),
        }
    }

    /// Grants room for what was consumed, once it is enough.
    fn grant(&mut self, number: u32, consumed: u32) -> Result<()> {
        let Some(channel) = self.channels.get_mut(&number) else {
            return Ok(());
        };
        let Some(room) = channel.consume(consumed) else {
            return Ok(());
        };
        let adjust = Message::new(message::CHANNEL_WINDOW_ADJUST).u32(channel.peer);
        self.transport.put(adjust.u32(room))
    }

    /// Tells the client what a task has made. That of a channel which is closing is of no use.
    fn put_output(&mut self, (number, output): ChannelOutput) -> Result<()> {
        let Some(channel) = self.channels.get_mut(&number) else {
            return Ok(());
        };
        if channel.is_closing {
            return Ok(());
        }
        let peer = channel.peer;
        let made = match output {
            Output::Consumed(bytes) => return self.grant(number, bytes),
            Output::Opened(Ok(())) => return self.confirm_channel(number),
            Output::Opened(Err(text)) => {
                self.channels.remove(&number);
                return self.refuse_channel(peer, CONNECT_FAILED, &text);
            }
            Output::Data(data) => Message::new(message::CHANNEL_DATA).u32(peer).bytes(&data),
            Output::Stderr(data) => Message::new(message::CHANNEL_EXTENDED_DATA)
                .u32(peer)
                .u32(STDERR)
                .bytes(&data),
            Output::Eof => Message::new(message::CHANNEL_EOF).u32(peer),
            Output::Exit(code) => Message::new(message::CHANNEL_REQUEST)
                .u32(peer)
                .text("exit-status")
                .u8(0)
                .u32(code),
            Output::Close => {
                channel.is_closing = true;
                Message::new(message::CHANNEL_CLOSE).u32(peer)
            }
        };
        self.transport.put(made)
    }

    fn handle_request(&mut self, fields: &mut Fields) -> Result<()> {
        let (channel, number) = self.channel(fields)?;
        let peer = channel.peer;
        let name = fields.text()?;
        let wants_reply = fields.bool()?;
        let request = Request::read(&name, fields)?;
        let is_done = self.carry_out(number, request);
        if !wants_reply {
            return Ok(());
        }
        let reply = match is_done {
            true => message::CHANNEL_SUCCESS,
            false => message::CHANNEL_FAILURE,
        };
        self.transport.put(Message::new(reply).u32(peer))
    }

    /// Carries out a request; false if it cannot be.
    fn carry_out(&mut self, number: u32, request: Request) -> bool {
        let user = self.user.clone();
        let (start, kind) = match request {
            Request::Resize(size) => return self.pass_on(number, Input::Resize(size)),
            Request::Signal(Some(signal)) => return self.pass_on(number, Input::Signal(signal)),
            Request::Signal(None) => return false,
            Request::Terminal { kind, size } => {
                let setup = self.setups.get_mut(&number);
                return setup.map(|(it, _)| it.set_terminal(kind, size)).is_some();
            }
            Request::Variable { name, value } => {
                let setup = self.setups.get_mut(&number);
                return setup.is_some_and(|(it, _)| it.set_variable(&name, &value));
            }
            Request::Unknown(name) => {
                self.note_refusal(&name);
                return false;
            }
            Request::Subsystem(name) if name == "sftp" => {
                (agent_tool(user, &["sftp-server"]), Kind::Sftp)
            }
            Request::Subsystem(name) => {
                (self.report)(&format!("there is no subsystem {name:?}, only sftp"));
                return false;
            }
            Request::Shell => match self.setups.get(&number) {
                Some((setup, _)) => (setup.clone().shell(user, None), Kind::Command),
                None => return false,
            },
            Request::Exec(command) => match self.setups.get(&number) {
                Some((setup, _)) => (setup.clone().shell(user, Some(&command)), Kind::Command),
                None => return false,
            },
        };
        // A channel runs one program.
        let Some((_, end)) = self.setups.remove(&number) else {
            return false;
        };
        self.set_task(number, run_program(self.sandbox.clone(), start, kind, end));
        true
    }

    fn pass_on(&mut self, number: u32, input: Input) -> bool {
        let channel = self.channels.get(&number);
        channel.is_some_and(|channel| channel.input.send(input).is_ok())
    }

    fn note_refusal(&self, request: &str) {
        match request {
            "x11-req" => (self.report)("X11 is not forwarded from sandboxes: leave out -X and -Y"),
            "auth-agent-req@openssh.com" => {
                (self.report)("agents are not forwarded into sandboxes: leave out -A");
            }
            _ => {}
        }
    }

    async fn handle_global(&mut self, fields: &mut Fields) -> Result<()> {
        let name = fields.text()?;
        let wants_reply = fields.bool()?;
        let port = match name.as_str() {
            "tcpip-forward" => self.listen(fields).await?,
            "cancel-tcpip-forward" => {
                let asked = (fields.text()?, fields.u32()?);
                let task = self.listening.remove(&asked);
                task.map(|task| task.abort()).map(|()| None)
            }
            "streamlocal-forward@openssh.com" => {
                (self.report)("-R with a Unix socket in the sandbox is not served: use a port");
                None
            }
            _ => None,
        };
        if !wants_reply {
            return Ok(());
        }
        let reply = match port {
            None => Message::new(message::REQUEST_FAILURE),
            Some(None) => Message::new(message::REQUEST_SUCCESS),
            Some(Some(port)) => Message::new(message::REQUEST_SUCCESS).u32(port),
        };
        self.transport.put(reply)
    }

    /// Begins to listen in the sandbox. Returns the port where the client left it open.
    async fn listen(&mut self, fields: &mut Fields) -> Result<Option<Option<u32>>> {
        let (address, asked) = (fields.text()?, fields.u32()?);
        let Ok(port) = u16::try_from(asked) else {
            return Ok(None);
        };
        let listening = listen_in_sandbox(&self.sandbox, self.user.clone(), &address, port).await;
        let listening = match listening {
            Ok(listening) => listening,
            Err(text) => {
                (self.report)(&format!("the sandbox cannot listen on port {port}: {text}"));
                return Ok(None);
            }
        };
        let found = u32::from(listening.port);
        let reporting = listening.report_connections(address.clone(), self.arrivals.clone());
        let task = tokio::spawn(reporting).abort_handle();
        self.listening.insert((address, found), task);
        Ok(Some((asked == 0).then_some(found)))
    }

    /// Offers the client a connection that came to a port of the sandbox.
    fn offer_incoming(&mut self, incoming: Incoming) -> Result<()> {
        if self.channels.len() >= MAX_CHANNELS {
            return Ok(());
        }
        // The client's side is known once it has taken the connection.
        let (number, _) = self.new_channel(0, 0, MAX_DATA);
        let (address, port) = (incoming.address.clone(), u32::from(incoming.port));
        let (origin, origin_port) = incoming.origin.clone();
        self.incoming.insert(number, incoming);
        let open = Message::new(message::CHANNEL_OPEN)
            .text("forwarded-tcpip")
            .u32(number)
            .u32(WINDOW)
            .u32(MAX_DATA);
        let open = open.text(&address).u32(port);
        self.transport
            .put(open.text(&origin).u32(u32::from(origin_port)))
    }

    /// Begins to carry a connection that the client has taken.
    fn confirmed(&mut self, fields: &mut Fields) -> Result<()> {
        let number = fields.u32()?;
        let (peer, room, max_data) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let incoming = self.incoming.remove(&number);
        let incoming =
            incoming.ok_or_else(|| Error::protocol("an answer to what it was not offered"))?;
        let (channel, end) = Channel::new(number, peer, room, max_data, self.outputs.clone());
        self.channels.insert(number, channel);
        let (sandbox, user) = (self.sandbox.clone(), self.user.clone());
        self.set_task(number, carry_incoming(sandbox, user, incoming, end));
        Ok(())
    }
}

impl<R, W> Drop for Connection<R, W> {
    fn drop(&mut self) {
        for task in self.listening.values() {
            task.abort();
        }
    }
}
