//! Extracts the ELF kernel from a bzImage.
//!
//! Distributions ship the kernel as a bzImage: a setup header, then the payload, which is the
//! compressed `vmlinux` (Linux `Documentation/arch/x86/boot.rst`). Firecracker boots only the ELF,
//! and QEMU boots it without unpacking it in the guest each time. An image that is an ELF already
//! is used as it is.

use std::io::Read;

/// Offsets in the setup header (boot.rst, "Details of header fields").
const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202 - 4;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Bound on the memory that a damaged file can make us allocate: more than any kernel takes.
const MAX_KERNEL_BYTES: u64 = 512 << 20;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("it is neither an ELF kernel (vmlinux) nor a bzImage")]
    NotAKernel,
    #[error("it is a bzImage of which a part is missing")]
    Truncated,
    #[error(
        "its payload is compressed in a way that is not known (it begins with {0:02x?}); use a vmlinux instead"
    )]
    UnknownCompression(Vec<u8>),
    #[error("its {format} payload is damaged: {problem}")]
    Damaged {
        format: &'static str,
        problem: String,
    },
}

/// Returns the ELF kernel in `image`, which is a bzImage or an ELF kernel.
///
/// # Errors
/// The fault of the image.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>, Error> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    let elf = decompress(payload(image)?)?;
    if elf.starts_with(b"\x7fELF") {
        Ok(elf)
    } else {
        Err(Error::NotAKernel)
    }
}

/// Returns the release of the kernel in `image`, such as `6.1.0-56-cloud-amd64`, if it has one.
/// Unpacks nothing: a bzImage has it in its header, an ELF in its banner, `Linux version 6.1.0-…
/// (…`.
#[must_use]
pub fn version(image: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let start = if image.starts_with(b"\x7fELF") {
        memchr::memmem::find(image, BANNER)? + BANNER.len()
    } else {
        let pointer = image.get(KERNEL_VERSION..KERNEL_VERSION + 2)?;
        // Less the boot sector (boot.rst, "kernel_version"); zero means none.
        usize::from(u16::from_le_bytes(pointer.try_into().ok()?))
            .checked_add(512)
            .filter(|start| *start > 512)?
    };
    let text = &image[..image.len().min(start + 128)];
    let end = text.get(start..)?.iter().position(|byte| *byte == b' ')?;
    let version = std::str::from_utf8(&text[start..start + end]).ok()?;
    let safe = version
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".+-_~".contains(&byte));
    // It becomes part of a path.
    (safe && !version.is_empty() && !version.starts_with('.')).then(|| version.to_owned())
}

fn payload(image: &[u8]) -> Result<&[u8], Error> {
    if image.get(MAGIC + 4..MAGIC + 8) != Some(b"HdrS") {
        return Err(Error::NotAKernel);
    }
    // Zero means four, for very old boot loaders.
    let sectors = match image.get(SETUP_SECTS).copied().ok_or(Error::Truncated)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + read_u32(image, PAYLOAD_OFFSET)?;
    let length = read_u32(image, PAYLOAD_LENGTH)?;
    image.get(start..start + length).ok_or(Error::Truncated)
}

fn read_u32(image: &[u8], at: usize) -> Result<usize, Error> {
    let bytes = image
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Error::Truncated)?;
    usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| Error::Truncated)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, Error> {
    match payload {
        [0x1f, 0x8b, ..] => read_all("gzip", flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            read_all("xz", liblzma::read::XzDecoder::new(payload))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| {
                Error::Damaged {
                    format: "zstd",
                    problem: error.to_string(),
                }
            })?;
            read_all("zstd", decoder)
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => legacy_lz4(rest),
        [b'\x7f', b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        _ => Err(Error::UnknownCompression(
            payload.iter().take(4).copied().collect(),
        )),
    }
}

fn read_all(format: &'static str, decoder: impl Read) -> Result<Vec<u8>, Error> {
    let mut elf = Vec::new();
    let result = decoder.take(MAX_KERNEL_BYTES).read_to_end(&mut elf);
    // After the compressed stream comes the length of the kernel, which a decoder may take for a
    // damaged second one.
    match result {
        Err(error) if elf.is_empty() => Err(Error::Damaged {
            format,
            problem: error.to_string(),
        }),
        _ => Ok(elf),
    }
}

/// Decodes LZ4 legacy frames (lz4 `doc/lz4_Frame_format.md`): blocks of 8 MiB, each with its length
/// before it. The last block is followed by the length of the kernel, four bytes that are no block.
fn legacy_lz4(mut blocks: &[u8]) -> Result<Vec<u8>, Error> {
    const BLOCK_BYTES: usize = 8 << 20;
    let damaged = |problem: String| Error::Damaged {
        format: "LZ4",
        problem,
    };
    let mut elf = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((block, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let part = lz4_flex::block::decompress(block, BLOCK_BYTES)
            .map_err(|error| damaged(error.to_string()))?;
        elf.extend_from_slice(&part);
        blocks = rest;
    }
    if elf.is_empty() {
        Err(damaged("it has no block".to_owned()))
    } else {
        Ok(elf)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * 512];
        image[SETUP_SECTS] = 1;
        image[MAGIC + 4..MAGIC + 8].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4]
            .copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(&[0xcc; 16]);
        image.extend_from_slice(payload);
        image
    }

    fn elf() -> Vec<u8> {
        [b"\x7fELF".as_slice(), &[7; 100_000]].concat()
    }

    #[test]
    fn every_kernel_compression_is_read() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&elf()).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&elf()).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(
            elf().as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let block = lz4_flex::block::compress(&elf());
        let length = u32::try_from(block.len()).unwrap().to_le_bytes();
        let lz4 = [[0x02, 0x21, 0x4c, 0x18].as_slice(), &length, &block].concat();
        for mut payload in [
            gzip.finish().unwrap(),
            xz.finish().unwrap(),
            zstd,
            lz4,
            elf(),
        ] {
            if !payload.starts_with(b"\x7fELF") {
                payload.extend_from_slice(&100_004_u32.to_le_bytes());
            }
            assert!(
                vmlinux(&bzimage(&payload)).unwrap() == elf(),
                "{:02x?}",
                &payload[..4]
            );
        }
        assert!(vmlinux(&elf()).unwrap() == elf());
    }

    #[test]
    fn kernel_release_is_safe_in_paths() {
        let banner =
            |release: &str| [b"\x7fELF....Linux version ", release.as_bytes(), &[0; 200]].concat();
        assert_eq!(
            version(&banner("6.1.0-99-cloud-amd64 (b")).as_deref(),
            Some("6.1.0-99-cloud-amd64")
        );
        assert_eq!(version(&banner("../../etc ")), None);
        assert_eq!(version(b"\x7fELF nothing"), None);
        let mut image = bzimage(&elf());
        assert_eq!(version(&image), None);
        image[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x300 + 12].copy_from_slice(b"6.1.0-9 (x) ");
        assert_eq!(version(&image).as_deref(), Some("6.1.0-9"));
        image[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&u16::MAX.to_le_bytes());
        image.truncate(4096);
        assert_eq!(version(&image), None);
    }

    #[test]
    fn damaged_images_are_refused() {
        assert_eq!(vmlinux(b""), Err(Error::NotAKernel));
        assert_eq!(vmlinux(&[0; 4096]), Err(Error::NotAKernel));
        let whole = bzimage(&elf());
        assert_eq!(vmlinux(&whole[..whole.len() - 1]), Err(Error::Truncated));
        assert!(matches!(
            vmlinux(&bzimage(b"nonsense")),
            Err(Error::UnknownCompression(_))
        ));
        assert!(matches!(
            vmlinux(&bzimage(&[0x1f, 0x8b, 1, 2, 3])),
            Err(Error::Damaged { .. })
        ));
    }
}
