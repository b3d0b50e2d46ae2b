//! The name that a TLS connection asks for, read from its first message with rustls, which checks
//! it like a server does.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a ClientHello: with post-quantum keys it has about 2 KiB.
const MOST: usize = 32 * 1024;

/// First message of a connection, as it was received.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) bytes: Vec<u8>,
    /// Server name in lower case. `None` if there is none, or it is an address.
    pub(super) name: Option<String>,
}

/// Reads the first message of a connection.
///
/// # Errors
/// When the connection ends before the message does. A message that is no ClientHello has no name.
pub(super) async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while bytes.len() < MOST {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..length]);
        let mut rest = &chunk[..length];
        while !rest.is_empty() && acceptor.read_tls(&mut rest)? > 0 {}
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted
                    .client_hello()
                    .server_name()
                    .map(str::to_ascii_lowercase);
                return Ok(Hello { bytes, name });
            }
            Err(_) => break,
        }
    }
    Ok(Hello { bytes, name: None })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `openssl s_client -servername a.example.com` sends, shortened to what RFC 8446 asks
    /// for.
    pub(in crate::egress) fn client_hello(name: &str) -> Vec<u8> {
        let with_length =
            |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let extension =
            |kind: u16, bytes: &[u8]| [&kind.to_be_bytes(), with_length(bytes).as_slice()].concat();
        let server_name = with_length(&[&[0], with_length(name.as_bytes()).as_slice()].concat());
        let key_share = with_length(&[&[0, 0x1d], with_length(&[9; 32]).as_slice()].concat());
        let extensions = [
            extension(0, &server_name),
            extension(10, &with_length(&[0, 0x1d])),
            extension(13, &with_length(&[4, 3, 8, 4])),
            extension(43, &[2, 3, 4]),
            extension(51, &key_share),
        ];
        let body = [
            [3, 3].as_slice(),
            &[7; 32],
            &[0],
            &with_length(&[0x13, 1]),
            &[1, 0],
            &with_length(&extensions.concat()),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let handshake = [&[1], &length[1..], &body].concat();
        [[0x16, 3, 1].as_slice(), &with_length(&handshake)].concat()
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(work)
    }

    #[test]
    fn server_name_is_read_from_fragments() {
        let bytes = client_hello("A.example.com");
        let (head, tail) = bytes.split_at(40);
        let read = run(read_hello(&mut head.chain(&b""[..]).chain(tail))).unwrap();
        assert_eq!(
            (read.name.as_deref(), &read.bytes),
            (Some("a.example.com"), &bytes)
        );
    }

    #[test]
    fn bytes_without_hello_have_no_name() {
        assert!(
            run(read_hello(&mut &[0x16, 3, 1, 0, 4, 9, 9, 9, 9][..]))
                .unwrap()
                .name
                .is_none()
        );
        assert!(run(read_hello(&mut &client_hello("a.com")[..60])).is_err());
        // An address is no name (RFC 6066).
        assert!(
            run(read_hello(&mut &client_hello("8.8.8.8")[..]))
                .unwrap()
                .name
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0_usize..200) {
            let mut broken = client_hello("a.com");
            let at = at.min(broken.len());
            broken.splice(at.., bytes.iter().copied());
            if let Ok(hello) = run(read_hello(&mut broken.as_slice())) {
                prop_assert!(hello.bytes.len() <= MOST + 4096);
            }
        }
    }
}
