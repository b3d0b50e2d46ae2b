//! Which modules of a crate import each other in a circle.
//!
//! A module is a file. It depends on another if a path in it, in a `use` or in an expression, leads
//! there. Three things are no dependency: what a module takes from those that it is inside of,
//! since a module and its parts are read together; a `pub use`, which only shows the way to the
//! file behind it; and code that is compiled for tests only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use crate::Finding;
use crate::source::{Source, is_for_tests};

/// Path of a module below its crate, as in `["qemu", "args"]`; empty for the root.
type ModulePath = Vec<String>;

/// Returns a finding for each circle of modules.
#[must_use]
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let finding = |circle: &Vec<PathBuf>| {
        let names: Vec<String> = circle
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let text = format!(
            "imports itself in a circle: {}; move what several of them use into a module below",
            names.join(", ")
        );
        Finding::new(&circle[0], 0, text)
    };
    find(sources).iter().map(finding).collect()
}

/// Returns `crates/NAME/src` or `bench/src`.
fn crate_root(file: &Path) -> Option<&Path> {
    file.ancestors().find(|path| path.ends_with("src"))
}

/// Returns the files of each circle, in the order of the files' names. A circle is a set of files
/// each of which reaches all others.
#[must_use]
pub fn find(sources: &[Source]) -> Vec<Vec<PathBuf>> {
    let mut crates: BTreeMap<&Path, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        let is_counted = source.is_product() || source.path.starts_with("bench/src");
        if let Some(root) = crate_root(&source.path)
            && is_counted
        {
            crates.entry(root).or_default().push(source);
        }
    }
    crates
        .values()
        .flat_map(|sources| Modules::read(sources).circles())
        .collect()
}

struct Modules<'a> {
    files: BTreeMap<ModulePath, &'a Source>,
    /// Names that a module re-exports, with where they come from.
    signposts: BTreeMap<ModulePath, BTreeMap<String, ModulePath>>,
}

impl<'a> Modules<'a> {
    fn read(sources: &[&'a Source]) -> Self {
        let has_library = sources
            .iter()
            .any(|source| source.path.ends_with("src/lib.rs"));
        let in_crate = sources
            .iter()
            .filter(|source| !(has_library && is_program(&source.path)));
        let files = in_crate
            .map(|source| (module_path(&source.path), *source))
            .collect();
        let mut modules = Self {
            files,
            signposts: BTreeMap::new(),
        };
        for (path, source) in &modules.files {
            let uses = source.syntax.items.iter().filter_map(|item| match item {
                syn::Item::Use(item) if !matches!(item.vis, syn::Visibility::Inherited) => {
                    Some(&item.tree)
                }
                _ => None,
            });
            let mut names = BTreeMap::new();
            for tree in uses {
                for full in leaves(tree) {
                    let Some(target) = modules.absolute(path, &full) else {
                        continue;
                    };
                    if let Some(name) = target.last() {
                        names.insert(name.clone(), target);
                    }
                }
            }
            modules.signposts.insert(path.clone(), names);
        }
        modules
    }

    /// Path from the root of the crate, or `None` if it leads out of the crate.
    fn absolute(&self, from: &[String], path: &[String]) -> Option<ModulePath> {
        let mut base = from.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop()?;
                    rest = &rest[1..];
                }
            }
            child => {
                let mut module = from.to_vec();
                module.push(child.to_owned());
                self.files.contains_key(&module).then_some(())?;
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// The file in which `path` ends, through signposts.
    fn resolve(&self, path: &[String], depth: usize) -> Option<ModulePath> {
        let longest = (0..=path.len())
            .rev()
            .find(|&length| self.files.contains_key(&path[..length]))?;
        let module = path[..longest].to_vec();
        let next = path
            .get(longest)
            .and_then(|name| self.signposts.get(&module)?.get(name));
        match next {
            Some(target) if depth < 8 && *target != path => self.resolve(target, depth + 1),
            _ => Some(module),
        }
    }

    fn dependencies(&self, path: &ModulePath, source: &Source) -> BTreeSet<ModulePath> {
        let mut visitor = Paths::default();
        visitor.visit_file(&source.syntax);
        let targets = visitor
            .found
            .iter()
            .filter_map(|found| self.resolve(&self.absolute(path, found)?, 0));
        targets.filter(|target| !path.starts_with(target)).collect()
    }

    fn circles(&self) -> Vec<Vec<PathBuf>> {
        let edges: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = self
            .files
            .iter()
            .map(|(path, source)| (path, self.dependencies(path, source)))
            .collect();
        let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> = edges
            .keys()
            .map(|path| (*path, reachable(&edges, path)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for (path, reaches) in &reached {
            if !reaches.contains(path) || !seen.insert(*path) {
                continue;
            }
            let circle: Vec<&ModulePath> = reaches
                .iter()
                .filter(|other| reached[*other].contains(path))
                .copied()
                .collect();
            seen.extend(circle.iter().copied());
            circles.push(
                circle
                    .iter()
                    .map(|path| self.files[*path].path.clone())
                    .collect(),
            );
        }
        circles
    }
}

fn reachable<'a>(
    edges: &'a BTreeMap<&ModulePath, BTreeSet<ModulePath>>,
    from: &ModulePath,
) -> BTreeSet<&'a ModulePath> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&ModulePath> = edges[from].iter().collect();
    while let Some(path) = open.pop() {
        if reached.insert(path) {
            open.extend(edges[path].iter());
        }
    }
    reached
}

fn is_program(path: &Path) -> bool {
    path.ends_with("src/main.rs") || path.components().any(|part| part.as_os_str() == "bin")
}

fn module_path(path: &Path) -> ModulePath {
    let root = crate_root(path).unwrap_or(Path::new(""));
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<String> = below
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let is_root = |name: &str| ["mod.rs", "lib.rs", "main.rs"].contains(&name);
    let mut module: ModulePath = parts
        .iter()
        .filter(|part| !is_root(part))
        .cloned()
        .collect();
    if let Some(last) = module.last_mut() {
        *last = last.trim_end_matches(".rs").to_owned();
    }
    module
}

fn leaves(tree: &syn::UseTree) -> Vec<Vec<String>> {
    match tree {
        syn::UseTree::Path(path) => {
            let mut below = leaves(&path.tree);
            below
                .iter_mut()
                .for_each(|leaf| leaf.insert(0, path.ident.to_string()));
            below
        }
        syn::UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        syn::UseTree::Name(syn::UseName { ident }) if ident == "self" => vec![Vec::new()],
        syn::UseTree::Name(syn::UseName { ident })
        | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
            vec![vec![ident.to_string()]]
        }
        syn::UseTree::Glob(_) => vec![Vec::new()],
    }
}

#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if matches!(item.vis, syn::Visibility::Inherited) {
            self.found.extend(leaves(&item.tree));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.found.push(
                path.segments
                    .iter()
                    .map(|segment| segment.ident.to_string())
                    .collect(),
            );
        }
        visit::visit_path(self, path);
    }

    /// `pub(in crate::…)` is no dependency.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::parse(format!("crates/a/src/{path}"), *text))
            .collect();
        let name = |path: &PathBuf| {
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        };
        find(&sources)
            .iter()
            .map(|circle| circle.iter().map(name).collect())
            .collect()
    }

    #[test]
    fn circle_of_three_is_found_once() {
        let files = [
            ("lib.rs", "mod one; mod two; mod three; mod four;"),
            ("one.rs", "use crate::two::Two;"),
            ("two.rs", "fn f() { super::three::g(); }"),
            ("three.rs", "use super::one;"),
            ("four.rs", "use crate::one::One;"),
        ];
        assert_eq!(circles(&files), [["one.rs", "three.rs", "two.rs"]]);
    }

    #[test]
    fn circle_is_told_with_its_files() {
        let sources = [
            ("lib.rs", "mod one; mod two;"),
            ("one.rs", "use crate::two::Two;"),
            ("two.rs", "use crate::one::One;"),
        ]
        .map(|(path, text)| Source::parse(format!("crates/a/src/{path}"), text));
        let findings = check(&sources);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].text.contains("crates/a/src/two.rs"));
    }

    #[test]
    fn reexport_leads_to_its_source() {
        let files = [
            ("lib.rs", ""),
            (
                "vm/mod.rs",
                "mod args; mod kind; pub use kind::Kind; fn f() { args::g(); }",
            ),
            ("vm/args.rs", "use super::Kind;"),
            ("vm/kind.rs", ""),
        ];
        assert_eq!(circles(&files), [] as [Vec<String>; 0]);
    }

    #[test]
    fn child_may_use_its_parent() {
        let parent = (
            "vm/mod.rs",
            "mod args; pub struct Kind; fn f() { args::g(); }",
        );
        let files = [
            ("lib.rs", ""),
            parent,
            ("vm/args.rs", "use super::Kind;"),
            ("user.rs", "use crate::vm::Kind;"),
        ];
        assert_eq!(circles(&files), [] as [Vec<String>; 0]);
        let files = [
            ("lib.rs", ""),
            parent,
            ("vm/args.rs", "use crate::user::g;"),
            ("user.rs", "use crate::vm::Kind;"),
        ];
        assert_eq!(circles(&files), [["user.rs", "mod.rs", "args.rs"]]);
    }

    #[test]
    fn tests_do_not_count() {
        let files = [
            ("lib.rs", ""),
            ("one.rs", "use crate::two::f;"),
            ("two.rs", "#[cfg(test)] mod tests { use crate::one::g; }"),
        ];
        assert_eq!(circles(&files), [] as [Vec<String>; 0]);
    }
}
