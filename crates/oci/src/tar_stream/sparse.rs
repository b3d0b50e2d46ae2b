//! Lists of the stretches that a sparse file has in an archive (GNU tar's manual, "Storing Sparse
//! Files"): the old form in header blocks, and the forms 0.0, 0.1 and 1.0 in extended headers.

use std::ops::Range;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::pax::{self, Pax};
use super::{Source, TarStream};
use crate::error::{Result, invalid, limit};
use crate::limits::MAX_EXTENTS;

/// Length of a file, and the stretches that have data.
type Map = (u64, Vec<Range<u64>>);

/// Longest number with its newline in a list of form 1.0.
const MAX_LINE: usize = 24;

pub(super) fn read_gnu<R: Source>(stream: &mut TarStream<R>, header: &Header) -> Result<Map> {
    let gnu = header
        .as_gnu()
        .ok_or_else(|| invalid("a sparse file of an unknown form"))?;
    let mut extents = Vec::new();
    add_all(&gnu.sparse, &mut extents)?;
    let mut is_extended = gnu.is_extended();
    while is_extended {
        let mut extended = GnuExtSparseHeader::new();
        extended
            .as_mut_bytes()
            .copy_from_slice(&stream.read_block()?);
        add_all(extended.sparse(), &mut extents)?;
        is_extended = extended.is_extended();
        check_count(extents.len())?;
    }
    Ok((gnu.real_size()?, extents))
}

fn add_all(places: &[GnuSparseHeader], extents: &mut Vec<Range<u64>>) -> Result<()> {
    for place in places.iter().filter(|place| !place.is_empty()) {
        extents.push(extent(place.offset()?, place.length()?)?);
    }
    Ok(())
}

/// Returns `None` if it is no sparse file.
pub(super) fn read_pax<R: Source>(stream: &mut TarStream<R>, pax: &Pax) -> Result<Option<Map>> {
    if pax.get("GNU.sparse.major") == Some(b"1") {
        let length = pax.number("GNU.sparse.realsize")?;
        let length = length.ok_or_else(|| invalid("a sparse file without a size"))?;
        return Ok(Some((length, read_list(stream)?)));
    }
    let Some(length) = pax.number("GNU.sparse.size")? else {
        return Ok(None);
    };
    let numbers = match pax.get("GNU.sparse.map") {
        Some(map) => {
            let numbers = map.split(|byte| *byte == b',').map(pax::number);
            numbers.collect::<Result<Vec<u64>>>()?
        }
        None => {
            let offsets = pax.numbers("GNU.sparse.offset")?;
            let lengths = pax.numbers("GNU.sparse.numbytes")?;
            if offsets.len() != lengths.len() {
                return Err(broken());
            }
            let pairs = offsets.into_iter().zip(lengths);
            pairs
                .flat_map(|(offset, length)| [offset, length])
                .collect()
        }
    };
    pairs(&numbers).map(|extents| Some((length, extents)))
}

/// Reads a list of form 1.0: numbers with newlines before the data, in whole blocks.
fn read_list<R: Source>(stream: &mut TarStream<R>) -> Result<Vec<Range<u64>>> {
    let mut bytes = Vec::new();
    let mut numbers = Vec::new();
    let mut count = None;
    while count.is_none_or(|count| numbers.len() < count) {
        if !bytes.contains(&b'\n') {
            if bytes.len() > MAX_LINE {
                return Err(broken());
            }
            bytes.extend_from_slice(&stream.read_data_block()?);
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let rest = lines.next_back().unwrap_or_default().to_vec();
        for line in lines {
            // Zeroes fill the last block.
            if count.is_some_and(|count| numbers.len() >= count) {
                break;
            }
            let number = pax::number(line)?;
            if count.is_some() {
                numbers.push(number);
            } else {
                let pairs = usize::try_from(number).unwrap_or(usize::MAX);
                check_count(pairs)?;
                count = Some(2 * pairs);
            }
        }
        bytes = rest;
    }
    pairs(&numbers)
}

fn pairs(numbers: &[u64]) -> Result<Vec<Range<u64>>> {
    check_count(numbers.len() / 2)?;
    let pairs = numbers.chunks(2);
    pairs
        .map(|pair| match pair {
            [offset, length] => extent(*offset, *length),
            _ => Err(broken()),
        })
        .collect()
}

fn extent(offset: u64, length: u64) -> Result<Range<u64>> {
    let end = offset.checked_add(length).ok_or_else(broken)?;
    Ok(offset..end)
}

fn check_count(count: usize) -> Result<()> {
    if count > MAX_EXTENTS {
        return Err(limit(format!(
            "a sparse file has more than {MAX_EXTENTS} stretches"
        )));
    }
    Ok(())
}

fn broken() -> crate::Error {
    invalid("the archive is broken: the list of a sparse file's stretches")
}
