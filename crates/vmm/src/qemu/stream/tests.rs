//! Streams as QEMU writes them, with and without the pages that are to be left out.

use proptest::prelude::*;

use super::*;

/// One page of a block, as it is written.
#[derive(Debug, Clone)]
struct Record {
    block: &'static str,
    number: u64,
    /// `None` for a page of zeroes.
    byte: Option<u8>,
}

fn record() -> impl Strategy<Value = Record> {
    let block = prop_oneof![3 => Just("ram"), 1 => Just("microvm.bios"), 1 => Just("r")];
    (block, 0..1000_u64, prop::option::of(any::<u8>())).prop_map(|(block, number, byte)| Record { block, number, byte })
}

fn name(text: &str) -> Vec<u8> {
    let mut name = vec![u8::try_from(text.len()).unwrap()];
    name.extend(text.as_bytes());
    name
}

fn head(capabilities: &[&str]) -> Vec<u8> {
    let mut out = HEADER.to_be_bytes().to_vec();
    out.push(CONFIGURATION);
    out.extend(7_u32.to_be_bytes());
    out.extend(b"microvm");
    if !capabilities.is_empty() {
        out.push(SUBSECTION);
        out.extend(name("configuration/capabilities"));
        out.extend(1_u32.to_be_bytes());
        out.extend(u32::try_from(capabilities.len()).unwrap().to_be_bytes());
        out.extend(capabilities.iter().flat_map(|text| name(text)));
    }
    out
}

fn section(kind: u8, has_footer: bool, content: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(2_u32.to_be_bytes());
    out.extend(content);
    out.extend(EOS.to_be_bytes());
    if has_footer {
        out.push(FOOTER);
        out.extend(2_u32.to_be_bytes());
    }
    out
}

fn setup() -> Vec<u8> {
    let mut out = name("ram");
    out.extend([0, 0, 0, 0, 0, 0, 0, 4]);
    let blocks = [("ram", 96_u64 << 20), ("microvm.bios", 128 << 10), ("r", 4096)];
    let total: u64 = blocks.iter().map(|(_, length)| length).sum();
    out.extend((total | MEM_SIZE).to_be_bytes());
    for (block, length) in blocks {
        out.extend(name(block));
        out.extend(length.to_be_bytes());
        out.extend(0xFFFF_0000_u64.to_be_bytes());
    }
    out
}

/// Each block is named once, and then again when another one came in between.
fn pages(records: &[Record], last: &mut Option<&'static str>) -> Vec<u8> {
    let mut out = Vec::new();
    for Record { block, number, byte } in records {
        let follows = *last == Some(*block);
        let kind = if byte.is_some() { PAGE } else { ZERO } | if follows { CONTINUE } else { 0 };
        out.extend((number << 12 | kind).to_be_bytes());
        if !follows {
            out.extend(name(block));
        }
        out.extend(byte.map_or(vec![0], |byte| vec![byte; 4096]));
        *last = Some(block);
    }
    out
}

/// A whole stream with the pages of each section.
fn stream(parts: &[Vec<Record>], has_footer: bool, devices: &[u8]) -> Vec<u8> {
    let mut out = head(&["x-ignore-shared"]);
    out.extend([COMMAND, 0, 3, 0, 2, 9, 9]);
    out.extend(section(START, has_footer, &setup()));
    let mut last = None;
    for (number, part) in parts.iter().enumerate() {
        let kind = if number + 1 == parts.len() { END } else { PART };
        out.extend(section(kind, has_footer, &pages(part, &mut last)));
    }
    out.push(FULL);
    out.extend(devices);
    out
}

fn stripped(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    strip(input, &mut out, "ram").map(|()| out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_left_is_the_stream_of_a_guest_without_that_memory(
        parts in prop::collection::vec(prop::collection::vec(record(), 0..20), 1..4),
        has_footer in any::<bool>(),
        devices in prop::collection::vec(any::<u8>(), 0..500),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = stream(&parts, has_footer, &devices);
        let others = |part: &Vec<Record>| part.iter().filter(|record| record.block != "ram").cloned().collect();
        let without: Vec<Vec<Record>> = parts.iter().map(others).collect();
        // A block is named again after pages that were left out; QEMU does not mind.
        let again = stripped(&whole).unwrap();
        prop_assert_eq!(names(&again), without.concat().len());
        prop_assert_eq!(stripped(&again).unwrap(), again.clone());
        prop_assert!(again.len() <= whole.len() && again.ends_with(&devices));
        // However short, it ends in an error or is no longer than it came.
        let short = &whole[..cut.index(whole.len())];
        prop_assert!(stripped(short).map_or(true, |out| out.len() <= short.len()));
    }

    #[test]
    fn noise_is_an_error_or_passes(mut noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut input = head(&[]);
        let _ = stripped(&noise);
        input.append(&mut noise);
        prop_assert!(stripped(&input).map_or(true, |out| out.len() <= input.len()));
    }
}

/// Number of page records in a stream, by the loader's rules: none may continue what was never named.
fn names(stream: &[u8]) -> usize {
    let mut count = 0;
    let mut counting = Counting { block: None, count: &mut count };
    counting.read(stream);
    count
}

struct Counting<'a> {
    block: Option<Vec<u8>>,
    count: &'a mut usize,
}

impl Counting<'_> {
    fn read(&mut self, stream: &[u8]) {
        let start = head(&["x-ignore-shared"]).len() + 7 + 5 + setup().len();
        let mut at = start;
        loop {
            let number = u64::from_be_bytes(stream[at..at + 8].try_into().unwrap());
            at += 8;
            match number & KIND {
                EOS => {
                    at += if stream[at] == FOOTER { 5 } else { 0 };
                    match stream[at] {
                        PART | END => at += 5,
                        _ => return,
                    }
                }
                kind => {
                    if kind & CONTINUE == 0 {
                        let length = usize::from(stream[at]);
                        self.block = Some(stream[at + 1..=at + length].to_vec());
                        at += 1 + length;
                    }
                    assert!(self.block.as_ref().is_some_and(|block| block != b"ram"));
                    at += if kind & PAGE == PAGE { 4096 } else { 1 };
                    *self.count += 1;
                }
            }
        }
    }
}

#[test]
fn nothing_is_taken_out_of_a_stream_without_that_memory() {
    let record = |number| Record { block: "microvm.bios", number, byte: Some(7) };
    let stream = stream(&[vec![record(1), record(2)], vec![record(3)]], true, b"devices");
    assert_eq!(stripped(&stream).unwrap(), stream);
}

#[test]
fn what_is_not_known_is_refused() {
    let good = head(&["x-ignore-shared"]);
    let after = |more: &[u8]| stripped(&[&good[..], more].concat());
    assert!(after(&[EOF]).is_ok() && stripped(b"QEVM").is_err() && stripped(&[9; 100]).is_err());
    let other = section(START, false, &name("dirty-bitmap"));
    let compressed = section(START, false, &[setup(), 0x100_u64.to_be_bytes().to_vec()].concat());
    let empty_block =
        [name("ram"), vec![0; 8], (4096 | MEM_SIZE).to_be_bytes().to_vec(), name("x"), vec![0; 16]].concat();
    for bad in [&[PART, 0, 0, 0, 2][..], &[0x33], &other, &compressed, &section(START, false, &empty_block)] {
        let error = after(bad).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

#[test]
fn a_stream_that_does_not_end_is_given_up() {
    let input = head(&[]).into_iter().chain([FULL]).collect::<Vec<u8>>();
    let endless = io::BufReader::new(input.chain(io::repeat(1)));
    assert!(strip(endless, io::sink(), "ram").is_err());
}
