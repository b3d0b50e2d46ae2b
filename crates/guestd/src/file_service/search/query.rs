//! Patterns of a search, compiled and bounded.

use std::path::Path;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use guest_rpc::file as rpc;

use crate::filesystem::error::FileError;

/// Longest glob and longest pattern, bytes.
const MAX_PATTERN: usize = 4096;

/// Most memory of a compiled pattern, and of the cache that it fills while it is matched.
const PATTERN_MEMORY: usize = 10 << 20;

/// Most matches of one search.
const MAX_MATCHES: u32 = 10_000;

/// Longest time of one search.
const MAX_TIME: Duration = Duration::from_secs(300);

/// Patterns and bounds of a search.
#[derive(Debug)]
pub struct Query {
    name: Option<Name>,
    pub content: Option<RegexMatcher>,
    /// Levels to go down.
    pub depth: usize,
    pub max_matches: u32,
    pub timeout: Duration,
}

#[derive(Debug)]
struct Name {
    glob: GlobMatcher,
    /// Matches the path below the top, and not the name alone.
    is_path: bool,
}

impl Query {
    /// Compiles the patterns of a request.
    ///
    /// # Errors
    /// Invalid, with what is wrong about a pattern.
    pub fn parse(request: &rpc::SearchRequest) -> Result<Self, FileError> {
        if request.name.is_none() && request.content.is_none() {
            return Err(FileError::invalid(
                "name a glob, a pattern of content, or both",
            ));
        }
        let patterns = [("name", &request.name), ("content", &request.content)];
        for (field, pattern) in patterns {
            let fits = |pattern: &String| (1..=MAX_PATTERN).contains(&pattern.len());
            if !pattern.as_ref().is_none_or(fits) {
                let problem = format!("{field} must be 1 to {MAX_PATTERN} bytes");
                return Err(FileError::invalid(problem));
            }
        }
        let matches = match request.max_matches {
            0 => MAX_MATCHES,
            matches => matches.min(MAX_MATCHES),
        };
        let timeout = match request.timeout_ms {
            0 => MAX_TIME,
            ms => Duration::from_millis(ms.into()).min(MAX_TIME),
        };
        Ok(Self {
            name: request
                .name
                .as_deref()
                .map(|name| compile_name(name, request.ignore_case))
                .transpose()?,
            content: request
                .content
                .as_deref()
                .map(|content| compile_content(content, request))
                .transpose()?,
            depth: match request.depth {
                0 => usize::MAX,
                depth => depth as usize,
            },
            max_matches: matches,
            timeout,
        })
    }

    /// Returns true if the file at `below`, relative to the top, has a name that matches.
    pub fn matches_name(&self, below: &Path) -> bool {
        self.name.as_ref().is_none_or(|name| match name.is_path {
            true => name.glob.is_match(below),
            false => below.file_name().is_some_and(|own| name.glob.is_match(own)),
        })
    }
}

fn compile_name(name: &str, ignore_case: bool) -> Result<Name, FileError> {
    let glob = GlobBuilder::new(name)
        .literal_separator(true)
        .case_insensitive(ignore_case)
        .build();
    let glob = glob.map_err(|e| FileError::invalid(format!("name is no glob: {e}")))?;
    Ok(Name {
        glob: glob.compile_matcher(),
        is_path: name.contains('/'),
    })
}

fn compile_content(content: &str, request: &rpc::SearchRequest) -> Result<RegexMatcher, FileError> {
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(request.ignore_case)
        .fixed_strings(request.literal)
        .line_terminator(Some(b'\n'))
        .size_limit(PATTERN_MEMORY)
        .dfa_size_limit(PATTERN_MEMORY)
        .build(content);
    matcher.map_err(|e| {
        let text: String = e.to_string().chars().take(500).collect();
        FileError::invalid(format!(
            "content is no regular expression (literal: true takes it as it is): {text}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: Option<&str>, content: Option<&str>) -> rpc::SearchRequest {
        rpc::SearchRequest {
            name: name.map(str::to_owned),
            content: content.map(str::to_owned),
            ..Default::default()
        }
    }

    #[test]
    fn patterns_without_bounds_are_refused() {
        let long = "a".repeat(MAX_PATTERN + 1);
        for (name, content) in [
            (None, None),
            (Some("["), None),
            (Some(""), None),
            (None, Some("(")),
            (None, Some("a\nb")),
            (None, Some("((a{1000}){1000}){1000}")),
            (Some(long.as_str()), None),
            (None, Some(long.as_str())),
        ] {
            assert!(
                Query::parse(&request(name, content)).is_err(),
                "{name:?} {content:?}"
            );
        }
        let bounded = Query::parse(&rpc::SearchRequest {
            max_matches: u32::MAX,
            timeout_ms: u32::MAX,
            ..request(Some("*"), None)
        })
        .expect("a query");
        assert_eq!(
            (bounded.max_matches, bounded.timeout),
            (MAX_MATCHES, MAX_TIME)
        );
    }

    #[test]
    fn globs_match_names_or_paths() {
        let matches = |glob: &str, below: &str| {
            let query = Query::parse(&request(Some(glob), None)).expect("a query");
            query.matches_name(Path::new(below))
        };
        assert!(matches("*.rs", "src/a.rs") && !matches("*.rs", "src/a.rs.bak"));
        assert!(matches("src/*.rs", "src/a.rs") && !matches("src/*.rs", "src/b/a.rs"));
        assert!(matches("**/b/*", "src/b/a.rs") && !matches("b", "src/b/a.rs"));
        assert!(matches("{a,b}.?s", "b.rs"));
    }
}
