//! Policy for checkpoints that a sandbox's host makes by itself.

use serde::{Deserialize, Serialize};

use crate::error::InvalidValue;

/// When checkpoints are made, and how many of them stay. [`AutoCheckpoint::check`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoCheckpoint {
    /// One before each command; commands that run at the same time share one.
    #[serde(default)]
    pub before_each_command: bool,
    /// Seconds between two of a sandbox that is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_sec: Option<u32>,
    /// Number of them that stay.
    pub keep: u32,
    /// Bytes of the host's disk that they may take together, without what others have, too. The
    /// newest one stays in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

impl AutoCheckpoint {
    /// Number of checkpoints that stay unless another one is asked for.
    pub const DEFAULT_KEEP: u32 = 10;
    /// Half of the checkpoints that a sandbox may have by default, so that some are left to users.
    pub const MAX_KEEP: u32 = 50;
    pub const MAX_EVERY_SEC: u32 = 24 * 3600;
    /// What clients whose integers have a sign can write.
    pub const MAX_BYTES: u64 = i64::MAX as u64;

    /// Checks that there is a time for checkpoints, and that numbers are within their bounds.
    ///
    /// # Errors
    /// Names the bound.
    pub fn check(&self) -> Result<(), InvalidValue> {
        let invalid = |problem: String| Err(InvalidValue::new("auto_checkpoint", problem));
        if !self.before_each_command && self.every_sec.is_none() {
            return invalid("must have before_each_command or every_sec".to_owned());
        }
        let every_sec = self.every_sec.unwrap_or(1);
        if !(1..=Self::MAX_EVERY_SEC).contains(&every_sec) {
            let most = Self::MAX_EVERY_SEC;
            return invalid(format!(
                "must have every_sec from 1 to {most}, not {every_sec}"
            ));
        }
        if !(1..=Self::MAX_KEEP).contains(&self.keep) {
            let most = Self::MAX_KEEP;
            return invalid(format!("must keep from 1 to {most}, not {}", self.keep));
        }
        let max_bytes = self.max_bytes.unwrap_or_default();
        if max_bytes > Self::MAX_BYTES {
            let most = Self::MAX_BYTES;
            return invalid(format!("must have max_bytes up to {most}, not {max_bytes}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_out_of_bounds_is_refused() {
        let fine = AutoCheckpoint {
            before_each_command: true,
            every_sec: None,
            keep: 1,
            max_bytes: None,
        };
        fine.check().unwrap();
        let never = AutoCheckpoint {
            before_each_command: false,
            ..fine
        };
        let often = AutoCheckpoint {
            every_sec: Some(0),
            ..fine
        };
        let none = AutoCheckpoint { keep: 0, ..fine };
        let huge = AutoCheckpoint {
            max_bytes: Some(1 << 63),
            ..fine
        };
        for policy in [never, often, none, huge] {
            let error = policy.check().unwrap_err();
            assert_eq!(error.field, "auto_checkpoint", "{error}");
        }
    }
}
