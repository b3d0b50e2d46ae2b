//! Ids and states of webhooks and their deliveries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::InvalidValue;

/// `wh-` and 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookId(String);

impl WebhookId {
    pub const PREFIX: &'static str = "wh-";
    /// Digits after the prefix.
    pub const DIGITS: usize = 16;

    /// Creates a random id.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{}{:016x}", Self::PREFIX, rand::random::<u64>()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WebhookId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() == Self::DIGITS && digits.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        let problem = "must be \"wh-\" and 16 hexadecimal digits";
        Err(InvalidValue::new("webhook id", problem))
    }
}

/// Id of a delivery, which its receiver gets as `webhook-id`: 1 to 64 characters of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(String);

impl DeliveryId {
    pub const MAX_LEN: usize = 64;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeliveryId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        let problem = "must be 1 to 64 characters of a-z, 0-9 and -";
        Err(InvalidValue::new("delivery id", problem))
    }
}

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = DeliveryStatus))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be sent, for the first time or again.
    Pending,
    /// The receiver has answered with 2xx.
    Delivered,
    /// Given up; it can be sent again.
    Dead,
}

impl DeliveryState {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl FromStr for DeliveryState {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        let problem = "must be pending, delivered or dead";
        found.ok_or_else(|| InvalidValue::new("status", problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_ids_have_one_form() {
        let id = WebhookId::random();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for wrong in ["", "wh-", "wh-0123456789ABCDEF", "sb-0123456789abcdef"] {
            assert!(wrong.parse::<WebhookId>().is_err(), "{wrong}");
        }
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for wrong in ["", "A", "../a", &"a".repeat(65)] {
            assert!(wrong.parse::<DeliveryId>().is_err(), "{wrong}");
        }
    }
}
