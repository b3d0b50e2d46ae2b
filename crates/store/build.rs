//! Rebuilds when a migration file is added: `sqlx::migrate!` only notices changes to files that it already knows.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
