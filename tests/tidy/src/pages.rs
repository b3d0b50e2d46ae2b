//! Scripts of pages: what others named is text, and a key stays in its tab. Trusted Types refuse
//! some of this in the browser, too, when the line is reached.

use std::path::Path;

use crate::Finding;

const MAX_LINES: usize = 500;

/// Names that make markup or code of a text, or keep what is to go with the tab.
const FORBIDDEN: [(&str, &str); 8] = [
    ("innerHTML", "makes markup of a text: set textContent"),
    ("outerHTML", "makes markup of a text: set textContent"),
    ("insertAdjacentHTML", "makes markup of a text: use append"),
    ("document.write", "makes markup of a text: use append"),
    (
        "DOMParser",
        "makes markup of a text: use the elements of dom.js",
    ),
    ("eval(", "runs a text as code"),
    ("localStorage", "outlives the tab: use sessionStorage"),
    (
        "document.cookie",
        "is sent with requests: use sessionStorage",
    ),
];

/// Returns what is wrong with a script.
#[must_use]
pub fn check(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let found = FORBIDDEN.iter().filter(|(name, _)| line.contains(name));
        findings.extend(
            found.map(|(name, why)| Finding::new(path, index + 1, format!("{name} {why}"))),
        );
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        let text = format!(
            "has {lines} lines, more than {MAX_LINES}: give a part of it a file of its own"
        );
        findings.push(Finding::new(path, 0, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_of_text_is_found() {
        let script = "element.textContent = name;\nelement.innerHTML = name;\n";
        let found = check(Path::new("a.js"), script);
        let right = "innerHTML makes markup of a text: set textContent";
        assert_eq!(found, [Finding::new("a.js", 2, right)]);
    }

    #[test]
    fn long_script_is_found() {
        assert_eq!(check(Path::new("a.js"), &"//\n".repeat(501)).len(), 1);
        assert_eq!(check(Path::new("a.js"), &"//\n".repeat(500)), []);
    }
}
