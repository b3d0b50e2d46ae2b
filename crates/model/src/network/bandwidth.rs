//! Bandwidth of a sandbox.

use serde::{Deserialize, Serialize};

use crate::error::InvalidValue;

/// Limits on a sandbox's traffic, all of it together, in Mbit/s. 0 is no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Limit on traffic from the guest, in Mbit/s; 0: none.
    #[serde(default)]
    pub egress_mbps: u32,
    /// Limit on traffic to the guest, in Mbit/s; 0: none.
    #[serde(default)]
    pub ingress_mbps: u32,
}

impl Bandwidth {
    /// Largest limit: a higher one limits nothing on any host.
    pub const MAX_MBPS: u32 = 100_000;

    /// Returns true if nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Combines two limits: the stricter holds for each direction.
    #[must_use]
    pub fn limited_by(self, other: Self) -> Self {
        Self {
            egress_mbps: smaller(self.egress_mbps, other.egress_mbps),
            ingress_mbps: smaller(self.ingress_mbps, other.ingress_mbps),
        }
    }

    /// Checks both limits against [`Self::MAX_MBPS`].
    ///
    /// # Errors
    /// Names the limit that is too large.
    pub fn check(self) -> Result<(), InvalidValue> {
        let limits = [
            ("network.egress_mbps", self.egress_mbps),
            ("network.ingress_mbps", self.ingress_mbps),
        ];
        match limits.into_iter().find(|(_, mbps)| *mbps > Self::MAX_MBPS) {
            Some((field, mbps)) => Err(wrong(field, mbps)),
            None => Ok(()),
        }
    }

    /// Creates limits from a user's values, in Mbit/s; `None`: no limit.
    ///
    /// # Errors
    /// Names the value that is not in range.
    pub fn parse(
        egress_mbps: Option<u32>,
        ingress_mbps: Option<u32>,
    ) -> Result<Self, InvalidValue> {
        let limit = |field, mbps| match mbps {
            Some(mbps) if !(1..=Self::MAX_MBPS).contains(&mbps) => Err(wrong(field, mbps)),
            mbps => Ok(mbps.unwrap_or_default()),
        };
        Ok(Self {
            egress_mbps: limit("network.egress_mbps", egress_mbps)?,
            ingress_mbps: limit("network.ingress_mbps", ingress_mbps)?,
        })
    }
}

fn smaller(one: u32, other: u32) -> u32 {
    if one == 0 || other == 0 {
        one.max(other)
    } else {
        one.min(other)
    }
}

fn wrong(field: &'static str, mbps: u32) -> InvalidValue {
    let most = Bandwidth::MAX_MBPS;
    InvalidValue::new(
        field,
        format!("must be from 1 to {most} Mbit/s, not {mbps}; leave it out for no limit"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_two_limits_holds_and_none_is_no_limit() {
        let of = |egress_mbps, ingress_mbps| Bandwidth {
            egress_mbps,
            ingress_mbps,
        };
        assert_eq!(of(5, 0).limited_by(of(10, 7)), of(5, 7));
        assert_eq!(of(0, 9).limited_by(of(0, 7)), of(0, 7));
        assert!(of(0, 0).limited_by(of(0, 0)).is_none());
    }

    #[test]
    fn what_is_no_limit_is_refused_with_what_would_be() {
        assert!(Bandwidth::parse(None, None).unwrap().is_none());
        for wrong in [0, Bandwidth::MAX_MBPS + 1] {
            let said = Bandwidth::parse(Some(1), Some(wrong))
                .unwrap_err()
                .to_string();
            assert!(
                said.contains("network.ingress_mbps") && said.contains("leave it out"),
                "{said}"
            );
        }
        assert!(
            Bandwidth {
                egress_mbps: 100_001,
                ingress_mbps: 0
            }
            .check()
            .is_err()
        );
    }
}
