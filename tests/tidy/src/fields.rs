//! A field of a sandbox's spec stands in few files, so that adding one is a small change.

use std::path::PathBuf;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::Finding;
use crate::source::{Source, is_for_tests};

/// Most files of product code that name one field: spec, REST, protocol of hosts, command line, and
/// where it takes effect.
const MAX_FILES: usize = 8;
/// Fields of `SandboxSpec` whose names nothing else has. The other ones name sizes and rules of
/// more than the spec, so that their files say nothing about it.
pub const SPEC_FIELDS: [&str; 3] = ["on_timeout", "auto_resume", "public_ports"];

/// Finds the fields that are named in too many files, or in none.
#[must_use]
pub fn check(sources: &[Source], fields: &[&str]) -> Vec<Finding> {
    let check = |field: &&str| {
        let files = files_naming(sources, field);
        let names: Vec<String> = files.iter().map(|it| it.display().to_string()).collect();
        let text = format!(
            "the field {field} is named in {} files, and should be in 1 to {MAX_FILES}: convert it in one place for \
             each format ({})",
            names.len(),
            names.join(", ")
        );
        let is_fine = (1..=MAX_FILES).contains(&files.len());
        (!is_fine).then(|| Finding::new("crates/model/src/spec.rs", 0, text))
    };
    fields.iter().filter_map(check).collect()
}

/// Lists the files of product code that have `name` as an identifier outside of their tests.
fn files_naming(sources: &[Source], name: &str) -> Vec<PathBuf> {
    let names = |source: &&Source| {
        let mut finder = Finder {
            name,
            is_found: false,
        };
        finder.visit_file(&source.syntax);
        finder.is_found
    };
    let product = sources.iter().filter(|source| source.is_product());
    product
        .filter(names)
        .map(|source| source.path.clone())
        .collect()
}

struct Finder<'a> {
    name: &'a str,
    is_found: bool,
}

impl Finder<'_> {
    fn look_into(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.look_into(group.stream()),
                TokenTree::Ident(ident) => self.is_found |= ident == self.name,
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        self.is_found |= ident == self.name;
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.look_into(item.tokens.clone());
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_in_nine_files_is_found() {
        let file = |number: usize, text: &str| {
            Source::parse(format!("crates/hostd/src/file_{number}.rs"), text)
        };
        let mut sources: Vec<Source> = (0..MAX_FILES)
            .map(|number| file(number, "fn f(spec: &Spec) { drop(spec.a); }"))
            .collect();
        let in_tests = "/// a\n#[cfg(test)] mod tests { fn f() { a() } }";
        sources.push(file(100, in_tests));
        assert_eq!(check(&sources, &["a"]), []);
        sources.push(file(101, "fn f() { show!({ x.a }) }"));
        let found = check(&sources, &["a"]);
        assert!(found[0].text.contains("9 files"), "{found:?}");
        assert!(check(&sources, &["b"])[0].text.contains("0 files"));
    }
}
