//! Instructions, taken apart and not expanded.

use crate::copy::CopyInstruction;
use crate::error::{DockerfileError, Result};
use crate::flags::{CommandForm, json_array, take_flags};
use crate::healthcheck::read_healthcheck;
use crate::lines::{Heredoc, LogicalLine};
use crate::words::{split_pairs, split_words};
use model::Healthcheck;

/// All keywords, for errors.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// An instruction with the line that it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) line: usize,
    /// As written, on one line.
    pub(crate) text: String,
    pub(crate) kind: InstructionKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InstructionKind {
    From {
        image: String,
        name: Option<String>,
        platform: Option<String>,
    },
    /// Names, each with its default.
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Run {
        command: CommandForm,
        heredocs: Vec<Heredoc>,
        /// `--network=none`.
        is_offline: bool,
    },
    Copy(Box<CopyInstruction>),
    Cmd(CommandForm),
    Entrypoint(CommandForm),
    Shell(Vec<String>),
    User(String),
    Workdir(String),
    StopSignal(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    Healthcheck(Healthcheck),
    Maintainer(String),
}

/// Takes an instruction apart.
pub(crate) fn read_instruction(line: &LogicalLine, escape: char) -> Result<Instruction> {
    let reader = Reader { line, escape };
    Ok(Instruction {
        line: line.number,
        text: format!("{} {}", line.keyword, line.rest),
        kind: reader.read_kind()?,
    })
}

struct Reader<'a> {
    line: &'a LogicalLine,
    escape: char,
}

impl Reader<'_> {
    fn error(&self, problem: impl Into<String>) -> DockerfileError {
        DockerfileError::new(self.line.number, problem)
    }

    fn read_kind(&self) -> Result<InstructionKind> {
        let keyword = self.line.keyword.as_str();
        let rest = self.line.rest.as_str();
        if rest.is_empty() && KEYWORDS.contains(&keyword) {
            return Err(self.error(format!("{keyword} needs an argument")));
        }
        Ok(match keyword {
            "FROM" => self.read_from()?,
            "ARG" => self.read_args()?,
            "ENV" => InstructionKind::Env(self.read_pairs()?),
            "LABEL" => InstructionKind::Label(self.read_pairs()?),
            "RUN" => self.read_run()?,
            "COPY" | "ADD" => {
                let copy = CopyInstruction::read(self.line, self.escape)?;
                InstructionKind::Copy(Box::new(copy))
            }
            "CMD" => InstructionKind::Cmd(CommandForm::read(rest)),
            "ENTRYPOINT" => InstructionKind::Entrypoint(CommandForm::read(rest)),
            "SHELL" => InstructionKind::Shell(self.read_shell()?),
            "USER" => InstructionKind::User(rest.to_owned()),
            "WORKDIR" => InstructionKind::Workdir(rest.to_owned()),
            "STOPSIGNAL" => InstructionKind::StopSignal(rest.to_owned()),
            "EXPOSE" => InstructionKind::Expose(split_words(rest, self.escape)),
            "VOLUME" => {
                let words = json_array(rest).unwrap_or_else(|| split_words(rest, self.escape));
                InstructionKind::Volume(words)
            }
            "HEALTHCHECK" => {
                let check = read_healthcheck(rest, self.line.number, self.escape)?;
                InstructionKind::Healthcheck(check)
            }
            "MAINTAINER" => InstructionKind::Maintainer(rest.to_owned()),
            "ONBUILD" => {
                return Err(self.error(
                    "ONBUILD is not supported; write its instruction into the Dockerfiles that build on this image",
                ));
            }
            other => return Err(self.unknown(other)),
        })
    }

    fn unknown(&self, keyword: &str) -> DockerfileError {
        let shown: String = keyword.chars().take(40).collect();
        self.error(format!(
            "there is no instruction {shown:?}; there are {}. If it belongs to the line before, that must end with \
             {}",
            KEYWORDS.join(", "),
            self.escape
        ))
    }

    fn read_from(&self) -> Result<InstructionKind> {
        let (flags, rest) = take_flags(&self.line.rest, self.escape);
        let mut platform = None;
        for flag in flags {
            match flag.name.as_str() {
                "platform" => platform = Some(flag.value(self.line.number)?),
                other => {
                    return Err(
                        self.error(format!("FROM has no flag --{other}; it has --platform"))
                    );
                }
            }
        }
        let words = split_words(rest, self.escape);
        let (image, name) = match &words[..] {
            [image] => (image, None),
            [image, word, name] if word.eq_ignore_ascii_case("as") => {
                (image, Some(name.to_ascii_lowercase()))
            }
            _ => return Err(self.error("FROM is written FROM IMAGE or FROM IMAGE AS NAME")),
        };
        let is_name = |name: &str| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_lowercase())
                && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        match name {
            Some(name) if !is_name(&name) => Err(self.error(format!(
                "the stage's name {name:?} must begin with a letter and have letters, digits, '-', '_' and '.' alone"
            ))),
            name => Ok(InstructionKind::From {
                image: image.clone(),
                name,
                platform,
            }),
        }
    }

    fn read_args(&self) -> Result<InstructionKind> {
        let words = split_words(&self.line.rest, self.escape);
        let arg = |word: String| match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let args: Vec<_> = words.into_iter().map(arg).collect();
        for (name, _) in &args {
            self.check_name(name)?;
        }
        Ok(InstructionKind::Arg(args))
    }

    fn read_pairs(&self) -> Result<Vec<(String, String)>> {
        let keyword = &self.line.keyword;
        let pairs = split_pairs(&self.line.rest, self.escape, true).map_err(|word| {
            self.error(format!(
                "{keyword} is written {keyword} NAME=VALUE …; {word:?} has no value (quote a value with spaces)"
            ))
        })?;
        for (name, _) in &pairs {
            if keyword == "ENV" {
                self.check_name(name)?;
            }
        }
        Ok(pairs)
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let is_name = !name.is_empty() && !name.contains(['\0', '"', '\'', '$']);
        match is_name {
            true => Ok(()),
            false => Err(self.error(format!("{name:?} is no name of a variable"))),
        }
    }

    fn read_run(&self) -> Result<InstructionKind> {
        let (flags, rest) = take_flags(&self.line.rest, self.escape);
        let mut is_offline = false;
        for flag in flags {
            match (flag.name.as_str(), flag.value.as_deref()) {
                ("network", Some("none")) => is_offline = true,
                ("network", Some("default")) => is_offline = false,
                ("mount", value) => {
                    let kind = value.unwrap_or_default();
                    let kind = kind.split(',').find_map(|part| part.strip_prefix("type="));
                    let kind = kind.unwrap_or("bind");
                    return Err(self.error(format!(
                        "RUN --mount=type={kind} is not supported; without it the step runs with the files of the \
                         image alone"
                    )));
                }
                (name, value) => {
                    let value = value.map(|value| format!("={value}")).unwrap_or_default();
                    return Err(self.error(format!(
                        "RUN --{name}{value} is not supported; there are --network=default and --network=none"
                    )));
                }
            }
        }
        if rest.is_empty() {
            return Err(self.error("RUN needs a command"));
        }
        let command = CommandForm::read(rest);
        if matches!(&command, CommandForm::Exec(words) if words.is_empty()) {
            return Err(self.error("RUN needs a command; its array is empty"));
        }
        Ok(InstructionKind::Run {
            command,
            heredocs: self.line.heredocs.clone(),
            is_offline,
        })
    }

    fn read_shell(&self) -> Result<Vec<String>> {
        match json_array(&self.line.rest) {
            Some(words) if !words.is_empty() => Ok(words),
            _ => Err(self.error(
                "SHELL must be a JSON array of a program and its arguments: SHELL [\"/bin/bash\", \"-c\"]",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::split_lines;

    fn read(text: &str) -> Result<InstructionKind> {
        let (lines, escape) = split_lines(text)?;
        read_instruction(&lines[0], escape).map(|instruction| instruction.kind)
    }

    #[test]
    fn commands_have_two_forms() {
        let exec = CommandForm::Exec(vec!["a".to_owned(), "b c".to_owned()]);
        assert_eq!(
            read(r#"CMD ["a", "b c"]"#).unwrap(),
            InstructionKind::Cmd(exec)
        );
        for shell in ["[ -e /x ] && y", "['a']", "a \"b\""] {
            let form = CommandForm::Shell(shell.to_owned());
            let read = read(&format!("ENTRYPOINT {shell}")).unwrap();
            assert_eq!(read, InstructionKind::Entrypoint(form));
        }
    }

    #[test]
    fn wrong_instructions_tell_what_is_right() {
        for (text, said) in [
            ("RUNN x", "there is no instruction \"RUNN\""),
            ("FROM a b", "FROM IMAGE AS NAME"),
            ("FROM a AS 1x", "must begin with a letter"),
            ("FROM --x=1 a", "no flag --x"),
            (
                "RUN --mount=type=ssh a",
                "RUN --mount=type=ssh is not supported",
            ),
            ("RUN --mount=target=/x a", "type=bind"),
            (
                "RUN --security=insecure a",
                "--security=insecure is not supported",
            ),
            ("RUN --network=none", "needs a command"),
            ("RUN []", "its array is empty"),
            ("ENV A", "ENV NAME=VALUE"),
            ("LABEL a=1 b", "\"b\" has no value"),
            ("SHELL /bin/sh -c", "JSON array"),
            ("ONBUILD RUN x", "ONBUILD is not supported"),
            ("ARG $x", "no name of a variable"),
            ("USER", "USER needs an argument"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.problem.contains(said), "{text}: {error}");
        }
    }
}
