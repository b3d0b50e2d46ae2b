//! Files aim at 150 lines and stay under 500, functions aim at 15 and stay under 60. Modules that
//! are compiled for tests only do not count as lines of their file, and their functions may have
//! up to 130 lines: a table of cases or a story is easier to read in one piece.

use std::path::Path;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::Finding;
use crate::source::{Source, is_for_tests};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;
const MAX_TEST_LINES: usize = 130;

/// Files in the product's tree that only tests call.
const TEST_SUPPORT: [&str; 1] = ["crates/linux/src/trial.rs"];

/// Returns the files and functions that are too long.
#[must_use]
pub fn check(source: &Source) -> Vec<Finding> {
    let mut visitor = Functions {
        source,
        in_tests: is_test_file(&source.path),
        findings: Vec::new(),
    };
    visitor.visit_file(&source.syntax);
    let lines = count_lines(source);
    if lines > MAX_FILE_LINES {
        let text = format!(
            "has {lines} lines, more than {MAX_FILE_LINES}: give a part of it a file of its own"
        );
        visitor.findings.push(Finding::new(&source.path, 0, text));
    }
    visitor.findings
}

/// Returns true for files that only tests use.
fn is_test_file(path: &Path) -> bool {
    let path = path.to_string_lossy();
    path.contains("/tests/")
        || path.starts_with("tests/")
        || path.starts_with("crates/testkit/")
        || TEST_SUPPORT.contains(&path.as_ref())
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

/// Returns the number of lines without test modules.
#[must_use]
pub fn count_lines(source: &Source) -> usize {
    let tests = source.syntax.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if is_for_tests(&module.attrs) => Some(module.span()),
        _ => None,
    });
    let in_tests: usize = tests
        .map(|span| span.end().line - span.start().line + 1)
        .sum();
    source.text.lines().count() - in_tests
}

struct Functions<'a> {
    source: &'a Source,
    in_tests: bool,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, name: &syn::Ident, body: Span) {
        let lines = body.end().line - body.start().line + 1;
        let max = if self.in_tests {
            MAX_TEST_LINES
        } else {
            MAX_FUNCTION_LINES
        };
        if lines > max {
            let text =
                format!("the function `{name}` has {lines} lines, more than {max}: name its steps");
            self.findings.push(Finding::new(
                &self.source.path,
                name.span().start().line,
                text,
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let outside = self.in_tests;
        self.in_tests |= is_for_tests(&item.attrs);
        visit::visit_item_mod(self, item);
        self.in_tests = outside;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig.ident, block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_are_found_by_line() {
        let body = "    f();\n".repeat(59);
        let source = Source::parse("x.rs", format!("fn ok() {{\n{body}}}\n"));
        assert_eq!(
            check(&source),
            [Finding::new(
                "x.rs",
                1,
                "the function `ok` has 61 lines, more than 60: name its steps"
            )]
        );
        let body = "        f();\n".repeat(58);
        let source = Source::parse(
            "x.rs",
            format!("struct S;\nimpl S {{\n    fn g() {{\n{body}    }}\n}}\n"),
        );
        assert_eq!(check(&source), []);
    }

    #[test]
    fn long_files_are_found() {
        let source = Source::parse("x.rs", "//\n".repeat(501));
        assert_eq!(check(&source).len(), 1);
        assert_eq!(check(&Source::parse("x.rs", "//\n".repeat(500))), []);
    }

    #[test]
    fn test_modules_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "//\n".repeat(300));
        let source = Source::parse("x.rs", format!("{}{tests}", "//\n".repeat(400)));
        assert_eq!(count_lines(&source), 400);
        assert_eq!(check(&source), []);
    }
}
