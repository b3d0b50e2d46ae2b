#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzz::firecracker_answer(bytes));
