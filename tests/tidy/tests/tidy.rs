//! The rules, applied to this workspace.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;
use tidy::source::{self, Source};
use tidy::{
    Finding, cycles, documents, edges, fields, none, pages, places, sizes, words, workspace,
};

fn each(check: impl Fn(&Source) -> Vec<Finding>) {
    let sources = source::all(&workspace());
    assert!(
        sources.len() > 100,
        "only {} files were found",
        sources.len()
    );
    none(sources.iter().flat_map(check).collect());
}

/// Documents and scripts by the ends of their names.
fn texts(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let root = workspace();
    let is_wanted = |path: &PathBuf| {
        extensions
            .iter()
            .any(|end| path.to_string_lossy().ends_with(end))
    };
    let paths = source::files(&root).into_iter().filter(is_wanted);
    paths
        .map(|path| {
            (
                path.clone(),
                fs::read_to_string(root.join(path)).expect("text"),
            )
        })
        .collect()
}

#[test]
fn crates_depend_as_architecture_allows() {
    let manifest = workspace().join("Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .exec()
        .expect("cargo metadata");
    none(edges::check(&metadata));
}

#[test]
fn modules_form_no_cycle() {
    none(cycles::check(&source::all(&workspace())));
}

#[test]
fn fields_of_specs_stand_in_few_files() {
    none(fields::check(
        &source::all(&workspace()),
        &fields::SPEC_FIELDS,
    ));
}

#[test]
fn files_and_functions_are_short() {
    each(sizes::check);
}

#[test]
fn unsafe_spawns_and_sql_stay_placed() {
    each(places::check);
}

#[test]
fn names_and_comments_say_something() {
    each(words::check);
}

#[test]
fn every_setting_is_documented() {
    let sources = source::all(&workspace());
    let page = Path::new("docs/configuration.md");
    let text = fs::read_to_string(workspace().join(page)).expect("the page");
    none(documents::settings(
        page,
        &text,
        &documents::variables(sources.iter()),
    ));

    let of_daemons = sources
        .iter()
        .filter(|source| is_configuration(&source.path));
    let example = Path::new(".env.example");
    let text = fs::read_to_string(workspace().join(example)).expect("the example");
    none(documents::settings(
        example,
        &text,
        &documents::variables(of_daemons),
    ));
}

/// Returns true for `src/config.rs` and for what is in `src/config/`.
fn is_configuration(path: &Path) -> bool {
    path.ends_with("src/config.rs") || path.parent().is_some_and(|dir| dir.ends_with("src/config"))
}

#[test]
fn documents_name_code_that_exists() {
    let texts = texts(&[".md", ".rs", ".py", ".ts", ".go"]);
    let (documents, sources): (Vec<_>, Vec<_>) = texts
        .into_iter()
        .partition(|(path, _)| path.extension().is_some_and(|extension| extension == "md"));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = sources
        .iter()
        .flat_map(|(_, text)| text.split(|c| !is_word(c)).map(str::to_owned))
        .collect();
    let files: Vec<PathBuf> = sources.into_iter().map(|(path, _)| path).collect();
    let check =
        |(path, text): &(PathBuf, String)| documents::code_names(path, text, &files, &words);
    none(documents.iter().flat_map(check).collect());
}

#[test]
fn documents_and_scripts_can_be_read() {
    let root = workspace();
    let check = |(path, text): &(PathBuf, String)| {
        let mut findings = documents::width(path, text);
        if path.extension().is_some_and(|extension| extension == "md") {
            findings.extend(documents::links(&root, path, text));
        } else {
            findings.extend(words::marks(path, text, "#"));
        }
        findings
    };
    let texts = texts(&[".md", ".sh", "Makefile", ".env.example", ".service"]);
    assert!(
        texts.len() > 10,
        "only {} documents and scripts were found",
        texts.len()
    );
    none(texts.iter().flat_map(check).collect());
}

#[test]
fn scripts_of_pages_show_text() {
    let scripts = texts(&[".js"]);
    assert!(
        scripts.len() > 10,
        "only {} scripts were found",
        scripts.len()
    );
    let check = |(path, text): &(PathBuf, String)| pages::check(path, text);
    none(scripts.iter().flat_map(check).collect());
}

#[test]
fn only_pictures_and_seeds_are_binary() {
    let root = workspace();
    // What checks leave in the tree, ignored by git.
    let is_cache = |part: &OsStr| {
        part == "dist" || part == "__pycache__" || part.as_encoded_bytes().starts_with(b".")
    };
    let is_expected = |path: &PathBuf| {
        path.starts_with("fuzz/corpus")
            || path.extension().is_some_and(|end| end == "png")
            || path.iter().any(is_cache)
    };
    let is_text = |path: &PathBuf| {
        fs::read(root.join(path)).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok())
    };
    let others = source::files(&root).into_iter();
    let binary: Vec<_> = others
        .filter(|path| !is_expected(path) && !is_text(path))
        .collect();
    assert!(
        binary.is_empty(),
        "packages and programs of others do not belong here: {binary:?}"
    );
}
