//! Runs the code of docs/webhooks.md, over the published libraries of PyPI and npm.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Reads cases from standard input, and prints what `verify` returns, or null.
const PYTHON: &str = "
import json, sys
from standardwebhooks import WebhookVerificationError
def attempt(case):
    try:
        return verify(case['secret'], case['headers'], case['body'].encode())
    except WebhookVerificationError:
        return None
print(json.dumps([attempt(case) for case in json.load(sys.stdin)]))
";
const NODE: &str = "
import { readFileSync } from 'node:fs';
import { WebhookVerificationError } from 'standardwebhooks';
const attempt = (it) => {
  try { return verify(it.secret, it.headers, it.body); } catch (error) {
    if (error instanceof WebhookVerificationError) return null;
    throw error;
  }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(attempt)));
";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first code of a language in docs/webhooks.md.
fn documented(language: &str) -> String {
    let text = std::fs::read_to_string(workspace().join("docs/webhooks.md")).unwrap();
    let (_, code) = text.split_once(&format!("```{language}\n")).unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

pub fn verify_with_all(cases: &str) -> Vec<(&'static str, Value)> {
    let installed = Command::new(workspace().join("scripts/webhook-libraries.sh"))
        .output()
        .unwrap();
    assert!(installed.status.success(), "{installed:?}");
    let paths = String::from_utf8(installed.stdout).unwrap();
    let (python, modules) = paths.trim().split_once('\n').unwrap();
    let python_code = documented("python") + PYTHON;
    let node_code = documented("javascript") + NODE;
    let script = tempfile::Builder::new()
        .suffix(".mjs")
        .tempfile_in(modules)
        .unwrap();
    std::fs::write(script.path(), node_code).unwrap();
    vec![
        (
            "python",
            run(Command::new(python).args(["-c", &python_code]), cases),
        ),
        ("node", run(Command::new("node").arg(script.path()), cases)),
    ]
}

fn run(command: &mut Command, cases: &str) -> Value {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(cases.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
