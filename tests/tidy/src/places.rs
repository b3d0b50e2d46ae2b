//! What may only be in certain places: unsafe code, starting programs, SQL, input and output, work
//! in `Drop`.
//!
//! Paths are looked at as they are written, in `use` declarations and in expressions. That is
//! enough for people who do not mean to cheat.

use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::Finding;
use crate::source::{Source, is_for_tests};

/// The crate with `unsafe` code and spawning on the host, and the guest agent's own modules for the
/// same.
const LINUX: &str = "crates/linux/src";
const GUEST_UNSAFE: [&str; 2] = [
    "crates/guestd/src/syscall.rs",
    "crates/guestd/src/process/spawn.rs",
];
/// Where a program gets its environment: named variables, and nothing of ours.
const COMMANDS: &str = "crates/linux/src/programs.rs";
const INHERITS: [[&str; 2]; 3] = [["Command", "new"], ["env", "vars"], ["env", "vars_os"]];
const GUEST_SPAWNS: &str = "crates/guestd/src/process/spawn.rs";
/// Where the command line becomes the user's own ssh, with the user's environment.
const CLI_SPAWNS: &str = "crates/cli/src/openssh/start.rs";

/// Paths that start a program, by their last two parts.
const SPAWNING: [[&str; 2]; 5] = [
    ["process", "Command"],
    ["tokio", "process"],
    ["unistd", "fork"],
    ["unistd", "execve"],
    ["libc", "fork"],
];
/// Paths that the crate `model` must not know, by their first two parts.
const INPUT_OUTPUT: [[&str; 2]; 5] = [
    ["std", "fs"],
    ["std", "net"],
    ["std", "process"],
    ["std", "thread"],
    ["std", "io"],
];
/// Files that name the shell that runs in the guest.
const GUEST_SHELL: [&str; 4] = [
    "crates/cli/src/commands/shell.rs",
    "crates/dockerfile/src/evaluate/mod.rs",
    "crates/mcp/src/commands.rs",
    "crates/ssh/src/request.rs",
];
const SHELLS: [&str; 6] = [
    "sh",
    "bash",
    "/bin/sh",
    "/bin/bash",
    "/usr/bin/sh",
    "/usr/bin/bash",
];
const SQL: [&str; 9] = [
    "SELECT ",
    "INSERT INTO ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "ALTER TABLE ",
    "DROP TABLE ",
    "BEGIN IMMEDIATE",
];
/// Crates that have to do with directories in which a hostile process makes the names, and what
/// they may not use there.
const NEAR_VMMS: [&str; 2] = ["crates/vmm/src", "crates/hostd/src"];
const RECURSIVE: &str = "remove_dir_all";
/// The one file that knows the directory that a VMM may write to, and its names.
const RUN_DIR: &str = "crates/vmm/src/run_dir.rs";
const RUN_DIR_NAMES: [&str; 2] = ["run", "out"];
/// The one module of the control plane that knows the protocol of host agents.
const CONTROL: &str = "crates/control/src";
const CONTROL_HOSTS: &str = "crates/control/src/hosts";
const SPAWNS_TASKS: [&str; 3] = ["spawn", "spawn_blocking", "block_on"];

/// Everything in `source` that is not where it may be.
#[must_use]
pub fn check(source: &Source) -> Vec<Finding> {
    let mut visitor = Places {
        source,
        findings: Vec::new(),
        in_drop: false,
    };
    visitor.visit_file(&source.syntax);
    visitor.findings
}

struct Places<'a> {
    source: &'a Source,
    findings: Vec<Finding>,
    in_drop: bool,
}

impl Places<'_> {
    fn found(&mut self, spanned: &impl Spanned, text: impl Into<String>) {
        self.findings.push(Finding::new(
            &self.source.path,
            spanned.span().start().line,
            text,
        ));
    }

    fn is_in(&self, place: &str) -> bool {
        self.source.path.starts_with(Path::new(place))
    }

    fn unsafe_code(&mut self, spanned: &impl Spanned) {
        if !self.is_in(LINUX) && !GUEST_UNSAFE.iter().any(|place| self.is_in(place)) {
            self.found(
                spanned,
                "unsafe code: put it behind a safe function of the crate `linux`",
            );
        }
    }

    fn path(&mut self, parts: &[String], spanned: &impl Spanned) {
        if !self.source.is_product() {
            return;
        }
        let has = |pair: &[&str; 2]| {
            parts
                .windows(2)
                .any(|window| window[0] == pair[0] && window[1] == pair[1])
        };
        if SPAWNING.iter().any(has)
            && !self.is_in(LINUX)
            && !self.is_in(GUEST_SPAWNS)
            && !self.is_in(CLI_SPAWNS)
        {
            self.found(
                spanned,
                "starts a program: only the crate `linux` does that on the host",
            );
        }
        if INHERITS.iter().any(has) && self.is_in(LINUX) && !self.is_in(COMMANDS) {
            self.found(
                spanned,
                "hands on our environment, which holds secrets: use `programs::command`",
            );
        }
        if parts.last().is_some_and(|last| last == RECURSIVE)
            && NEAR_VMMS.iter().any(|place| self.is_in(place))
        {
            self.found(spanned, "recursive removal, whose depth a VMM may choose: linux::untrusted_dir::remove_tree");
        }
        if parts.first().is_some_and(|first| first == "host_rpc")
            && self.is_in(CONTROL)
            && !self.is_in(CONTROL_HOSTS)
        {
            self.found(spanned, "the protocol of host agents: only control/src/hosts knows it, and gives types of ours");
        }
        let is_async = parts
            .first()
            .is_some_and(|first| ["tokio", "futures"].contains(&first.as_str()));
        if self.is_in("crates/model") && (is_async || INPUT_OUTPUT.iter().any(has)) {
            self.found(spanned, "`model` does no input or output and has nothing async: do it in the crate that asks");
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree, parts: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                parts.push(path.ident.to_string());
                self.use_tree(&path.tree, parts);
                parts.pop();
            }
            syn::UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|item| self.use_tree(item, parts)),
            syn::UseTree::Glob(_) => self.path(parts, tree),
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                let whole: Vec<String> = parts.iter().cloned().chain([ident.to_string()]).collect();
                self.path(&whole, ident);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Places<'_> {
    /// Tests may start programs and speak to databases, as users do.
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.path(&parts, path);
        visit::visit_path(self, path);
    }

    fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
        self.unsafe_code(expression);
        visit::visit_expr_unsafe(self, expression);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.unsafe_code(token);
        }
        let of_drop = item
            .trait_
            .as_ref()
            .is_some_and(|(_, path, _)| path.is_ident("Drop"));
        self.in_drop = of_drop;
        visit::visit_item_impl(self, item);
        self.in_drop = false;
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.unsafety {
            self.unsafe_code(token);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func
            && self.in_drop
            && self.source.is_product()
            && function
                .path
                .segments
                .last()
                .is_some_and(|last| SPAWNS_TASKS.iter().any(|name| last.ident == name))
        {
            self.found(call, "async work in Drop: its runtime may be gone; write a function that ends it and says how");
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        if !self.source.is_product() {
            return;
        }
        let text = literal.value();
        if SHELLS.contains(&text.as_str())
            && self.source.crate_name() != Some("guestd")
            && !GUEST_SHELL.iter().any(|file| self.is_in(file))
        {
            self.found(
                literal,
                "names a shell: start the program itself, with its arguments",
            );
        }
        if RUN_DIR_NAMES.contains(&text.as_str())
            && self.is_in("crates/vmm/src")
            && !self.is_in(RUN_DIR)
        {
            self.found(
                literal,
                "a path into what a VMM may write: use an UntrustedDir, which run_dir.rs gives",
            );
        }
        if SQL.iter().any(|word| text.trim_start().starts_with(word))
            && self.source.crate_name() != Some("store")
        {
            self.found(
                literal,
                "SQL outside of the crate `store`: add an operation there",
            );
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.found(attribute, "an ignored test: repair it, or remove it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<(usize, String)> {
        let found = check(&Source::parse(path, text));
        found
            .into_iter()
            .map(|finding| {
                (
                    finding.line,
                    finding.text.split([':', ' ']).next().unwrap().to_owned(),
                )
            })
            .collect()
    }

    fn is(line: usize, word: &str) -> Vec<(usize, String)> {
        vec![(line, word.to_owned())]
    }

    #[test]
    fn unsafe_code_has_its_place() {
        let code = "fn f() {\n    unsafe { g() }\n}";
        assert_eq!(findings("crates/linux/src/tap.rs", code), []);
        assert_eq!(findings("crates/guestd/src/syscall.rs", code), []);
        assert_eq!(findings("crates/vmm/src/lib.rs", code), is(2, "unsafe"));
        assert_eq!(
            findings("crates/vmm/tests/a.rs", "unsafe impl Send for S {}"),
            is(1, "unsafe")
        );
        assert_eq!(
            findings("crates/vmm/src/lib.rs", "\nunsafe fn f() {}"),
            is(2, "unsafe")
        );
    }

    #[test]
    fn host_protocol_has_its_place() {
        let code = "use host_rpc::Template;";
        let hosts = "crates/control/src/hosts/snapshots.rs";
        assert_eq!(findings(hosts, code), []);
        assert_eq!(findings("crates/hostd/src/service/mod.rs", code), []);
        let app = "crates/control/src/app/snapshots.rs";
        assert_eq!(findings(app, code), is(1, "the"));
    }

    #[test]
    fn starting_programs_has_its_place() {
        for code in [
            "use std::process::{self, Command};",
            "use tokio::process::Child;",
            "fn f() { process::Command::new(\"x\"); }",
        ] {
            assert_eq!(
                findings("crates/vmm/src/lib.rs", code),
                is(1, "starts"),
                "{code}"
            );
            assert_eq!(findings(COMMANDS, code), []);
            for tests in [
                "crates/vmm/tests/a.rs",
                "crates/vmm/src/a/tests.rs",
                "crates/vmm/src/a/tests/b.rs",
            ] {
                assert_eq!(findings(tests, code), []);
            }
            assert_eq!(
                findings(
                    "crates/vmm/src/lib.rs",
                    &format!("#[cfg(test)]\nmod tests {{ {code} }}")
                ),
                []
            );
        }
        assert_eq!(
            findings(
                "crates/cli/src/args/mod.rs",
                "use clap::Command; fn f() { Command::new(\"x\"); }"
            ),
            []
        );
    }

    #[test]
    fn programs_inherit_nothing() {
        let code = [
            "fn f() { Command::new(\"x\"); }",
            "fn f() { std::env::vars_os(); }",
            "use std::env::vars;",
        ];
        for code in code {
            assert_eq!(
                findings("crates/linux/src/exec.rs", code),
                is(1, "hands"),
                "{code}"
            );
            assert_eq!(findings(COMMANDS, code), []);
        }
        assert_eq!(
            findings(
                "crates/linux/src/exec.rs",
                "fn f() { std::env::var(\"X\"); }"
            ),
            []
        );
    }

    #[test]
    fn the_model_only_thinks() {
        assert_eq!(
            findings("crates/model/src/id.rs", "use std::fs;"),
            is(1, "`model`")
        );
        assert_eq!(
            findings(
                "crates/model/src/id.rs",
                "async fn f() { tokio::time::sleep(x).await }"
            ),
            is(1, "`model`")
        );
        assert_eq!(findings("crates/model/src/id.rs", "use std::fmt;"), []);
    }

    #[test]
    fn sql_and_shells_have_their_place() {
        let sql = "fn f() { g(\"SELECT 1\") }";
        assert_eq!(findings("crates/control/src/a.rs", sql), is(1, "SQL"));
        assert_eq!(findings("crates/store/src/a.rs", sql), []);
        assert_eq!(
            findings("crates/linux/src/a.rs", "fn f() { g(\"/bin/sh\") }"),
            is(1, "names")
        );
    }

    #[test]
    fn directories_of_vmms_have_their_place() {
        let removal = "fn f() { std::fs::remove_dir_all(x) }";
        assert_eq!(
            findings("crates/hostd/src/sandbox/release.rs", removal),
            is(1, "recursive")
        );
        assert_eq!(
            findings("crates/vmm/src/a.rs", "use std::fs::remove_dir_all;"),
            is(1, "recursive")
        );
        assert_eq!(findings("crates/cli/src/a.rs", removal), []);
        assert_eq!(findings("crates/vmm/tests/a.rs", removal), []);
        let name = "fn f() { x.join(\"run\") }";
        assert_eq!(findings("crates/vmm/src/jail.rs", name), is(1, "a"));
        assert_eq!(findings("crates/vmm/src/run_dir.rs", name), []);
    }

    #[test]
    fn drop_does_no_async_work() {
        let drop = "impl Drop for S { fn drop(&mut self) { tokio::spawn(f()); } }";
        assert_eq!(findings("crates/hostd/src/a.rs", drop), is(1, "async"));
        assert_eq!(
            findings(
                "crates/hostd/src/a.rs",
                "impl S { fn f(&self) { tokio::spawn(f()); } }"
            ),
            []
        );
    }

    #[test]
    fn no_test_is_ignored() {
        assert_eq!(
            findings("crates/hostd/tests/a.rs", "#[ignore]\nfn f() {}"),
            is(1, "an")
        );
    }
}
