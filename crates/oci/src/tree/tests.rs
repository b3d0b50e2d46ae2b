//! The merge of layers against a model: a map of paths, to which the whiteouts of a layer are applied
//! before its entries, as the specification has it, whatever their order in the archive is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A file tree: kinds by path.
type Model = BTreeMap<Vec<u8>, Node>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    /// With the number of the entry that made it, which hard links share.
    File(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Directory(Vec<u8>),
    File(Vec<u8>),
    HardLink(Vec<u8>, Vec<u8>),
    /// Hides a path.
    Whiteout(Vec<u8>),
    /// Hides what is in a directory.
    Opaque(Vec<u8>),
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let names = prop::collection::vec(name, 1..=3);
    names.prop_map(|names| names.join("/").into_bytes())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => path().prop_map(Change::Directory),
        4 => path().prop_map(Change::File),
        2 => (path(), path()).prop_map(|(link, target)| Change::HardLink(link, target)),
        2 => path().prop_map(Change::Whiteout),
        1 => path().prop_map(Change::Opaque),
    ]
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with(b"/"))
}

fn remove_below(model: &mut Model, directory: &[u8]) {
    model.retain(|path, _| !is_below(path, directory));
}

fn insert(model: &mut Model, path: &[u8], node: Node) -> bool {
    for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let parent = model.entry(path[..at].to_vec()).or_insert(Node::Directory);
        if *parent != Node::Directory {
            return false;
        }
    }
    let former = model.insert(path.to_vec(), node);
    if node != Node::Directory || former != Some(Node::Directory) {
        remove_below(model, path);
    }
    true
}

/// Applies a layer. Returns false where it has no place.
fn apply_to_model(model: &mut Model, layer: &[(u64, Change)]) -> bool {
    for (_, change) in layer {
        match change {
            Change::Whiteout(path) => {
                model.remove(path);
                remove_below(model, path);
            }
            Change::Opaque(path) => remove_below(model, path),
            _ => {}
        }
    }
    layer.iter().all(|(number, change)| match change {
        Change::Directory(path) => insert(model, path, Node::Directory),
        Change::File(path) => insert(model, path, Node::File(*number)),
        Change::HardLink(path, target) => match model.get(target).copied() {
            Some(Node::File(number)) if !is_below(target, path) => {
                insert(model, path, Node::File(number))
            }
            _ => false,
        },
        _ => true,
    })
}

fn budget() -> Budget {
    Budget::new(crate::Limits {
        unpacked_bytes: 0,
        spool_bytes: 0,
        entries: 1000,
        time: std::time::Duration::from_secs(60),
    })
}

fn entry(number: u64, change: &Change) -> Entry {
    let whiteout = |path: &[u8]| match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => [&path[..=at], b".wh.", &path[at + 1..]].concat(),
        None => [b".wh.", path].concat(),
    };
    let data = Data {
        offset: number,
        length: 0,
        extents: Vec::new(),
    };
    let (path, kind) = match change {
        Change::Directory(path) => (path.clone(), EntryKind::Directory),
        Change::File(path) => (path.clone(), EntryKind::File(data)),
        Change::HardLink(path, target) => (path.clone(), EntryKind::HardLink(target.clone())),
        Change::Whiteout(path) => (whiteout(path), EntryKind::File(data)),
        Change::Opaque(path) => (
            [&path[..], b"/.wh..wh..opq"].concat(),
            EntryKind::File(data),
        ),
    };
    Entry {
        path,
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        modified: (0, 0),
        attributes: Vec::new(),
    }
}

fn collect(tree: &Tree, id: InodeId, above: &[u8], model: &mut Model) {
    for (name, child) in tree.children(id) {
        let path = match above {
            b"" => name.to_vec(),
            above => [above, b"/", name].concat(),
        };
        let node = match &tree.inode(child).kind {
            Kind::File(_, data) => Node::File(data.offset),
            _ => Node::Directory,
        };
        collect(tree, child, &path, model);
        model.insert(path, node);
    }
}

/// Counts names of each inode.
fn names_of(tree: &Tree) -> BTreeMap<InodeId, u32> {
    let mut names = BTreeMap::from([(ROOT, 1)]);
    for (id, _) in tree.inodes() {
        for (_, child) in tree.children(id) {
            *names.entry(child).or_default() += 1;
        }
    }
    names
}

proptest! {
    #[test]
    fn layers_add_up_as_specified(layers in prop::collection::vec(prop::collection::vec(change(), 0..8), 1..5)) {
        let mut model = Model::new();
        let mut tree = Tree::new();
        let mut number = 0;
        for (layer, changes) in layers.into_iter().enumerate() {
            let numbered = changes.into_iter().map(|change| {
                number += 1;
                (number, change)
            });
            let changes: Vec<(u64, Change)> = numbered.collect();
            // All of them, also behind one that is refused.
            let applied: Vec<bool> = changes
                .iter()
                .map(|(number, change)| entry(*number, change))
                .map(|entry| tree.apply_entry(layer, entry, true, &mut budget()).is_ok())
                .collect();
            let is_applied = applied.iter().all(|is_applied| *is_applied);
            let is_expected = apply_to_model(&mut model, &changes);
            let is_hiding = |change: &Change| matches!(change, Change::Whiteout(_) | Change::Opaque(_));
            if !changes.iter().any(|(_, change)| is_hiding(change)) {
                prop_assert_eq!(is_applied, is_expected);
            }
            // Whether a hidden file is there for a link, or in the way, depends on the order.
            prop_assume!(is_applied && is_expected);
            let mut found = Model::new();
            collect(&tree, ROOT, b"", &mut found);
            prop_assert_eq!(&found, &model);
            let links = tree.inodes().map(|(id, inode)| (id, inode.links));
            prop_assert_eq!(links.collect::<BTreeMap<_, _>>(), names_of(&tree));
        }
    }
}

#[test]
fn whiteouts_in_root_archive_are_names() {
    let mut tree = Tree::new();
    let hidden = Change::Whiteout(b"a".to_vec());
    tree.apply_entry(0, entry(1, &hidden), false, &mut budget())
        .unwrap();
    let names: Vec<&[u8]> = tree.children(ROOT).map(|(name, _)| name).collect();
    assert_eq!(names, [b".wh.a"]);
}

#[test]
fn files_below_aufs_metadata_are_none() {
    let mut tree = Tree::new();
    for path in [&b".wh..wh.plnk/1.2"[..], b"a/.wh..wh.aufs"] {
        let file = entry(1, &Change::File(path.to_vec()));
        tree.apply_entry(0, file, true, &mut budget()).unwrap();
    }
    assert_eq!(tree.children(ROOT).count(), 0);
}

/// Opaque whiteouts of a root with many files, of which each walks all of them.
#[test]
fn endless_whiteouts_are_refused() {
    let mut tree = Tree::new();
    let mut budget = budget();
    for number in 0..1000 {
        let file = entry(number, &Change::File(number.to_string().into_bytes()));
        tree.apply_entry(0, file, true, &mut budget).unwrap();
    }
    let opaque = Change::Opaque(b".".to_vec());
    let mut refused = (0..1000).filter_map(|_| {
        // Those of the same layer stay.
        tree.apply_entry(0, entry(1, &opaque), true, &mut budget)
            .err()
    });
    let text = refused.next().unwrap().to_string();
    assert!(text.contains("steps"), "{text}");
}
