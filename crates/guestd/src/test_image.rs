//! Images for unit tests.

use std::fs;

/// Makes a folder with these files, as the root of an image.
pub(crate) fn image_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent"))
            .and_then(|()| fs::write(path, text))
            .expect("a file");
    }
    root
}
