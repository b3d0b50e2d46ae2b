//! Signatures by the Standard Webhooks convention: HMAC-SHA256 of `id.timestamp.body`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Prefix of a secret's text.
const PREFIX: &str = "whsec_";
/// Random bytes of a secret: as many as the hash has. The convention wants 24 to 64.
const BYTES: usize = 32;

/// A secret that signs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

/// Shows nothing of the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(crate) fn random() -> Self {
        Self(rand::random::<[u8; BYTES]>().to_vec())
    }

    /// Reads a secret's text; `None` if it is none.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        STANDARD.decode(text.strip_prefix(PREFIX)?).ok().map(Self)
    }

    /// Returns the text of the secret, for its user and the store.
    pub(crate) fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// Returns the signature of a message. `timestamp` is in seconds since the Unix epoch.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &str) -> Option<String> {
        // HMAC takes a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body.as_bytes());
        let code = STANDARD.encode(mac.finalize().into_bytes());
        Some(format!("v1,{code}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the convention's specification.
    #[test]
    fn signature_is_that_of_convention() {
        let secret = Secret::from_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        let right = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signature.as_deref(), Some(right));
    }

    #[test]
    fn secrets_have_one_form() {
        let secret = Secret::random();
        let text = secret.expose();
        assert_eq!(Secret::from_text(&text), Some(secret.clone()));
        assert_eq!(text.len(), PREFIX.len() + 44);
        assert!(!format!("{secret:?}").contains(&text[6..]));
        for wrong in ["", "whsec_!", &text[6..]] {
            assert_eq!(Secret::from_text(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_part_is_signed(id in "[a-z-]{1,9}", timestamp in 0_i64..1 << 40, body in ".{0,99}") {
            let secret = Secret::random();
            let signature = secret.sign(&id, timestamp, &body);
            prop_assert_ne!(&signature, &secret.sign(&format!("{id}x"), timestamp, &body));
            prop_assert_ne!(&signature, &secret.sign(&id, timestamp + 1, &body));
            prop_assert_ne!(&signature, &secret.sign(&id, timestamp, &format!("{body} ")));
            prop_assert_ne!(&signature, &Secret::random().sign(&id, timestamp, &body));
        }
    }
}
