//! `wrenn` is a program without a library, so its unpacking is compiled in here, beside what it
//! needs of the program.

#![no_main]

use std::fs;

mod output {
    use std::borrow::Cow;

    pub fn note(_: &str) {}

    pub fn printable(text: &str) -> Cow<'_, str> {
        Cow::Borrowed(text)
    }
}

#[path = "."]
mod copy {
    const CHUNK: usize = 64 * 1024;

    #[path = "../../crates/cli/src/copy/unpack.rs"]
    pub mod unpack;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(outer) = tempfile::tempdir() else { return };
    let target = outer.path().join("target");
    if fs::create_dir(&target).is_ok() {
        let _ = copy::unpack::unpack(bytes, &target);
    }
    let names: Vec<_> = fs::read_dir(&outer).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    assert!(names.iter().all(|name| name == "target"), "written beside the directory: {names:?}");
});
