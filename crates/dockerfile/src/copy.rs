//! `COPY` and `ADD`.

use serde::Serialize;

use crate::error::{DockerfileError, Result};
use crate::flags::{json_array, take_flags};
use crate::lines::{Heredoc, LogicalLine};
use crate::stage_base::StageBase;

/// `COPY` or `ADD`, not expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyInstruction {
    /// Stage, number of a stage, or image.
    pub(crate) from: Option<String>,
    pub(crate) sources: Vec<RawSource>,
    pub(crate) destination: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    /// `ADD`: archives are unpacked.
    pub(crate) unpacks: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawSource {
    Path(String),
    Heredoc(Heredoc),
}

/// A `COPY` or `ADD` that is ready to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyStep {
    /// Stage or image that the files come from; `None` for the build's context.
    pub from: Option<StageBase>,
    pub sources: Vec<CopySource>,
    /// Absolute path. Ends with '/' where it is a directory whether it is there or not.
    pub destination: String,
    /// `USER` or `USER:GROUP`, each by name or number.
    pub chown: Option<String>,
    /// Permission bits of files and directories.
    pub chmod: Option<u32>,
    /// Archives are unpacked.
    pub unpacks: bool,
}

/// Source of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CopySource {
    /// Relative to the top of the context or stage; `""` is all of it. May be a pattern.
    Path(String),
    /// A file that stands in the Dockerfile.
    Inline { name: String, content: String },
}

impl CopyInstruction {
    pub(crate) fn read(line: &LogicalLine, escape: char) -> Result<Self> {
        let keyword = &line.keyword;
        let error = |problem: String| DockerfileError::new(line.number, problem);
        let (flags, rest) = take_flags(&line.rest, escape);
        let mut copy = Self {
            from: None,
            sources: Vec::new(),
            destination: String::new(),
            chown: None,
            chmod: None,
            unpacks: keyword == "ADD",
        };
        for flag in flags {
            match flag.name.as_str() {
                "from" if keyword == "COPY" => copy.from = Some(flag.value(line.number)?),
                "chown" => copy.chown = Some(flag.value(line.number)?),
                "chmod" => copy.chmod = Some(flag.value(line.number)?),
                // How BuildKit stores the layer; the files are the same.
                "link" => {}
                other => {
                    return Err(error(format!(
                        "{keyword} --{other} is not supported; there are {}--chown, --chmod and --link",
                        if keyword == "COPY" { "--from, " } else { "" }
                    )));
                }
            }
        }
        let mut words = json_array(rest)
            .unwrap_or_else(|| rest.split_ascii_whitespace().map(str::to_owned).collect());
        let destination = words.pop().filter(|_| !words.is_empty());
        copy.destination = destination.ok_or_else(|| {
            error(format!(
                "{keyword} is written {keyword} SOURCE … DESTINATION"
            ))
        })?;
        for word in words {
            copy.sources.push(copy.read_source(word, line)?);
        }
        let is_dir = copy.destination.ends_with('/');
        let last = copy.destination.rsplit('/').next();
        if copy.sources.len() > 1 && !is_dir && !matches!(last, Some("." | "..")) {
            let text = format!(
                "{keyword} of several sources needs a directory as destination, which ends with '/': {}/",
                copy.destination
            );
            return Err(error(text));
        }
        Ok(copy)
    }

    fn read_source(&self, word: String, line: &LogicalLine) -> Result<RawSource> {
        let heredoc = line.heredocs.iter().find(|heredoc| heredoc.word == word);
        if let Some(heredoc) = heredoc {
            return Ok(RawSource::Heredoc(heredoc.clone()));
        }
        let is_remote = ["http://", "https://", "git://", "git@", "ssh://"]
            .iter()
            .any(|scheme| word.starts_with(scheme));
        if is_remote && self.from.is_none() {
            let keyword = &line.keyword;
            return Err(DockerfileError::new(
                line.number,
                format!(
                    "{keyword} of {word} is not supported; put the file into the context, or fetch it in a RUN: \
                     RUN wget {word}"
                ),
            ));
        }
        Ok(RawSource::Path(word))
    }
}

/// Returns a source without `.`, `..` and superfluous '/', relative to the top, which is not left.
pub(crate) fn clean_source(path: &str) -> String {
    let mut clean: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean.join("/")
}

/// Returns an absolute path below `workdir`; a '/' at its end stays.
pub(crate) fn absolute(path: &str, workdir: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{workdir}/{path}"),
    };
    let clean = clean_source(&whole);
    let is_dir = path.ends_with('/') || matches!(path.rsplit('/').next(), Some("." | ".."));
    match is_dir && !clean.is_empty() {
        true => format!("/{clean}/"),
        false => format!("/{clean}"),
    }
}

/// Reads `--chmod`: octal digits.
pub(crate) fn read_mode(text: &str, line: usize) -> Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o7777).ok_or_else(|| {
        DockerfileError::new(
            line,
            format!("--chmod must be octal and at most 7777 (--chmod=755), not {text:?}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::split_lines;

    fn read(text: &str) -> Result<CopyInstruction> {
        let (lines, escape) = split_lines(text)?;
        CopyInstruction::read(&lines[0], escape)
    }

    #[test]
    fn sources_come_before_destination() {
        let copy = read(r#"COPY --from=build --chown=a:b ["a b", "c", "/d/"]"#).unwrap();
        let paths = ["a b", "c"].map(|path| RawSource::Path(path.to_owned()));
        assert_eq!(
            (copy.sources, copy.destination.as_str()),
            (paths.to_vec(), "/d/")
        );
        assert_eq!(copy.from.as_deref(), Some("build"));
        let copy = read("ADD --chmod=755 <<a.sh b /x/\necho\na.sh\n").unwrap();
        assert!(matches!(&copy.sources[0], RawSource::Heredoc(file) if file.content == "echo\n"));
        assert!(copy.unpacks);
    }

    #[test]
    fn wrong_copies_tell_what_is_right() {
        for (text, said) in [
            ("COPY a", "SOURCE … DESTINATION"),
            ("COPY a b c", "ends with '/': c/"),
            ("COPY --parents a b", "--parents is not supported"),
            ("ADD --from=a b c", "ADD --from is not supported"),
            ("ADD https://x/y /z", "RUN wget https://x/y"),
            ("COPY --from= a b", "--from needs a value"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.problem.contains(said), "{text}: {error}");
        }
        read("COPY a b ./").unwrap();
        read("COPY a b .").unwrap();
        assert!(
            read_mode("u+x", 3)
                .unwrap_err()
                .to_string()
                .starts_with("line 3: --chmod")
        );
        assert_eq!(read_mode("0755", 1).unwrap(), 0o755);
    }

    #[test]
    fn paths_stay_below_top() {
        for (path, expected) in [
            (".", ""),
            ("/a//b/./c", "a/b/c"),
            ("../../a/..", ""),
            ("a/", "a"),
        ] {
            assert_eq!(clean_source(path), expected, "{path}");
        }
        for (path, expected) in [
            (".", "/w/"),
            ("a", "/w/a"),
            ("./a/", "/w/a/"),
            ("/x/../y", "/y"),
            ("/", "/"),
            ("..", "/"),
        ] {
            assert_eq!(absolute(path, "/w"), expected, "{path}");
        }
    }
}
