//! A field of a sandbox's spec stands in few files, so that adding one is a small change.

use std::path::PathBuf;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::Finding;
use crate::source::{Source, is_for_tests};

/// Most files of product code that name one field: spec, REST and its faces (command line, tools of
/// models, E2B's API), protocol of hosts, and where it takes effect.
const MAX_FILES: usize = 11;
/// Fields of `SandboxSpec`.
pub const SPEC_FIELDS: [&str; 12] = [
    "template",
    "vcpus",
    "memory_mb",
    "timeout_sec",
    "on_timeout",
    "auto_resume",
    "disk_mb",
    "envs",
    "public_ports",
    "network",
    "auto_checkpoint",
    "start_command",
];
/// Those of them whose names nothing else has: every mention counts. Of the others counts a field
/// of one of [`TYPES`], in its declaration, its literals and patterns, and behind one of
/// [`VALUES`].
const UNIQUE_FIELDS: [&str; 3] = ["on_timeout", "auto_resume", "public_ports"];
/// Types that have all fields of a spec, or its sizes: of the domain, of REST, and of the protocol
/// of hosts.
const TYPES: [&str; 4] = ["SandboxSpec", "CreateSandbox", "Sandbox", "ResourceRequest"];
/// Names of values of these types.
const VALUES: [&str; 5] = ["spec", "sandbox", "body", "message", "asked"];

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

/// Lists the files of product code that name the field outside of their tests.
fn files_naming(sources: &[Source], name: &str) -> Vec<PathBuf> {
    let names = |source: &&Source| {
        let mut finder = Finder {
            name,
            is_unique: UNIQUE_FIELDS.contains(&name),
            implemented: None,
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
    is_unique: bool,
    /// Type that the present `impl` block is of.
    implemented: Option<String>,
    is_found: bool,
}

impl Finder<'_> {
    fn look_into(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.look_into(group.stream()),
                TokenTree::Ident(ident) if ident == self.name => {
                    let is_of_value = matches!(&tokens[..index], [.., TokenTree::Ident(value), TokenTree::Punct(dot)]
                        if dot.as_char() == '.' && VALUES.contains(&value.to_string().as_str()));
                    self.is_found |= self.is_unique || is_of_value;
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Returns true if the path is that of one of [`TYPES`], or `Self` in an `impl` block of one.
    fn is_type(&self, path: &syn::Path) -> bool {
        let Some(last) = path.segments.last() else {
            return false;
        };
        let name = last.ident.to_string();
        let name = match (name.as_str(), &self.implemented) {
            ("Self", Some(implemented)) => implemented.clone(),
            _ => name,
        };
        TYPES.contains(&name.as_str())
    }

    fn is_named(&self, member: &syn::Member) -> bool {
        matches!(member, syn::Member::Named(ident) if ident == self.name)
    }
}

/// Returns the last name in an expression of names and fields.
fn last_name(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Path(path) => Some(path.path.segments.last()?.ident.to_string()),
        syn::Expr::Field(field) => match &field.member {
            syn::Member::Named(ident) => Some(ident.to_string()),
            syn::Member::Unnamed(_) => None,
        },
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        self.is_found |= self.is_unique && ident == self.name;
    }

    fn visit_expr_field(&mut self, field: &'ast syn::ExprField) {
        let value = last_name(&field.base);
        let is_value = value.is_some_and(|name| VALUES.contains(&name.as_str()));
        self.is_found |= is_value && self.is_named(&field.member);
        visit::visit_expr_field(self, field);
    }

    fn visit_expr_struct(&mut self, literal: &'ast syn::ExprStruct) {
        let mut fields = literal.fields.iter();
        self.is_found |=
            self.is_type(&literal.path) && fields.any(|field| self.is_named(&field.member));
        visit::visit_expr_struct(self, literal);
    }

    fn visit_pat_struct(&mut self, pattern: &'ast syn::PatStruct) {
        let mut fields = pattern.fields.iter();
        self.is_found |=
            self.is_type(&pattern.path) && fields.any(|field| self.is_named(&field.member));
        visit::visit_pat_struct(self, pattern);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let mut fields = item.fields.iter();
        let is_field = fields.any(|field| field.ident.as_ref().is_some_and(|it| it == self.name));
        self.is_found |= is_field && TYPES.contains(&item.ident.to_string().as_str());
        visit::visit_item_struct(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last(),
            _ => None,
        };
        let outer = std::mem::replace(&mut self.implemented, of.map(|it| it.ident.to_string()));
        visit::visit_item_impl(self, item);
        self.implemented = outer;
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

    fn file(number: usize, text: &str) -> Source {
        Source::parse(format!("crates/hostd/src/file_{number}.rs"), text)
    }

    #[test]
    fn field_in_many_files_is_found() {
        let mut sources: Vec<Source> = (0..MAX_FILES)
            .map(|number| file(number, "fn f(spec: &Spec) { drop(spec.a); }"))
            .collect();
        let in_tests = "/// a\n#[cfg(test)] mod tests { fn f() { spec.a } }";
        sources.push(file(100, in_tests));
        sources.push(file(
            101,
            "fn a(config: &Config) { drop(config.a); Other { a: 1 } }",
        ));
        assert_eq!(check(&sources, &["a"]), []);
        sources.push(file(102, "fn f() { show!(spec, a) }"));
        assert_eq!(check(&sources, &["a"]), []);
        sources.push(file(103, "fn f() { show!({ x.spec.a }) }"));
        let found = check(&sources, &["a"]);
        let told = format!("{} files", MAX_FILES + 1);
        assert!(found[0].text.contains(&told), "{found:?}");
        assert!(check(&sources, &["b"])[0].text.contains("0 files"));
    }

    #[test]
    fn every_form_of_field_counts() {
        for text in [
            "fn f() { drop(record.spec.a) }",
            "fn f() { SandboxSpec { a: 1, ..x } }",
            "fn f() { let rpc::SandboxSpec { a, .. } = x; }",
            "impl From<A> for Sandbox { fn f() { Self { a } } }",
            "pub struct CreateSandbox { pub a: u32 }",
        ] {
            assert_eq!(files_naming(&[file(1, text)], "a").len(), 1, "{text}");
        }
        let unique = file(1, "fn f(on_timeout: u32) {}");
        assert_eq!(files_naming(&[unique], "on_timeout").len(), 1);
    }
}
