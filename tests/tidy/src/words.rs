//! Names and marks: no drawers, no undated intentions, and a first word in every crate.

use std::path::Path;

use crate::Finding;
use crate::source::Source;

/// Modules that say nothing about what is in them.
const DRAWERS: [&str; 8] = [
    "utils", "util", "common", "helpers", "helper", "misc", "shared", "stuff",
];
const MARKS: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];

/// Names and marks in `source`.
#[must_use]
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = marks(&source.path, &source.text, "//");
    let stems = source.path.iter().map(|part| part.to_string_lossy());
    if let Some(name) = stems
        .map(|part| part.trim_end_matches(".rs").to_owned())
        .find(|s| DRAWERS.contains(&s.as_str()))
    {
        let text = format!(
            "`{name}` says nothing about what is in it: put the code beside its first user"
        );
        findings.push(Finding::new(&source.path, 0, text));
    }
    if is_root_of_crate(&source.path) && !starts_with_docs(&source.syntax) {
        findings.push(Finding::new(
            &source.path,
            1,
            "begins without //! docs: say what the crate is for",
        ));
    }
    findings
}

/// Marks in comments, which begin with `comment` in this kind of file.
#[must_use]
pub fn marks(path: &Path, text: &str, comment: &str) -> Vec<Finding> {
    let has_mark = |line: &str| {
        let said = line
            .split_once(comment)
            .map(|(_, said)| said)
            .unwrap_or_default();
        said.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| MARKS.contains(&word))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| has_mark(line));
    lines
        .map(|(index, _)| {
            Finding::new(
                path,
                index + 1,
                "an intention left in the code: do it, or open an issue",
            )
        })
        .collect()
}

fn is_root_of_crate(path: &Path) -> bool {
    path.ends_with("src/lib.rs") || path.ends_with("src/main.rs")
}

fn starts_with_docs(syntax: &syn::File) -> bool {
    syntax
        .attrs
        .iter()
        .any(|attribute| attribute.path().is_ident("doc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Apart from the mark, so that this file has none.
    const SLASHES: &str = "//";

    fn count(path: &str, text: &str) -> usize {
        check(&Source::parse(path, text)).len()
    }

    #[test]
    fn drawers_are_found() {
        assert_eq!(count("crates/a/src/utils.rs", ""), 1);
        assert_eq!(count("crates/a/tests/common/mod.rs", ""), 1);
        assert_eq!(count("crates/a/src/commonality.rs", ""), 0);
    }

    #[test]
    fn marks_are_found_in_comments_only() {
        assert_eq!(
            check(&Source::parse(
                "a.rs",
                format!("fn f() {{}}\n{SLASHES} FIXME: x\n")
            ))[0]
                .line,
            2
        );
        assert_eq!(count("a.rs", "const A: &str = \"TODO\";"), 0);
        assert_eq!(count("a.rs", "// a todo list of HACKERS"), 0);
        assert_eq!(marks(Path::new("a.sh"), "f # TODO later", "#").len(), 1);
    }

    #[test]
    fn every_crate_has_a_description() {
        assert_eq!(count("crates/a/src/lib.rs", "fn f() {}"), 1);
        assert_eq!(count("crates/a/src/lib.rs", "//! For f.\nfn f() {}"), 0);
        assert_eq!(count("crates/a/src/other.rs", "fn f() {}"), 0);
    }
}
