//! Values of flags: memory, times, environment variables.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use client::types::{DeliveryStatus, OnTimeout, SandboxStatus};

/// Parses MiB of memory or disk: `512`, `512m` or `2g`.
pub fn parse_memory(text: &str) -> Result<u32, String> {
    parse_with_unit(
        text,
        &[
            ("m", 1),
            ("mb", 1),
            ("mib", 1),
            ("g", 1024),
            ("gb", 1024),
            ("gib", 1024),
        ],
    )
    .ok_or_else(|| "a size is a whole number of MiB, or has a unit as in 512m or 2g".to_owned())
}

/// Parses bytes: `4096`, `64k` or `1m`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_with_unit(text, &[("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30)])
        .map(u64::from)
        .ok_or_else(|| "a number of bytes is whole, or has a unit as in 64k or 1m".to_owned())
}

/// Parses seconds: `90`, `90s`, `10m`, `2h` or `1d`.
pub fn parse_seconds(text: &str) -> Result<u32, String> {
    parse_with_unit(text, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]).ok_or_else(|| {
        "a time is a whole number of seconds, or has a unit as in 90s, 10m, 2h or 1d".to_owned()
    })
}

/// When checkpoints are made automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCheckpointTime {
    Off,
    BeforeCommand,
    /// Seconds of use.
    Every(u32),
}

impl AutoCheckpointTime {
    /// Parses `off`, `command`, or a time.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "command" => Ok(Self::BeforeCommand),
            time => parse_seconds(time)
                .map(Self::Every)
                .map_err(|error| format!("it is command, off or a time; {error}")),
        }
    }
}

fn parse_with_unit(text: &str, units: &[(&str, u32)]) -> Option<u32> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let factor = if unit.is_empty() {
        1
    } else {
        units.iter().find(|(name, _)| *name == unit)?.1
    };
    number.parse::<u32>().ok()?.checked_mul(factor)
}

/// Parses `KEY=VALUE` of a label; the server checks both.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "a label is written KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses `FIELD=VALUE` of a filter.
pub fn parse_filter(text: &str) -> Result<(String, String), String> {
    let wrong = || {
        "a filter is status=STATUS, template=NAME, name=BEGINNING or label=KEY[=VALUE]".to_owned()
    };
    let (field, value) = text.split_once('=').ok_or_else(wrong)?;
    let is_known = match field {
        "status" => value.parse::<SandboxStatus>().is_ok(),
        "template" | "name" | "label" => true,
        _ => false,
    };
    if is_known {
        Ok((field.to_owned(), value.to_owned()))
    } else {
        Err(wrong())
    }
}

/// Returns the parser of actions for idle sandboxes, whose help describes each.
pub fn on_timeout_parser() -> impl TypedValueParser<Value = OnTimeout> {
    let values = OnTimeout::ALL.map(|action| {
        let help = match action {
            OnTimeout::Pause => "Save it with its memory; nothing is lost",
            OnTimeout::Kill => "Stop it; its disk and memory go",
        };
        PossibleValue::new(action.as_str()).help(help)
    });
    PossibleValuesParser::new(values).try_map(|text| text.parse::<OnTimeout>())
}

/// Returns the parser of states of a delivery.
pub fn delivery_status_parser() -> impl TypedValueParser<Value = DeliveryStatus> {
    let values = DeliveryStatus::ALL.map(DeliveryStatus::as_str);
    PossibleValuesParser::new(values).try_map(|text| text.parse::<DeliveryStatus>())
}

/// `NAME=VALUE`, or `NAME` for the value that it has here. Both are bytes, as they are for Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    name: OsString,
    value: Option<OsString>,
}

impl EnvVar {
    /// Parses `NAME=VALUE` or `NAME`. The error is a text for clap.
    pub fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => (
                &bytes[..at],
                Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
            ),
            None => (bytes, None),
        };
        if name.is_empty() {
            return Err("an environment variable is written NAME=VALUE".to_owned());
        }
        Ok(Self {
            name: OsStr::from_bytes(name).to_owned(),
            value,
        })
    }
}

/// Returns the variables with their values, as text; the last one of a name counts. A name that is
/// not set here is left out.
pub fn resolve_environment(
    vars: &[EnvVar],
    here: impl Fn(&OsStr) -> Option<OsString>,
) -> BTreeMap<String, String> {
    let with_value = |var: &EnvVar| {
        let value = var.value.clone().or_else(|| here(&var.name))?;
        Some((escape_bytes(&var.name), escape_bytes(&value)))
    };
    vars.iter().filter_map(with_value).collect()
}

/// Returns the text that stands for bytes in the API; for UTF-8 that text itself.
pub fn escape_bytes(bytes: impl AsRef<OsStr>) -> String {
    client::bytes::to_text(bytes.as_ref().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn memory_and_times_have_units() {
        assert_eq!(parse_memory("512"), Ok(512));
        assert_eq!(parse_memory("2G"), Ok(2048));
        assert_eq!(parse_memory("0"), Ok(0));
        assert_eq!(parse_bytes("64k"), Ok(65_536));
        assert_eq!(parse_seconds("90"), Ok(90));
        assert_eq!(parse_seconds("2h"), Ok(7200));
        for text in [
            "",
            "m",
            "-1",
            "1.5g",
            "12k",
            "99999999999",
            "4000000000g",
            "5 m",
        ] {
            assert!(parse_memory(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn environment_takes_missing_values_from_here() {
        let parse = |text: &str| EnvVar::parse(text.into());
        let vars: Vec<EnvVar> = ["A=1", "B", "C", "A=2=3", "D="]
            .map(|text| parse(text).unwrap())
            .into();
        let got = resolve_environment(&vars, |name| (name == "B").then(|| "here".into()));
        let expected = [("A", "2=3"), ("B", "here"), ("D", "")];
        assert_eq!(
            got,
            expected
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        );
        assert!(parse("=x").is_err() && parse("").is_err());
        let latin = EnvVar::parse(OsString::from_vec(b"N=caf\xe9".to_vec())).unwrap();
        assert_eq!(
            resolve_environment(&[latin], |_| None)["N"],
            "caf\u{10fffd}xE9"
        );
    }
}
