//! `HEALTHCHECK`.

use model::Healthcheck;

use crate::error::{DockerfileError, Result};
use crate::flags::{CommandForm, Flag, take_flags};

const USAGE: &str =
    "HEALTHCHECK is written HEALTHCHECK [--interval=30s …] CMD COMMAND, or HEALTHCHECK NONE";

/// Nanoseconds of each unit of Go's durations.
const UNITS: [(&str, i64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

pub(crate) fn read_healthcheck(rest: &str, line: usize, escape: char) -> Result<Healthcheck> {
    let (flags, rest) = take_flags(rest, escape);
    let mut check = Healthcheck::default();
    for flag in flags {
        read_flag(&mut check, flag, line)?;
    }
    let usage = || DockerfileError::new(line, USAGE);
    let (word, command) = rest
        .split_once(|c: char| c.is_ascii_whitespace())
        .unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match word.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() && check == Healthcheck::default() => vec!["NONE".to_owned()],
        "CMD" if !command.is_empty() => match CommandForm::read(command) {
            CommandForm::Exec(words) if words.is_empty() => return Err(usage()),
            CommandForm::Exec(words) => [vec!["CMD".to_owned()], words].concat(),
            CommandForm::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
        },
        _ => return Err(usage()),
    };
    Ok(check)
}

fn read_flag(check: &mut Healthcheck, flag: Flag, line: usize) -> Result<()> {
    let name = flag.name.clone();
    let value = flag.value(line)?;
    let field = match name.as_str() {
        "interval" => &mut check.interval,
        "timeout" => &mut check.timeout,
        "start-period" => &mut check.start_period,
        "start-interval" => &mut check.start_interval,
        "retries" => {
            let retries = value.parse().ok().filter(|retries: &i64| *retries >= 0);
            check.retries = retries.ok_or_else(|| {
                DockerfileError::new(line, format!("--retries must be a number, not {value:?}"))
            })?;
            return Ok(());
        }
        other => {
            return Err(DockerfileError::new(
                line,
                format!(
                    "HEALTHCHECK has no flag --{other}; it has --interval, --timeout, --start-period, \
                     --start-interval and --retries"
                ),
            ));
        }
    };
    *field = read_duration(&value).ok_or_else(|| {
        DockerfileError::new(
            line,
            format!("--{name} must be a duration such as 30s or 1m30s, not {value:?}"),
        )
    })?;
    Ok(())
}

/// Reads a duration as Go writes them, in nanoseconds.
fn read_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scale(number, *nanoseconds)?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// Multiplies a decimal number, which may have a fraction.
fn scale(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: i64 = whole.parse().ok()?;
    let mut total = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        total = total.checked_add(i64::from(digit.to_digit(10)?) * place)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_form_of_docker() {
        let rest = "--interval=1m30s --timeout=1.5s --retries=3 CMD curl -f http://x || exit 1";
        let check = read_healthcheck(rest, 1, '\\').unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "curl -f http://x || exit 1"]);
        assert_eq!(
            (check.interval, check.timeout),
            (90_000_000_000, 1_500_000_000)
        );
        assert_eq!(check.retries, 3);
        let exec = read_healthcheck(r#"cmd ["a", "b"]"#, 1, '\\').unwrap();
        assert_eq!(exec.test, ["CMD", "a", "b"]);
        assert_eq!(read_healthcheck("none", 1, '\\').unwrap().test, ["NONE"]);
    }

    #[test]
    fn wrong_checks_tell_what_is_right() {
        for (rest, said) in [
            ("curl x", "HEALTHCHECK NONE"),
            ("NONE x", "HEALTHCHECK NONE"),
            ("CMD", "HEALTHCHECK NONE"),
            ("--interval=3 CMD x", "such as 30s"),
            ("--interval=99999999999999h CMD x", "such as 30s"),
            ("--every=3s CMD x", "no flag --every"),
            ("--retries=x CMD x", "must be a number"),
        ] {
            let error = read_healthcheck(rest, 1, '\\').unwrap_err();
            assert!(error.problem.contains(said), "{rest}: {error}");
        }
    }
}
