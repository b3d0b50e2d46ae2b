//! Values of flags: memory, times, environment variables.

use std::collections::BTreeMap;
use std::str::FromStr;

/// MiB of memory or disk from `512`, `512m` or `2g`.
pub fn parse_memory(text: &str) -> Result<u32, String> {
    parse_with_unit(text, &[("m", 1), ("mb", 1), ("mib", 1), ("g", 1024), ("gb", 1024), ("gib", 1024)])
        .ok_or_else(|| "a size is a whole number of MiB, or has a unit as in 512m or 2g".to_owned())
}

/// Seconds from `90`, `90s`, `10m`, `2h` or `1d`.
pub fn parse_seconds(text: &str) -> Result<u32, String> {
    parse_with_unit(text, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)])
        .ok_or_else(|| "a time is a whole number of seconds, or has a unit as in 90s, 10m, 2h or 1d".to_owned())
}

fn parse_with_unit(text: &str, units: &[(&str, u32)]) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let factor = if unit.is_empty() { 1 } else { units.iter().find(|(name, _)| *name == unit)?.1 };
    number.parse::<u32>().ok()?.checked_mul(factor)
}

/// `NAME=VALUE`, or `NAME` for the value that it has here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    name: String,
    value: Option<String>,
}

impl FromStr for EnvVar {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("an environment variable is written NAME=VALUE".to_owned());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

/// The variables with their values; the last one of a name counts. A name that is not set here is left out.
pub fn environment(vars: &[EnvVar], here: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let with_value = |var: &EnvVar| {
        let value = var.value.clone().or_else(|| here(&var.name))?;
        Some((var.name.clone(), value))
    };
    vars.iter().filter_map(with_value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_times_have_units() {
        assert_eq!(parse_memory("512"), Ok(512));
        assert_eq!(parse_memory("2G"), Ok(2048));
        assert_eq!(parse_memory("0"), Ok(0));
        assert_eq!(parse_seconds("90"), Ok(90));
        assert_eq!(parse_seconds("2h"), Ok(7200));
        for text in ["", "m", "-1", "1.5g", "12k", "99999999999", "4000000000g", "5 m"] {
            assert!(parse_memory(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn environment_takes_missing_values_from_here() {
        let vars: Vec<EnvVar> = ["A=1", "B", "C", "A=2=3", "D="].iter().map(|text| text.parse().unwrap()).collect();
        let got = environment(&vars, |name| (name == "B").then(|| "here".to_owned()));
        let expected = [("A", "2=3"), ("B", "here"), ("D", "")];
        assert_eq!(got, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert!("=x".parse::<EnvVar>().is_err());
    }
}
