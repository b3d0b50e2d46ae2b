#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guestd::fuzz::guest_form(bytes));
