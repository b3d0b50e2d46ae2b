//! Regions of the guest's memory in the VMM's process, as the VMM reports them. Pure.

use std::ops::Range;

use linux::pages::PAGE;
use serde::Deserialize;

/// Maximum number of regions: a guest has one below the gap for devices, and one above.
const MOST: usize = 16;

/// Region of memory. Other members of the message are for other page sizes and older servers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Region {
    base_host_virt_addr: u64,
    size: u64,
    /// Offset in the memory of the snapshot.
    offset: u64,
    page_size: u64,
}

impl Region {
    /// Returns the offset of an address in the memory, if the region contains it.
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        let distance = address.checked_sub(self.base_host_virt_addr)?;
        (distance < self.size).then(|| self.offset + distance)
    }

    /// Returns the part of a range of addresses that is in the region, as offsets.
    pub(super) fn offsets(&self, addresses: &Range<u64>) -> Option<Range<u64>> {
        let start = addresses.start.max(self.base_host_virt_addr);
        let end = addresses.end.min(self.base_host_virt_addr + self.size);
        (start < end).then(|| {
            let start = self.offset + (start - self.base_host_virt_addr);
            start..start + (end - addresses.start.max(self.base_host_virt_addr))
        })
    }

    /// Returns the address of an offset, and how many bytes follow it in the region.
    pub(super) fn address(&self, offset: u64) -> Option<(u64, u64)> {
        let distance = offset.checked_sub(self.offset)?;
        (distance < self.size).then(|| (self.base_host_virt_addr + distance, self.size - distance))
    }
}

/// Error in the regions that a VMM reports.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegionsError {
    #[error("it is no description of a memory")]
    Json(#[from] serde_json::Error),
    #[error("there are {0} regions, which is more than {MOST}")]
    TooMany(usize),
    #[error("a region makes no sense: {0:?}")]
    Invalid(Region),
    #[error("there are {actual} bytes of memory instead of {wanted}")]
    Length { actual: u64, wanted: u64 },
}

/// Parses the regions, which must cover a memory of that many bytes without gaps, in the order of
/// their offsets.
pub(super) fn parse_regions(message: &[u8], bytes: u64) -> Result<Vec<Region>, RegionsError> {
    let mut regions: Vec<Region> = serde_json::from_slice(message)?;
    if regions.len() > MOST {
        return Err(RegionsError::TooMany(regions.len()));
    }
    regions.sort_unstable_by_key(|region| region.offset);
    let mut end = 0_u64;
    for region in &regions {
        let fits = region
            .base_host_virt_addr
            .checked_add(region.size)
            .is_some_and(|end| end < 1 << 56);
        let whole = [region.base_host_virt_addr, region.size, region.offset]
            .iter()
            .all(|number| number % PAGE == 0);
        if region.page_size != PAGE || region.offset != end || !fits || !whole || region.size == 0 {
            return Err(RegionsError::Invalid(region.clone()));
        }
        end += region.size;
    }
    if end == bytes {
        Ok(regions)
    } else {
        Err(RegionsError::Length {
            actual: end,
            wanted: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(regions: &[(u64, u64, u64, u64)]) -> Vec<u8> {
        let of = |&(base, size, offset, page): &(u64, u64, u64, u64)| {
            serde_json::json!({"base_host_virt_addr": base, "size": size, "offset": offset, "page_size": page,
                "page_size_kib": page})
        };
        serde_json::to_vec(&regions.iter().map(of).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn addresses_and_offsets_convert_back() {
        let regions = parse_regions(
            &message(&[
                (0x7000_0000, 0x2000, 0x3000, 4096),
                (0x1000, 0x3000, 0, 4096),
            ]),
            0x5000,
        )
        .unwrap();
        assert_eq!(regions[0].offset(0x3fff), Some(0x2fff));
        assert_eq!(regions[1].offset(0x7000_1000), Some(0x4000));
        assert!(regions.iter().all(|region| {
            region
                .offset(0xfff)
                .or(region.offset(0x7000_2000))
                .is_none()
        }));
        assert_eq!(regions[1].address(0x4000), Some((0x7000_1000, 0x1000)));
        assert_eq!(regions[0].address(0x3000), None);
        assert_eq!(
            regions[1].offsets(&(0x6fff_f000..0x7000_1000)),
            Some(0x3000..0x4000)
        );
        assert_eq!(
            regions[1].offsets(&(0x7000_1000..0x7fff_0000)),
            Some(0x4000..0x5000)
        );
        assert_eq!(regions[0].offsets(&(0x7000_1000..0x7fff_0000)), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            vec![],
            vec![(0x1000, 0x4000, 0, 4096)],
            vec![(0x1000, 0x5000, 0, 2 << 20)],
            vec![(0x1000, 0x5000, 0x1000, 4096)],
            vec![(0x1001, 0x5000, 0, 4096)],
            vec![(u64::MAX - 0xfff, 0x5000, 0, 4096)],
            vec![(0x1000, 0x3000, 0, 4096), (0x9000, 0x3000, 0x2000, 4096)],
            vec![(0x1000, u64::MAX - 0xfff, 0, 4096)],
        ] {
            assert!(parse_regions(&message(&bad), 0x5000).is_err(), "{bad:x?}");
        }
        assert!(parse_regions(b"[", 0x5000).is_err());
        let many: Vec<_> = (0..17)
            .map(|number| (number << 20, 0x1000, number << 12, 4096))
            .collect();
        assert!(parse_regions(&message(&many), 17 << 12).is_err());
    }
}
