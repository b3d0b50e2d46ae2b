//! `.dockerignore`: paths that are no part of a context.
//!
//! Patterns are those of Go's `filepath.Match`, from the top of the context, and `**` for any
//! directories. A pattern that matches a directory excludes all below it; `!` takes back; the last
//! pattern that matches counts. (Those of `.gitignore` match at any depth, and cannot take back
//! what is below an excluded directory.)

use globset::{GlobBuilder, GlobMatcher};

/// Bytes of a file that is read.
const MAX_LENGTH: usize = 1 << 20;

/// An error of a `.dockerignore`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error(".dockerignore, line {line}: {pattern:?} is no pattern: {problem}")]
    Pattern {
        line: usize,
        pattern: String,
        problem: String,
    },
    #[error(".dockerignore has more than {MAX_LENGTH} bytes")]
    TooLong,
}

/// Patterns of a `.dockerignore`.
#[derive(Debug, Clone, Default)]
pub struct DockerIgnore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    matcher: GlobMatcher,
    is_exception: bool,
}

impl DockerIgnore {
    /// Reads the text of a `.dockerignore`.
    ///
    /// # Errors
    /// The pattern that is none, with its line.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        if text.len() > MAX_LENGTH {
            return Err(IgnoreError::TooLong);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            // A comment begins in the first column.
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            rules.extend(read_rule(line.trim(), index + 1)?);
        }
        Ok(Self { rules })
    }

    /// Returns true if the path, relative to the top of the context, is not part of it.
    #[must_use]
    pub fn is_excluded(&self, path: &str) -> bool {
        let mut is_excluded = false;
        for rule in &self.rules {
            if rule.is_exception == is_excluded && rule.matches(path) {
                is_excluded = !rule.is_exception;
            }
        }
        is_excluded
    }

    /// Returns true if something below an excluded directory may be taken back.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.is_exception)
    }
}

impl Rule {
    /// Returns true if the pattern matches the path, or a directory that it is in.
    fn matches(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(end, _)| end);
        let mut parts = ends.chain([path.len()]).map(|end| &path[..end]);
        parts.any(|part| self.matcher.is_match(part))
    }
}

fn read_rule(text: &str, line: usize) -> Result<Option<Rule>, IgnoreError> {
    let (is_exception, pattern) = match text.strip_prefix('!') {
        Some(pattern) => (true, pattern.trim()),
        None => (false, text),
    };
    let clean = crate::copy::clean_source(pattern);
    if clean.is_empty() {
        return Ok(None);
    }
    let glob = GlobBuilder::new(&clean)
        .literal_separator(true)
        .backslash_escape(true)
        .build();
    let glob = glob.map_err(|error| IgnoreError::Pattern {
        line,
        pattern: text.to_owned(),
        problem: error.kind().to_string(),
    })?;
    Ok(Some(Rule {
        matcher: glob.compile_matcher(),
        is_exception,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(text: &str, paths: &[&str]) -> Vec<bool> {
        let ignore = DockerIgnore::parse(text).unwrap();
        paths.iter().map(|path| ignore.is_excluded(path)).collect()
    }

    #[test]
    fn patterns_begin_at_top() {
        let text = "# no\nnode_modules/\n/*.log\n**/*.tmp\nsrc/**/gen\n  a?c  \n";
        let paths = [
            "node_modules",
            "node_modules/x/y",
            "sub/node_modules",
            "x.log",
            "sub/x.log",
            "x.tmp",
            "a/b/x.tmp",
            "src/gen",
            "src/a/b/gen/x",
            "abc",
            "ac",
            "# no",
        ];
        let expected = [
            true, true, false, true, false, true, true, true, true, true, false, false,
        ];
        assert_eq!(excluded(text, &paths), expected);
    }

    #[test]
    fn last_match_counts() {
        let text = "*\n!src\n!README.md\nsrc/secret\n";
        let paths = ["x", "src", "src/a", "src/secret", "README.md"];
        assert_eq!(excluded(text, &paths), [true, false, false, true, false]);
        assert!(DockerIgnore::parse(text).unwrap().has_exceptions());
        assert!(!DockerIgnore::parse("x").unwrap().has_exceptions());
        assert_eq!(excluded("!x\n.\n", &["x", "y"]), [false, false]);
    }

    #[test]
    fn wrong_pattern_tells_its_line() {
        let error = DockerIgnore::parse("a\n[b\n").unwrap_err().to_string();
        assert!(error.contains("line 2: \"[b\""), "{error}");
    }
}
