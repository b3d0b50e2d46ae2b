//! The sockets of one sandbox's resolver.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{LONGEST_QUESTION, answer_question, refuse_question};
use crate::egress::EgressPolicy;

/// Most questions over UDP, and most connections, of one sandbox at one time.
const AT_ONCE: usize = 64;
const CONNECTIONS: usize = 16;
/// Time for the next question on a connection.
const IDLE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Answers questions over UDP until the future is dropped.
pub(crate) async fn udp(policy: Arc<EgressPolicy>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut questions = JoinSet::new();
    let mut buffer = [0; LONGEST_QUESTION];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = questions.join_next() => continue,
        };
        let Ok((length, from)) = received else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if questions.len() >= AT_ONCE || !policy.may_ask() {
            if let Some(refused) = refuse_question(&buffer[..length]) {
                // If the refusal cannot be sent, the guest asks again.
                let _ = socket.try_send_to(&refused, from);
            }
            continue;
        }
        let policy = Arc::clone(&policy);
        let socket = Arc::clone(&socket);
        let question = buffer[..length].to_vec();
        questions.spawn(async move {
            if let Some(answer) = answer_question(&policy, &question, true).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

/// Answers questions over TCP until the future is dropped; then all connections end.
pub(crate) async fn tcp(policy: Arc<EgressPolicy>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < CONNECTIONS => {
                let policy = Arc::clone(&policy);
                // Errors of a connection only end that connection.
                connections.spawn(async move { drop(connection(&policy, stream).await) });
            }
            Ok((stream, _)) => crate::egress::reset(&stream),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Answers questions one after the other, each with its length before it (RFC 1035, section 4.2.2).
async fn connection(policy: &EgressPolicy, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
        if length > LONGEST_QUESTION || !policy.may_ask() {
            crate::egress::reset(&stream);
            return Ok(());
        }
        let mut question = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut question)).await??;
        let Some(answer) = answer_question(policy, &question, false).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        timeout(
            IDLE,
            stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()),
        )
        .await??;
    }
}
