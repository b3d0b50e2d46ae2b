//! Lists the files of the test console, which the program carries: ours in `web/console`, and
//! xterm.js in `builds/console`, where `scripts/build-console.sh` puts it. Without the latter the
//! console has no terminal.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Directory of ours, and what of it is served.
const OURS: &str = "../../web/console";
const SERVED: [&str; 4] = ["html", "css", "js", "svg"];
/// Directory of libraries, what of it is served, and the path below which it is.
const LIBRARIES: &str = "../../builds/console";
const LIBRARY_FILES: [&str; 4] = [
    "addon-fit.mjs",
    "xterm-license.txt",
    "xterm.css",
    "xterm.mjs",
];
const VENDOR: &str = "vendor/";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo takes a directory that is missing for one that changes all the time.
    let _ = fs::create_dir_all(LIBRARIES);
    let mut list = String::from("&[\n");
    for path in files(OURS)? {
        let extension = path.extension().unwrap_or_default();
        if SERVED.iter().any(|served| extension == *served) {
            add(&mut list, "", &path)?;
        }
    }
    // By name: files that are being put there have others.
    for name in LIBRARY_FILES {
        let path = Path::new(LIBRARIES).join(name);
        if path.is_file() {
            add(&mut list, VENDOR, &path)?;
        }
    }
    list.push(']');
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("console.rs"), list)?;
    println!("cargo::rerun-if-changed={OURS}");
    println!("cargo::rerun-if-changed={LIBRARIES}");
    Ok(())
}

/// Returns the files of a directory in the order of their names.
fn files(dir: &str) -> io::Result<Vec<PathBuf>> {
    let entries: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

fn add(list: &mut String, below: &str, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let path = fs::canonicalize(path)?;
    writeln!(
        list,
        "    ({:?}, include_bytes!({path:?})),",
        format!("{below}{name}")
    )?;
    Ok(())
}
