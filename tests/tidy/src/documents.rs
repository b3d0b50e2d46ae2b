//! What is written for people agrees with the code: settings, links, width.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use syn::visit::{self, Visit};

use crate::Finding;
use crate::source::{Source, is_for_tests};

const MAX_WIDTH: usize = 120;
const PREFIXES: [&str; 4] = ["WRENN_", "AGENT_", "CP_", "DATABASE_"];

/// Variables of the environment that the product names in its code.
#[must_use]
pub fn variables<'a>(sources: impl Iterator<Item = &'a Source>) -> BTreeSet<String> {
    let mut visitor = Variables(BTreeSet::new());
    sources
        .filter(|source| source.is_product())
        .for_each(|source| visitor.visit_file(&source.syntax));
    visitor.0
}

struct Variables(BTreeSet<String>);

impl<'ast> Visit<'ast> for Variables {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        let text = literal.value();
        if is_variable(&text) {
            self.0.insert(text);
        }
    }
}

fn is_variable(text: &str) -> bool {
    let is_name = text
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    is_name
        && PREFIXES
            .iter()
            .any(|prefix| text.starts_with(prefix) && text.len() > prefix.len())
}

/// Variables that `text` does not mention, and variables that it sets or shows and that the code
/// does not know.
#[must_use]
pub fn settings(path: &Path, text: &str, known: &BTreeSet<String>) -> Vec<Finding> {
    let words: BTreeSet<&str> = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    let missing = known.iter().filter(|name| !words.contains(name.as_str()));
    let mut findings: Vec<Finding> = missing
        .map(|name| {
            Finding::new(
                path,
                0,
                format!("does not mention {name}, which the code reads"),
            )
        })
        .collect();
    for (index, line) in text.lines().enumerate() {
        let name = line
            .trim_start_matches("# ")
            .split('=')
            .next()
            .unwrap_or_default();
        if line.contains('=') && is_variable(name) && !known.contains(name) {
            findings.push(Finding::new(
                path,
                index + 1,
                format!("nothing in the code reads {name}: remove it"),
            ));
        }
    }
    findings
}

/// Relative links of a Markdown document that lead nowhere.
#[must_use]
pub fn links(root: &Path, path: &Path, text: &str) -> Vec<Finding> {
    let here = path.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
        {
            let is_local = !target.is_empty() && !target.contains("://");
            if is_local && !root.join(normal(&here.join(target))).exists() {
                findings.push(Finding::new(
                    path,
                    index + 1,
                    format!("the link to {target} leads nowhere"),
                ));
            }
        }
    }
    findings
}

/// Files and items of the code that a Markdown document names and that are not there: tests that
/// hold what it says, above all. `files` are sources, `words` the identifiers in them.
#[must_use]
pub fn code_names(
    path: &Path,
    text: &str,
    files: &[PathBuf],
    words: &BTreeSet<String>,
) -> Vec<Finding> {
    let is_missing = |name: &str| {
        if name.ends_with(".rs") {
            return is_path(name) && !files.iter().any(|file| file.ends_with(name));
        }
        // Shorter ones are fields of the API, programs and the like.
        let is_item = is_path(name) && !name.contains(['.', '/', '-']);
        is_item && name.matches('_').count() >= 2 && !words.contains(name)
    };
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Every second part is between two backticks.
        let names = line.split('`').skip(1).step_by(2);
        findings.extend(
            names.filter(|name| is_missing(name)).map(|name| {
                Finding::new(path, index + 1, format!("there is no {name} in the code"))
            }),
        );
    }
    findings
}

fn is_path(name: &str) -> bool {
    let is_right =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-./".contains(&byte);
    !name.starts_with(['.', '/']) && name.bytes().all(is_right)
}

fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, part| {
        match part {
            Component::ParentDir => drop(whole.pop()),
            other => whole.push(other),
        }
        whole
    })
}

/// Lines that are too wide. Rows of tables cannot be wrapped.
#[must_use]
pub fn width(path: &Path, text: &str) -> Vec<Finding> {
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with('|') && line.chars().count() > MAX_WIDTH);
    lines
        .map(|(index, _)| {
            Finding::new(
                path,
                index + 1,
                format!("wider than {MAX_WIDTH} columns: wrap it"),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_tests_do_not_count() {
        let text = "fn f() { g(\"AGENT_X\"); g(\"agent\"); g(\"AGENT_\") }\n#[cfg(test)] mod t { const A: &str = \"CP_Y\"; }";
        let found = variables([Source::parse("crates/hostd/src/a.rs", text)].iter());
        assert_eq!(found, BTreeSet::from(["AGENT_X".to_owned()]));
    }

    #[test]
    fn names_of_code_must_exist() {
        let files = [PathBuf::from("crates/hostd/src/dns/serve.rs")];
        let words = BTreeSet::from(["guest_is_kept_in".to_owned()]);
        let find = |text: &str| code_names(Path::new("a.md"), text, &files, &words).len();
        assert_eq!(
            find("`dns/serve.rs`: `guest_is_kept_in`, `allow_out`, `./a.rs`, a_b_c"),
            0
        );
        assert_eq!(find("`dns/gone.rs`: `guest_was_kept_in`"), 2);
    }

    #[test]
    fn settings_must_agree_both_ways() {
        let known = BTreeSet::from(["AGENT_X".to_owned(), "CP_Y".to_owned()]);
        let found = settings(Path::new("e"), "AGENT_X=1\n# AGENT_OLD=1\n", &known);
        let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "e: does not mention CP_Y, which the code reads",
                "e:2: nothing in the code reads AGENT_OLD: remove it"
            ]
        );
    }

    #[test]
    fn dead_links_are_found() {
        let text = "[a](src/lib.rs) [b](../tidy/src/lib.rs#x) [c](https://x.y)\n[d](none.md)";
        let found = links(
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(),
            Path::new("tidy/README.md"),
            text,
        );
        assert_eq!(
            found,
            [Finding::new(
                "tidy/README.md",
                2,
                "the link to none.md leads nowhere"
            )]
        );
    }

    #[test]
    fn wide_table_rows_are_allowed() {
        let wide = "x".repeat(121);
        assert_eq!(width(Path::new("a"), &wide).len(), 1);
        assert_eq!(width(Path::new("a"), &format!("| {wide} |")), []);
        assert_eq!(width(Path::new("a"), &"ä".repeat(120)), []);
    }
}
