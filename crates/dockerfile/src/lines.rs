//! Logical lines: continued ones joined, comments dropped, here-documents gathered.

use crate::error::{DockerfileError, Result};
use crate::words::split_words;

/// An instruction, not taken apart yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogicalLine {
    /// Number of its first line, from 1 on.
    pub(crate) number: usize,
    /// In upper case.
    pub(crate) keyword: String,
    /// Text behind the keyword, without whitespace at both ends.
    pub(crate) rest: String,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// Word that began it, as written: `<<EOF`, `<<-"EOF"`.
    pub(crate) word: String,
    /// Line that ends it.
    pub(crate) name: String,
    /// Its lines, each with its newline; leading tabs are gone after `<<-`.
    pub(crate) content: String,
    /// Variables are expanded: the name was not quoted.
    pub(crate) expands: bool,
}

/// Lines of a file, with their numbers from 1 on.
struct Lines<'a> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Split<'a, char>>>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (index, line) = self.lines.next()?;
        Some((index + 1, line.strip_suffix('\r').unwrap_or(line)))
    }
}

/// Splits a Dockerfile into its instructions. Returns them with its escape character.
pub(crate) fn split_lines(text: &str) -> Result<(Vec<LogicalLine>, char)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = read_escape(text)?;
    let mut lines = Lines {
        lines: text.split('\n').enumerate().peekable(),
    };
    let mut found = Vec::new();
    while let Some((number, line)) = lines.next() {
        if is_blank_or_comment(line) {
            continue;
        }
        let joined = join_continued(line.trim_start(), &mut lines, escape);
        let (keyword, rest) = joined
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((&joined, ""));
        let keyword = keyword.to_ascii_uppercase();
        let rest = rest.trim().to_owned();
        let mut heredocs = Vec::new();
        if matches!(keyword.as_str(), "RUN" | "COPY" | "ADD") {
            for mut heredoc in find_heredocs(&rest, escape) {
                heredoc.content = read_heredoc(&heredoc, &mut lines, number)?;
                heredocs.push(heredoc);
            }
        }
        found.push(LogicalLine {
            number,
            keyword,
            rest,
            heredocs,
        });
    }
    Ok((found, escape))
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// Returns the escape character that a directive at the top of the file names.
fn read_escape(text: &str) -> Result<char> {
    for (index, line) in text.lines().enumerate() {
        let directive = line.trim().strip_prefix('#').and_then(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), value.trim()))
        });
        match directive {
            Some((name, value)) if name == "escape" => {
                return match value {
                    "\\" => Ok('\\'),
                    "`" => Ok('`'),
                    other => Err(DockerfileError::new(
                        index + 1,
                        format!("the directive escape must be \\ or `, not {other:?}"),
                    )),
                };
            }
            Some((name, _)) if name == "syntax" || name == "check" => {}
            // Directives come before everything else, other comments too.
            _ => break,
        }
    }
    Ok('\\')
}

/// Joins a line with those that it is continued on.
fn join_continued(first: &str, lines: &mut Lines<'_>, escape: char) -> String {
    let mut joined = String::new();
    let mut part = first;
    while let Some(head) = continued(part, escape) {
        joined.push_str(head);
        // Comments and empty lines in between do not end it.
        match lines.find(|(_, line)| !is_blank_or_comment(line)) {
            Some((_, next)) => part = next,
            None => return joined,
        }
    }
    joined.push_str(part);
    joined
}

/// Returns a line without the escape character at its end, if it has one.
fn continued(line: &str, escape: char) -> Option<&str> {
    let head = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    // Two are an escaped one.
    (!head.ends_with(escape)).then_some(head)
}

/// Finds the here-documents that a line begins, without their content.
fn find_heredocs(rest: &str, escape: char) -> Vec<Heredoc> {
    let words = split_words(rest, escape);
    words.iter().filter_map(|word| heredoc_of(word)).collect()
}

/// Returns the here-document that a word begins: `<<EOF`, `3<<-'EOF'`.
fn heredoc_of(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let named = rest.strip_prefix('-').unwrap_or(rest);
    let quote = named.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (name, expands) = match quote {
        Some(quote) => (named[1..].split(quote).next()?, false),
        None => {
            let is_end = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
            let end = named.find(is_end).unwrap_or(named.len());
            (&named[..end], true)
        }
    };
    (!name.is_empty()).then(|| Heredoc {
        word: word.to_owned(),
        name: name.to_owned(),
        content: String::new(),
        expands,
    })
}

fn read_heredoc(heredoc: &Heredoc, lines: &mut Lines<'_>, number: usize) -> Result<String> {
    let is_stripped = heredoc.word.contains("<<-");
    let mut content = String::new();
    for (_, line) in lines {
        let line = match is_stripped {
            true => line.trim_start_matches('\t'),
            false => line,
        };
        if line == heredoc.name {
            return Ok(content);
        }
        content.push_str(line);
        content.push('\n');
    }
    Err(DockerfileError::new(
        number,
        format!(
            "the here-document {} has no end: a line {} alone must follow it",
            heredoc.word, heredoc.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, String, String)> {
        let (lines, _) = split_lines(text).unwrap();
        lines
            .into_iter()
            .map(|line| (line.number, line.keyword, line.rest))
            .collect()
    }

    #[test]
    fn continued_lines_are_joined() {
        let text =
            "# syntax=docker/dockerfile:1\n\nfrom scratch\nRUN a && \\\n  # why\n\n  b\\ \n c\n";
        let expected = [(3, "FROM", "scratch"), (4, "RUN", "a &&   b c")];
        let expected = expected.map(|(n, word, rest)| (n, word.to_owned(), rest.to_owned()));
        assert_eq!(split(text), expected);
        assert_eq!(split("RUN a\\\\\nRUN b\\")[0].2, "a\\\\");
        let windows = "#escape=`\r\nFROM x\r\nRUN a `\r\n b\\\r\n";
        assert_eq!(split(windows)[1].2, "a  b\\");
    }

    #[test]
    fn heredocs_keep_their_lines() {
        let text =
            "RUN cat <<EOF > /a && cat <<-'B' >/b\n# no comment\n\\\nEOF\n\t\tx $y\n\tB\nRUN z\n";
        let (lines, _) = split_lines(text).unwrap();
        let [first, second] = &lines[0].heredocs[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(
            (first.content.as_str(), first.expands),
            ("# no comment\n\\\n", true)
        );
        assert_eq!((second.content.as_str(), second.expands), ("x $y\n", false));
        assert_eq!((lines[1].number, lines[1].rest.as_str()), (7, "z"));
        for none in [
            "RUN a <<< b",
            "RUN echo $((1<<2))",
            "RUN a << b",
            "RUN '<<EOF'",
        ] {
            assert!(
                split_lines(none).unwrap().0[0].heredocs.is_empty(),
                "{none}"
            );
        }
        let error = split_lines("\nRUN <<EOF\nx\n").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.problem.contains("a line EOF alone"), "{error}");
    }

    #[test]
    fn unknown_escape_is_refused() {
        let error = split_lines("# escape=x\nFROM a").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1: the directive escape must be \\ or `, not \"x\""
        );
        assert_eq!(split_lines("# a\n# escape=`\n").unwrap().1, '\\');
    }
}
