//! Identity of the host's processor, for guests that see it.

use std::io;

use sha2::{Digest, Sha256};

/// Fields of `/proc/cpuinfo` that tell processors apart for a guest that has run on one: it crashes
/// if an instruction or a feature is missing.
const FIELDS: [&str; 4] = ["vendor_id", "cpu family", "model", "model name"];

/// Returns the processor's name and a checksum of its features. The same for all processors of a
/// machine.
///
/// # Errors
/// When `/proc/cpuinfo` cannot be read.
pub(crate) fn identity() -> io::Result<String> {
    Ok(of(&std::fs::read_to_string("/proc/cpuinfo")?))
}

fn of(table: &str) -> String {
    let field = |name: &str| {
        let mut fields = table.lines().filter_map(|line| line.split_once(':'));
        fields
            .find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()))
            .unwrap_or_default()
    };
    let flags = field("flags");
    let mut flags: Vec<&str> = flags.split_ascii_whitespace().collect();
    flags.sort_unstable();
    format!(
        "{}, features {}",
        FIELDS.map(field).join(" "),
        &hex::encode(Sha256::digest(flags.join(" ")))[..16]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_identity_includes_features() {
        let table = |flags| {
            format!(
                "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Xeon @ 2 GHz\n\
                 stepping\t: 7\ncpu MHz\t\t: 2000.1\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: other\n"
            )
        };
        let one = of(&table("fpu sse avx"));
        assert!(
            one.starts_with("GenuineIntel 6 85 Xeon @ 2 GHz, features "),
            "{one}"
        );
        assert_eq!(one, of(&table("avx fpu sse")));
        assert_ne!(one, of(&table("fpu sse")));
        assert_eq!(identity().unwrap(), identity().unwrap());
    }
}
