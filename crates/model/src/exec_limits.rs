//! Limits on commands: what execve(2) takes.

use std::collections::BTreeMap;

use crate::error::InvalidValue;

/// Bounds on one exec.
#[derive(Debug, Clone, Copy)]
pub struct ExecLimits;

impl ExecLimits {
    /// Seconds that an exec may take where the request names no time (the original Wrenn's
    /// default).
    pub const DEFAULT_TIMEOUT_SEC: u32 = 30;
    pub const MAX_TIMEOUT_SEC: u32 = 24 * 3600;
    /// Seconds that a program has to end after the SIGTERM of its timeout, before SIGKILL (as
    /// `docker stop`).
    pub const GRACE_SEC: u32 = 10;
    /// Bytes of one argument, or of one variable with its name: Linux' `MAX_ARG_STRLEN` (32 pages)
    /// without the NUL.
    pub const MAX_STRING_BYTES: usize = 128 * 1024 - 1;
    /// Bytes of command, arguments and environment together, each string with its NUL and its
    /// pointer: what execve(2) takes with the usual stack of 8 MiB. A refusal by the guest's own
    /// kernel beyond that is reported as it is.
    pub const MAX_COMMAND_BYTES: usize = 2 * 1024 * 1024;
    /// Bytes of stdout and stderr together that a non-streaming exec returns.
    pub const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;

    /// Refuses a command that no execve(2) would take, and timeouts out of bounds.
    pub fn check(
        cmd: &str,
        args: &[String],
        envs: &BTreeMap<String, String>,
        timeout_sec: u32,
    ) -> Result<(), InvalidValue> {
        if cmd.is_empty() || cmd.contains('\0') {
            return Err(InvalidValue::new(
                "cmd",
                "must be the name or path of a program, without NUL",
            ));
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(InvalidValue::new("args", "must be strings without NUL"));
        }
        check_env_names(envs)?;
        Self::check_size(cmd, args, envs)?;
        within("timeout_sec", timeout_sec, 1, Self::MAX_TIMEOUT_SEC)
    }

    /// Refuses what is larger than execve(2) takes, as that would: one string, then all of them.
    fn check_size(
        cmd: &str,
        args: &[String],
        envs: &BTreeMap<String, String>,
    ) -> Result<(), InvalidValue> {
        let one_by_one = std::iter::once(("cmd", cmd.len()))
            .chain(args.iter().map(|arg| ("args", arg.len())))
            .chain(
                envs.iter()
                    .map(|(name, value)| ("envs", name.len() + "=".len() + value.len())),
            );
        let mut bytes = 0;
        for (field, length) in one_by_one {
            if length > Self::MAX_STRING_BYTES {
                let problem = format!(
                    "must have at most {} bytes in one string, not {length}",
                    Self::MAX_STRING_BYTES
                );
                return Err(InvalidValue::new(field, problem));
            }
            bytes += length + 1 + size_of::<u64>();
        }
        if bytes > Self::MAX_COMMAND_BYTES {
            let problem = format!(
                "args and envs must be at most {} bytes together (a string counts 9 more than it has), not {bytes}: \
                 pass a list on standard input (xargs -0), or in a file",
                Self::MAX_COMMAND_BYTES
            );
            return Err(InvalidValue::new("cmd,", problem));
        }
        Ok(())
    }
}

/// Refuses a value out of bounds.
pub(crate) fn within(
    field: &'static str,
    value: u32,
    min: u32,
    max: u32,
) -> Result<(), InvalidValue> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(InvalidValue::new(
        field,
        format!("must be from {min} to {max}, not {value}"),
    ))
}

/// Refuses variables that cannot be in an environment at all.
pub(crate) fn check_env_names(envs: &BTreeMap<String, String>) -> Result<(), InvalidValue> {
    for (name, value) in envs {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(InvalidValue::new(
                "envs",
                format!(
                    "has the variable {name:?}: a name must not be empty or contain '=', and neither part a NUL"
                ),
            ));
        }
    }
    Ok(())
}
