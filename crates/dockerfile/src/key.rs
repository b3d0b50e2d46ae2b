//! Keys of steps: two steps with one key leave the same files.
//!
//! A key is the hash of the key before it, of what the step does with all variables expanded, and
//! of the digests of the files that it copies. So a change is seen from the first step on that it
//! matters to: an argument from the `RUN`s behind its `ARG` on, a file from its `COPY` on, a label
//! not at all.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::evaluate::StepAction;

/// Of the form of keys. Another one makes all layers new.
const VERSION: &str = "wrenn-build-1";

/// Hash of everything that the files depend on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey([u8; 32]);

impl StepKey {
    /// Returns the key of the files that a stage begins with. `team` keeps those of teams apart;
    /// `digest` is that of the image, or a name for the empty one.
    #[must_use]
    pub fn for_base(team: &str, digest: &str) -> Self {
        Self::hash(&(VERSION, team, digest))
    }

    /// Returns the key of the files after a step. `files` is the digest of what it copies; empty if
    /// it copies nothing.
    #[must_use]
    pub fn after_step(&self, action: &StepAction, files: &str) -> Self {
        Self::hash(&(hex::encode(self.0), action, files))
    }

    /// Returns all hex digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    fn hash(parts: &impl Serialize) -> Self {
        // Strings, numbers and lists of them can always be written.
        let text = serde_json::to_vec(parts).unwrap_or_default();
        Self(Sha256::digest(&text).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BuildArgs, Dockerfile, StageState};

    const TEXT: &str = "FROM a\nRUN one\nCOPY x /x\nARG V=1\nRUN two\nCOPY y /y\nLABEL l=1\n";

    /// Returns the keys of the last stage's steps. Copied files have their path as digest; that of
    /// `changed` is another one.
    fn keys(text: &str, args: &[(&str, &str)], changed: &str) -> Vec<StepKey> {
        let values = args.iter();
        let values = values.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let args = BuildArgs {
            values: values.collect(),
            ..BuildArgs::default()
        };
        let dockerfile = Dockerfile::parse(text).unwrap();
        let selected = dockerfile.select_stages(None, &args).unwrap();
        let stage = selected.stages.last().unwrap();
        let evaluated = stage.evaluate(StageState::default(), &selected, &args);
        let mut key = StepKey::for_base("team", "sha256:00");
        let mut keys = Vec::new();
        for step in &evaluated.unwrap().steps {
            let mut files = match &step.action {
                StepAction::Copy(copy) => format!("{:?}", copy.sources),
                _ => String::new(),
            };
            if !changed.is_empty() && files.contains(changed) {
                files.push('!');
            }
            key = key.after_step(&step.action, &files);
            keys.push(key.clone());
        }
        keys
    }

    /// Returns the number of keys that are the same from the beginning on.
    fn shared(a: &[StepKey], b: &[StepKey]) -> usize {
        let first_other = a.iter().zip(b).position(|(a, b)| a != b);
        let shared = first_other.unwrap_or(a.len().min(b.len()));
        assert!(a.iter().skip(shared).all(|key| !b.contains(key)));
        shared
    }

    #[test]
    fn keys_change_from_change_on() {
        let before = keys(TEXT, &[], "");
        let same = |after: Vec<StepKey>| shared(&before, &after);
        assert_eq!(before.len(), 4);
        assert_eq!(same(keys(TEXT, &[("V", "2")], "")), 2);
        assert_eq!(same(keys(TEXT, &[("V", "1")], "")), 4);
        assert_eq!(same(keys(TEXT, &[("OTHER", "2")], "")), 4);
        assert_eq!(same(keys(TEXT, &[("https_proxy", "p")], "")), 4);
        assert_eq!(same(keys(TEXT, &[], "\"x\"")), 1);
        assert_eq!(same(keys(TEXT, &[], "\"y\"")), 3);
        assert_eq!(same(keys(&TEXT.replace("l=1", "l=2"), &[], "")), 4);
        assert_eq!(same(keys(&TEXT.replace("two", "2"), &[], "")), 2);
        let spaced = TEXT.replace("RUN one", "# why\nrun   one");
        assert_eq!(same(keys(&spaced, &[], "")), 4);
        let user = TEXT.replace("ARG V=1", "ARG V=1\nUSER app");
        assert_eq!(same(keys(&user, &[], "")), 2);
    }

    #[test]
    fn bases_and_teams_are_apart() {
        let key = StepKey::for_base("a", "b");
        assert_ne!(key, StepKey::for_base("ab", ""));
        assert_ne!(key, StepKey::for_base("b", "a"));
        assert_eq!(key.to_hex().len(), 64);
    }
}
