//! The walk against a model: maps from paths to files.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A tree in memory.
#[derive(Debug, Clone)]
enum Node {
    File(u8, u16),
    Directory(u16, BTreeMap<Vec<u8>, Node>),
    /// A node of which something cannot be read.
    Damaged(Damage, Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Inode,
    Attributes,
    Content,
    Directory,
    /// The first entry of the directory.
    Entry,
}

struct Model<'a>([&'a Node; 2]);

struct Opened<'a>(&'a Node, FileState, Option<Damage>);

fn state(kind: InodeKind, mode: u16, size: u64) -> FileState {
    FileState {
        kind,
        size,
        mode,
        uid: 0,
        gid: 0,
        target: None,
        device: None,
        sha256: None,
    }
}

impl<'a> Sides for Model<'a> {
    type Entry = &'a Node;
    type File = Opened<'a>;

    fn root(&self, side: Side) -> Option<&'a Node> {
        Some(self.0[side as usize])
    }

    fn missing(&self) -> Option<&'static str> {
        None
    }

    fn open(&self, _: Side, entry: &'a Node) -> Read<Opened<'a>> {
        match entry {
            Node::File(_, mode) => Ok(Opened(entry, state(InodeKind::File, *mode, 1), None)),
            Node::Directory(mode, _) => {
                Ok(Opened(entry, state(InodeKind::Directory, *mode, 0), None))
            }
            Node::Damaged(Damage::Inode, _) => Err(Unread::Damaged),
            Node::Damaged(damage, node) => {
                let Opened(node, state, _) = self.open(Side::Before, node)?;
                Ok(Opened(node, state, Some(*damage)))
            }
        }
    }

    fn state<'b>(&self, file: &'b Opened<'a>) -> &'b FileState {
        &file.1
    }

    fn list(&self, _: Side, directory: &Opened<'a>, most: usize) -> Read<Listing<&'a Node>> {
        let (Node::Directory(_, entries), damage) = (directory.0, directory.2) else {
            return Err(Unread::Damaged);
        };
        if damage == Some(Damage::Directory) {
            return Err(Unread::Damaged);
        }
        let is_damaged = damage == Some(Damage::Entry);
        let known = entries.iter().skip(usize::from(is_damaged)).take(most);
        Ok(Listing {
            entries: known.map(|(name, node)| (name.clone(), node)).collect(),
            is_cut: entries.len() > most,
            is_damaged,
        })
    }

    fn is_content_same(&self, before: &Opened<'a>, after: &Opened<'a>) -> Read<bool> {
        match (before, after) {
            (Opened(_, _, Some(Damage::Content)), _) | (_, Opened(_, _, Some(Damage::Content))) => {
                Err(Unread::Damaged)
            }
            (Opened(Node::File(old, _), ..), Opened(Node::File(new, _), ..)) => Ok(old == new),
            _ => Err(Unread::Damaged),
        }
    }

    fn are_attributes_same(&self, before: &Opened<'a>, after: &Opened<'a>) -> Read<bool> {
        match [before.2, after.2].contains(&Some(Damage::Attributes)) {
            true => Err(Unread::Damaged),
            false => Ok(true),
        }
    }

    fn add_content(
        &self,
        _: Option<&Opened<'a>>,
        _: Option<&Opened<'a>>,
        _: &mut Change,
    ) -> Read<()> {
        Ok(())
    }
}

/// Lists all files of a tree by path, with content and mode.
fn flat(node: &Node, path: &str, into: &mut BTreeMap<String, (InodeKind, u16, u8)>) {
    match node {
        Node::File(content, mode) => {
            into.insert(path.to_owned(), (InodeKind::File, *mode, *content));
        }
        Node::Directory(mode, entries) => {
            into.insert(path.to_owned(), (InodeKind::Directory, *mode, 0));
            for (name, node) in entries {
                let parent = path.trim_end_matches('/');
                let name = String::from_utf8_lossy(name);
                flat(node, &format!("{parent}/{name}"), into);
            }
        }
        Node::Damaged(_, node) => flat(node, path, into),
    }
}

fn limits(changes: u64) -> Limits {
    Limits {
        changes,
        deadline: Instant::now() + Duration::from_secs(60),
    }
}

fn run(before: &Node, after: &Node, limits: Limits) -> (Vec<Change>, Summary) {
    let mut changes = Vec::new();
    let report = |change| {
        changes.push(change);
        Ok::<_, Infallible>(())
    };
    let summary = compare(&Model([before, after]), b"/", limits, report).unwrap();
    (changes, summary)
}

fn node() -> impl Strategy<Value = Node> {
    let mode = || 0..3_u16;
    let leaf = (0..3_u8, mode()).prop_map(|(content, mode)| Node::File(content, mode));
    let tree = leaf.prop_recursive(4, 40, 5, move |inner| {
        let name = (0..6_u8).prop_map(|letter| vec![b'a' + letter]);
        (mode(), prop::collection::btree_map(name, inner, 0..5))
            .prop_map(|(mode, entries)| Node::Directory(mode, entries))
    });
    (
        mode(),
        prop::collection::btree_map("[a-c]".prop_map(String::into_bytes), tree, 0..4),
    )
        .prop_map(|(mode, entries)| Node::Directory(mode, entries))
}

fn damage() -> impl Strategy<Value = Damage> {
    use Damage::{Attributes, Content, Directory, Entry, Inode};
    prop::sample::select(vec![Inode, Attributes, Content, Directory, Entry])
}

/// A tree of which one node in four is damaged.
fn damaged_node() -> impl Strategy<Value = Node> {
    let leaf = (0..2_u8).prop_map(|content| Node::File(content, 0));
    leaf.prop_recursive(4, 30, 4, |inner| {
        let name = (0..4_u8).prop_map(|letter| vec![b'a' + letter]);
        let entries = prop::collection::btree_map(name, inner, 0..4);
        let node = entries.prop_map(|entries| Node::Directory(0, entries));
        (node, prop::option::weighted(0.25, damage())).prop_map(|(node, damage)| match damage {
            Some(damage) => Node::Damaged(damage, Box::new(node)),
            None => node,
        })
    })
}

proptest! {
    /// Whatever is damaged: each difference is told, or is in something that is told to be
    /// unreadable.
    #[test]
    fn damage_hides_no_difference(before in damaged_node(), after in damaged_node()) {
        let mut old = BTreeMap::new();
        let mut new = BTreeMap::new();
        flat(&before, "/", &mut old);
        flat(&after, "/", &mut new);
        let (changes, summary) = run(&before, &after, limits(u64::MAX));
        let is_told = |path: &str| {
            changes.iter().any(|change| {
                let told = String::from_utf8(change.path.0.clone()).unwrap();
                let below = format!("{}/", told.trim_end_matches('/'));
                told == path || change.is_unreadable && path.starts_with(&below)
            })
        };
        for path in old.keys().chain(new.keys()) {
            prop_assert!(old.get(path) == new.get(path) || is_told(path), "{}", path);
        }
        let unreadable = changes.iter().filter(|change| change.is_unreadable).count();
        prop_assert_eq!(summary.unreadable, unreadable as u64);
        prop_assert_eq!(summary.incomplete.is_some(), unreadable > 0);
        // Nothing that is in the damaged part of a directory is said to be new or gone.
        for change in changes.iter().filter(|change| !change.is_unreadable) {
            let path = String::from_utf8(change.path.0.clone()).unwrap();
            prop_assert_eq!(change.before.is_some(), old.contains_key(&path), "{}", &path);
            prop_assert_eq!(change.after.is_some(), new.contains_key(&path), "{}", &path);
        }
    }

    #[test]
    fn changes_are_those_of_model(before in node(), after in node()) {
        let mut old = BTreeMap::new();
        let mut new = BTreeMap::new();
        flat(&before, "/", &mut old);
        flat(&after, "/", &mut new);
        let paths: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let mut expected: Vec<(String, Option<_>, Option<_>)> = paths
            .into_iter()
            .map(|path| (path.clone(), old.get(path).copied(), new.get(path).copied()))
            .filter(|(_, old, new)| old != new)
            .collect();
        // Names in a directory are in order, and a directory is before what is in it.
        expected.sort_by_key(|(path, _, _)| path.replace('/', "\0"));
        let (changes, summary) = run(&before, &after, limits(u64::MAX));
        let found: Vec<String> = changes
            .iter()
            .map(|change| String::from_utf8(change.path.0.clone()).unwrap())
            .collect();
        let wanted: Vec<String> = expected.iter().map(|(path, _, _)| path.clone()).collect();
        prop_assert_eq!(found, wanted);
        for (change, (_, old, new)) in changes.iter().zip(&expected) {
            let kinds = |state: &Option<FileState>| state.as_ref().map(|it| (it.kind, it.mode));
            prop_assert_eq!(kinds(&change.before), old.map(|(kind, mode, _)| (kind, mode)));
            prop_assert_eq!(kinds(&change.after), new.map(|(kind, mode, _)| (kind, mode)));
            let is_changed = matches!((old, new), (Some((InodeKind::File, _, a)), Some((InodeKind::File, _, b))) if a != b);
            prop_assert_eq!(change.is_content_changed, is_changed);
        }
        prop_assert_eq!((summary.incomplete, summary.unreadable), (None, 0));
    }

    #[test]
    fn limit_of_changes_gives_first_ones(before in node(), after in node(), most in 0_u64..6) {
        let (all, _) = run(&before, &after, limits(u64::MAX));
        let (some, summary) = run(&before, &after, limits(most));
        prop_assert_eq!(summary.incomplete.is_some(), all.len() as u64 > most);
        let kept = all.len().min(usize::try_from(most).unwrap());
        prop_assert_eq!(&some[..], &all[..kept]);
    }
}

fn directory(entries: impl IntoIterator<Item = (Vec<u8>, Node)>) -> Node {
    Node::Directory(0, entries.into_iter().collect())
}

#[test]
fn damaged_file_hides_no_other() {
    let file = |content| Node::File(content, 0);
    let before = directory([(b"a".to_vec(), file(1)), (b"b".to_vec(), file(1))]);
    let damaged = Node::Damaged(Damage::Inode, Box::new(file(1)));
    let after = directory([(b"a".to_vec(), damaged), (b"b".to_vec(), file(2))]);
    let (changes, summary) = run(&before, &after, limits(10));
    let told: Vec<_> = changes
        .iter()
        .map(|it| (&it.path.0[..], it.is_unreadable))
        .collect();
    assert_eq!(told, [(&b"/a"[..], true), (b"/b", false)]);
    assert!(changes[0].before.is_some() && changes[0].after.is_none());
    let reason = "a file or directory could not be read";
    assert_eq!(
        (summary.unreadable, summary.incomplete.as_deref()),
        (1, Some(reason))
    );
}

#[test]
fn walk_ends_at_longest_path() {
    let levels = MAX_PATH / 2;
    let deep = (0..levels + 10).fold(directory([]), |inner, _| {
        directory([(b"d".to_vec(), inner)])
    });
    let (changes, summary) = run(&directory([]), &deep, limits(u64::MAX));
    assert!(summary.incomplete.unwrap().contains("4096 bytes"));
    assert_eq!(changes.len(), levels);
    let message = serde_json::to_vec(changes.last().unwrap()).unwrap();
    assert!(message.len() < crate::reader::MAX_MESSAGE);
    // The model is as deep as the stack is not.
    let mut rest = deep;
    while let Node::Directory(_, mut entries) = rest {
        rest = entries
            .pop_first()
            .map_or(Node::File(0, 0), |(_, inner)| inner);
    }
}

#[test]
fn walk_ends_at_its_deadline() {
    let file = Node::File(1, 0);
    let limits = Limits {
        changes: 10,
        deadline: Instant::now(),
    };
    let (changes, summary) = run(&directory([]), &directory([(b"a".to_vec(), file)]), limits);
    assert!(changes.is_empty());
    assert_eq!(summary.incomplete.as_deref(), Some("it took too long"));
}

#[test]
fn messages_keep_bytes() {
    let change = Change {
        path: Bytes(b"/caf\xe9".to_vec()),
        before: None,
        after: Some(FileState {
            target: Some(Bytes(vec![0xff])),
            ..state(InodeKind::Symlink, 0o777, 0)
        }),
        is_content_changed: false,
        are_attributes_changed: true,
        is_unreadable: false,
        patch: None,
    };
    let json = serde_json::to_string(&change).unwrap();
    assert_eq!(serde_json::from_str::<Change>(&json).unwrap(), change);
}
