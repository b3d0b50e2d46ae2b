#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostd::fuzz::guest_answer(bytes));
