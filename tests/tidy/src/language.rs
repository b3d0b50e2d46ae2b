//! How the product code speaks: figures that show where names and comments drift from the field's
//! habits.
//!
//! They are there to look at. A name that became longer and no clearer improves a figure and is a
//! defect.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::source::{Source, is_for_tests};

/// First words of a doc comment that begin a sentence about nobody in particular.
const PRONOUNS: [&str; 12] = [
    "What",
    "Who",
    "Whose",
    "Whom",
    "Whether",
    "Whoever",
    "Whatever",
    "Nobody",
    "Somebody",
    "Everybody",
    "One",
    "Those",
];

/// Counts over all product code; names of tests are those of all code.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Figures {
    pub lines: usize,
    pub public_functions: usize,
    pub one_word_functions: usize,
    pub doc_comments: usize,
    pub pronoun_docs: usize,
    pub tuple_lets: usize,
    /// Words of each test's name.
    pub test_name_words: Vec<usize>,
}

impl Figures {
    /// Counts everything in `sources`.
    #[must_use]
    pub fn measure(sources: &[Source]) -> Self {
        let mut figures = Self::default();
        for source in sources {
            let mut visitor = Counter {
                figures: &mut figures,
                is_product: source.is_product(),
                tests: 0,
            };
            visitor.visit_file(&source.syntax);
        }
        figures
    }

    /// Share of public functions whose name is one word, in percent.
    #[must_use]
    pub fn one_word_percent(&self) -> f64 {
        percent(self.one_word_functions, self.public_functions)
    }

    /// Share of doc comments that begin with a pronoun, in percent.
    #[must_use]
    pub fn pronoun_percent(&self) -> f64 {
        percent(self.pronoun_docs, self.doc_comments)
    }

    /// `let (a, b) = (x, y)` in 1000 lines.
    #[must_use]
    pub fn tuple_lets_per_1000_lines(&self) -> f64 {
        percent(self.tuple_lets, self.lines) * 10.0
    }

    /// Median number of words of a test's name.
    #[must_use]
    pub fn median_test_name_words(&self) -> usize {
        let mut words = self.test_name_words.clone();
        words.sort_unstable();
        words.get(words.len() / 2).copied().unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of lines and names")]
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

struct Counter<'a> {
    figures: &'a mut Figures,
    is_product: bool,
    /// Depth of modules that are for tests only.
    tests: usize,
}

impl Counter<'_> {
    fn counts(&self) -> bool {
        self.is_product && self.tests == 0
    }

    fn function(&mut self, visibility: &syn::Visibility, signature: &syn::Signature) {
        if self.counts() && !matches!(visibility, syn::Visibility::Inherited) {
            self.figures.public_functions += 1;
            self.figures.one_word_functions +=
                usize::from(!signature.ident.to_string().contains('_'));
        }
    }

    fn test_name(&mut self, item: &syn::ItemFn) {
        let is_test = |attribute: &syn::Attribute| {
            attribute
                .path()
                .segments
                .last()
                .is_some_and(|last| last.ident == "test")
        };
        if item.attrs.iter().any(is_test) {
            self.figures
                .test_name_words
                .push(item.sig.ident.to_string().split('_').count());
        }
    }
}

impl<'ast> Visit<'ast> for Counter<'_> {
    fn visit_file(&mut self, file: &'ast syn::File) {
        if self.is_product {
            self.figures.lines += file.span().end().line;
        }
        visit::visit_file(self, file);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_for_tests = is_for_tests(&item.attrs);
        if is_for_tests && self.is_product {
            self.figures.lines -= item.span().end().line - item.span().start().line + 1;
        }
        self.tests += usize::from(is_for_tests);
        visit::visit_item_mod(self, item);
        self.tests -= usize::from(is_for_tests);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.test_name(item);
        self.function(&item.vis, &item.sig);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.vis, &item.sig);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        let is_tuple = |init: &syn::LocalInit| matches!(*init.expr, syn::Expr::Tuple(_));
        if self.counts()
            && matches!(local.pat, syn::Pat::Tuple(_))
            && local.init.as_ref().is_some_and(is_tuple)
        {
            self.figures.tuple_lets += 1;
        }
        visit::visit_local(self, local);
    }

    /// The first line of each run of doc attributes is where a comment begins.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let syn::Meta::NameValue(pair) = &attribute.meta else {
            return;
        };
        let syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) = &pair.value
        else {
            return;
        };
        if !self.counts() || !pair.path.is_ident("doc") {
            return;
        }
        let text = text.value();
        let first = text.split_whitespace().next().unwrap_or_default();
        self.figures.doc_comments += 1;
        self.figures.pronoun_docs += usize::from(PRONOUNS.contains(&first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(text: &str) -> Figures {
        Figures::measure(&[Source::parse("crates/a/src/b.rs", text)])
    }

    #[test]
    fn one_word_names_are_counted() {
        let figures = measure(
            "pub fn take() {} pub(crate) fn take_slot() {} fn own() {} impl A { pub fn of() {} }",
        );
        assert_eq!(
            (figures.public_functions, figures.one_word_functions),
            (3, 2)
        );
    }

    #[test]
    fn docs_with_a_pronoun_are_counted() {
        let figures = measure("/// What it is.\npub struct A;\n/// Returns it.\nfn f() {}\n");
        assert_eq!((figures.doc_comments, figures.pronoun_docs), (2, 1));
        assert!((figures.pronoun_percent() - 50.0).abs() < f64::EPSILON);
    }

    #[test]
    fn tuple_lets_in_tests_are_ignored() {
        let text = "fn f() { let (a, b) = (1, 2); let (c, d) = g(); }\n#[cfg(test)]\nmod tests {\nfn f() { let (a, b) = (1, 2); }\n}\n";
        let figures = measure(text);
        assert_eq!((figures.tuple_lets, figures.lines), (1, 1));
    }

    #[test]
    fn test_name_words_have_a_median() {
        let figures = measure(
            "#[test] fn a_b() {} #[tokio::test] async fn a_b_c_d() {} #[test] fn a_b_c() {}",
        );
        assert_eq!(figures.median_test_name_words(), 3);
    }
}
