//! Choice of algorithms and exchange of keys (RFC 4253, sections 7 and 8; RFC 8731): X25519 with
//! SHA-256, by ring. One of each kind is enough: the client is OpenSSH on the same machine.

use bytes::Bytes;
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

use crate::cipher::{CipherKind, Opener, Sealer};
use crate::error::{Error, Result};
use crate::host_key::{ALGORITHM, HostKey};
use crate::wire::{Fields, Message, message};

/// Exchanges that are one and the same under two names.
const EXCHANGES: &str = "curve25519-sha256,curve25519-sha256@libssh.org";

/// Tells that sequence numbers begin anew with each key (OpenSSH's answer to CVE-2023-48795).
const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";

/// Proofs apart from ciphers, of which no cipher of ours makes use: the client must find a name.
const MACS: &str = "hmac-sha2-256-etm@openssh.com,hmac-sha2-256";

const NO_COMPRESSION: &str = "none";

/// Bytes of an offer before its lists: number and cookie.
const HEAD: usize = 17;

/// Identifications and offers, which the exchange proves.
#[derive(Debug)]
pub struct Names<'a> {
    pub client: &'a [u8],
    pub server: &'a [u8],
    pub client_offer: &'a [u8],
    pub server_offer: &'a [u8],
}

/// Algorithms that both have.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Cipher from the client to us.
    pub incoming: CipherKind,
    /// Cipher from us to the client.
    pub outgoing: CipherKind,
    pub strict: bool,
    /// True if the client has sent a message for an exchange that was not chosen.
    pub skips_guess: bool,
}

/// Result of an exchange.
pub struct Exchanged {
    pub reply: Vec<u8>,
    pub sealer: Sealer,
    pub opener: Opener,
    /// Hash of the first exchange of the connection.
    pub session: Vec<u8>,
}

/// Returns our offer.
pub fn offer() -> Result<Vec<u8>> {
    let mut cookie = [0; 16];
    SystemRandom::new()
        .fill(&mut cookie)
        .map_err(|_| Error::Key("the system gives no random numbers"))?;
    let message = Message::new(message::KEXINIT)
        .raw(&cookie)
        .text(&format!("{EXCHANGES},{STRICT_SERVER}"))
        .text(ALGORITHM)
        .text(CipherKind::NAMES)
        .text(CipherKind::NAMES)
        .text(MACS)
        .text(MACS)
        .text(NO_COMPRESSION)
        .text(NO_COMPRESSION)
        .text("")
        .text("")
        .u8(0)
        .u32(0);
    Ok(message.into_vec())
}

/// Returns the first name of the client's list that is in ours.
fn choose(what: &'static str, theirs: &str, ours: &'static str) -> Result<String> {
    let mut common = theirs
        .split(',')
        .filter(|name| ours.split(',').any(|our| our == *name));
    common
        .next()
        .map(str::to_owned)
        .ok_or(Error::NoAlgorithm { what, ours })
}

/// Chooses algorithms from the client's offer. `is_first`: of the connection's first exchange, in
/// which alone it can ask for strict numbers.
pub fn agree(offer: &Bytes, is_first: bool) -> Result<Agreed> {
    let mut fields = Fields::new(offer.clone());
    fields.skip(HEAD)?;
    let exchanges = fields.text()?;
    let keys = fields.text()?;
    let (to_us, to_client) = (fields.text()?, fields.text()?);
    // Proofs are part of our ciphers.
    fields.bytes()?;
    fields.bytes()?;
    let compressions = [fields.text()?, fields.text()?];
    fields.bytes()?;
    fields.bytes()?;
    let guessed = fields.bool()?;
    let exchange = choose("the key exchange", &exchanges, EXCHANGES)?;
    let key = choose("host keys", &keys, ALGORITHM)?;
    for compression in compressions {
        choose("compression", &compression, NO_COMPRESSION)?;
    }
    let cipher = |theirs: &str| {
        let name = choose("encryption", theirs, CipherKind::NAMES)?;
        CipherKind::from_name(&name).ok_or_else(|| Error::protocol("a cipher without a name"))
    };
    let is_guess = |list: &str, chosen: &str| list.split(',').next() == Some(chosen);
    Ok(Agreed {
        incoming: cipher(&to_us)?,
        outgoing: cipher(&to_client)?,
        strict: is_first && exchanges.split(',').any(|name| name == STRICT_CLIENT),
        skips_guess: guessed && !(is_guess(&exchanges, &exchange) && is_guess(&keys, &key)),
    })
}

/// Makes keys from the client's public key. `session` is the hash of the connection's first
/// exchange; empty in that one.
pub fn exchange(
    names: &Names<'_>,
    key: &HostKey,
    client_public: &[u8],
    session: &[u8],
    agreed: &Agreed,
) -> Result<Exchanged> {
    let random = SystemRandom::new();
    let failed = || Error::protocol("a key that cannot be used");
    let private = EphemeralPrivateKey::generate(&X25519, &random).map_err(|_| failed())?;
    let public = private.compute_public_key().map_err(|_| failed())?;
    let theirs = UnparsedPublicKey::new(&X25519, client_public);
    let secret = agree_ephemeral(private, &theirs, |secret| {
        Message::default().mpint(secret).into_vec()
    });
    let secret = secret.map_err(|_| failed())?;
    let host_key = key.public_blob();
    let proved = Message::default()
        .bytes(names.client)
        .bytes(names.server)
        .bytes(names.client_offer)
        .bytes(names.server_offer)
        .bytes(&host_key)
        .bytes(client_public)
        .bytes(public.as_ref())
        .raw(&secret);
    let hash = digest(&SHA256, &proved.into_vec());
    let hash = hash.as_ref();
    let session = if session.is_empty() { hash } else { session };
    let reply = Message::new(message::KEX_ECDH_REPLY)
        .bytes(&host_key)
        .bytes(public.as_ref())
        .bytes(&key.sign(hash));
    let derive = |letter, length| derive_key(&secret, hash, letter, session, length);
    let (incoming, outgoing) = (agreed.incoming, agreed.outgoing);
    Ok(Exchanged {
        reply: reply.into_vec(),
        opener: Opener::new(
            incoming,
            &derive(b'C', incoming.key_length()),
            &derive(b'A', incoming.iv_length()),
        )?,
        sealer: Sealer::new(
            outgoing,
            &derive(b'D', outgoing.key_length()),
            &derive(b'B', outgoing.iv_length()),
        )?,
        session: session.to_vec(),
    })
}

/// Derives a key (RFC 4253, section 7.2).
fn derive_key(secret: &[u8], hash: &[u8], letter: u8, session: &[u8], length: usize) -> Vec<u8> {
    let first = [secret, hash, &[letter], session].concat();
    let mut key = digest(&SHA256, &first).as_ref().to_vec();
    while key.len() < length {
        let more = digest(&SHA256, &[secret, hash, &key].concat());
        key.extend_from_slice(more.as_ref());
    }
    key.truncate(length);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_offer(exchanges: &str, ciphers: &str, guessed: bool) -> Bytes {
        let message = Message::new(message::KEXINIT)
            .raw(&[0; 16])
            .text(exchanges)
            .text("rsa-sha2-512,ssh-ed25519")
            .text(ciphers)
            .text(ciphers)
            .text("hmac-sha1")
            .text("hmac-sha1")
            .text("none,zlib@openssh.com")
            .text("none,zlib@openssh.com")
            .text("")
            .text("")
            .u8(u8::from(guessed))
            .u32(0);
        message.into_vec().into()
    }

    #[test]
    fn first_common_name_of_client_is_chosen() {
        let exchanges = "ecdh-sha2-nistp256,curve25519-sha256,kex-strict-c-v00@openssh.com";
        let offer = client_offer(exchanges, "aes128-ctr,aes256-gcm@openssh.com", true);
        let agreed = Agreed {
            incoming: CipherKind::Aes256Gcm,
            outgoing: CipherKind::Aes256Gcm,
            strict: true,
            skips_guess: true,
        };
        assert_eq!(agree(&offer, true).unwrap(), agreed);
        assert!(!agree(&offer, false).unwrap().strict, "only at first");
    }

    #[test]
    fn error_names_missing_algorithm() {
        let offer = client_offer(
            "diffie-hellman-group1-sha1",
            "aes256-gcm@openssh.com",
            false,
        );
        let text = agree(&offer, true).unwrap_err().to_string();
        assert!(text.contains("key exchange (curve25519-sha256"), "{text}");
        let offer = client_offer("curve25519-sha256", "3des-cbc", false);
        let text = agree(&offer, true).unwrap_err().to_string();
        assert!(text.contains("encryption (chacha20"), "{text}");
        assert!(agree(&offer.slice(..40), true).is_err());
    }

    /// Makes keys as a client does, and returns what it sends and how it finds the secret.
    type Find = Box<dyn FnOnce(&[u8]) -> Vec<u8>>;

    fn client_x25519() -> (Vec<u8>, Find) {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let public = private.compute_public_key().unwrap().as_ref().to_vec();
        let find = |theirs: &[u8]| {
            let theirs = UnparsedPublicKey::new(&X25519, theirs);
            agree_ephemeral(private, &theirs, <[u8]>::to_vec).unwrap()
        };
        (public, Box::new(find))
    }

    #[test]
    fn client_finds_same_keys() {
        let key = HostKey::from_pkcs8(&HostKey::generate().unwrap()).unwrap();
        let agreed = Agreed {
            incoming: CipherKind::Aes128Gcm,
            outgoing: CipherKind::Aes128Gcm,
            strict: true,
            skips_guess: false,
        };
        let names = Names {
            client: b"C",
            server: b"S",
            client_offer: b"CO",
            server_offer: b"SO",
        };
        let (public, find) = client_x25519();
        let mut made = exchange(&names, &key, &public, &[], &agreed).unwrap();
        let mut reply = Fields::new(made.reply.into());
        assert_eq!(reply.u8().unwrap(), message::KEX_ECDH_REPLY);
        assert_eq!(reply.bytes().unwrap(), key.public_blob());
        let theirs = reply.bytes().unwrap();
        let secret = find(&theirs);
        let secret = Message::default().mpint(&secret).into_vec();
        let proved = Message::default().text("C").text("S").text("CO").text("SO");
        let proved = proved
            .bytes(&key.public_blob())
            .bytes(&public)
            .bytes(&theirs);
        let hash = digest(&SHA256, &proved.raw(&secret).into_vec());
        let hash = hash.as_ref();
        assert_eq!(made.session, hash);
        assert_eq!(reply.bytes().unwrap(), key.sign(hash));
        let iv = derive_key(&secret, hash, b'B', hash, 12);
        let cipher = derive_key(&secret, hash, b'D', hash, 16);
        let mut opener = Opener::new(CipherKind::Aes128Gcm, &cipher, &iv).unwrap();
        let mut packet = Vec::new();
        made.sealer.seal(0, b"hello", &mut packet).unwrap();
        let payload = opener.open(0, &mut packet).unwrap();
        assert_eq!(&packet[payload], b"hello");
        for length in [0, 31, public.len() - 1] {
            let cut = exchange(&names, &key, &public[..length], &[], &agreed);
            assert!(cut.is_err(), "{length}");
        }
    }

    #[test]
    fn keys_are_as_long_as_asked() {
        let key = |length| derive_key(b"k", b"h", b'A', b"s", length);
        assert_eq!(key(64).len(), 64);
        assert_eq!(key(12), key(64)[..12]);
        assert_ne!(key(64)[..32], key(64)[32..]);
    }
}
