//! Parsers of bytes of a VMM, each as a function of bytes: for the fuzz targets in `fuzz/`, and for
//! the tests below, which run all of their corpora.

use qapi::Any;
use qapi::qmp::{QapiCapabilities, QmpMessage};

use crate::firecracker::api::{BalloonStatistics, InstanceInfo};

/// Reads what QEMU sends over QMP, and parses it as an event, an answer or a greeting.
pub fn qmp_line(bytes: &[u8]) {
    crate::qemu::fuzz_qmp(bytes);
    let _ = serde_json::from_slice::<QmpMessage<Any>>(bytes);
    let _ = serde_json::from_slice::<QapiCapabilities>(bytes);
}

/// Parses bodies of Firecracker's answers.
pub fn firecracker_answer(bytes: &[u8]) {
    let _ = serde_json::from_slice::<InstanceInfo>(bytes);
    let _ = serde_json::from_slice::<BalloonStatistics>(bytes);
}

#[cfg(test)]
mod tests {
    use testkit::corpus::replay_corpus;

    #[test]
    fn corpus_qmp_line() {
        replay_corpus("qmp_line", super::qmp_line);
    }

    #[test]
    fn corpus_firecracker_answer() {
        replay_corpus("firecracker_answer", super::firecracker_answer);
    }
}
