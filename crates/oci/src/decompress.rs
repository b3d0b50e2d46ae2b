//! Streams that are compressed, told by their first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::error::{Result, limit};
use crate::limits::{MAX_RATIO, MAX_WINDOW, RATIO_FROM};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;
/// Bytes that tell how a stream is compressed.
const MAGIC: usize = 6;
/// A block of a file system that is a hole in what is made.
static ZEROES: [u8; 4096] = [0; 4096];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

impl Compression {
    /// Returns how a stream that begins like this is compressed.
    #[must_use]
    pub fn detect(beginning: &[u8]) -> Self {
        match beginning {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one that decoders skip (RFC 8878, section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// Part of a file, read from its beginning on. Others may read the same file.
#[derive(Debug)]
pub struct Section {
    file: File,
    at: u64,
    end: u64,
}

impl Section {
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn new(file: &File, start: u64, length: u64) -> io::Result<Self> {
        Ok(Self {
            file: file.try_clone()?,
            at: start,
            end: start.saturating_add(length),
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Returns where it begins in the file.
    pub(crate) fn start(&self) -> u64 {
        self.at
    }

    /// Returns the bytes that were not read yet.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.at
    }

    /// Returns how its content is compressed.
    ///
    /// # Errors
    /// The file's.
    pub fn compression(&self) -> io::Result<Compression> {
        let mut bytes = [0; MAGIC];
        let mut have = 0;
        let wanted = usize::try_from(self.end - self.at).map_or(MAGIC, |left| left.min(MAGIC));
        while have < wanted {
            match self
                .file
                .read_at(&mut bytes[have..wanted], self.at + have as u64)?
            {
                0 => break,
                count => have += count,
            }
        }
        Ok(Compression::detect(&bytes[..have]))
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ends too early: it was truncated",
            ));
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// Unpacked content of a section.
pub struct Unpacked {
    decoder: Decoder,
    compressed: u64,
    /// Bytes without stretches of zeroes.
    unpacked: u64,
}

enum Decoder {
    None(Section),
    Gzip(Box<Members>),
    Zstd(Box<Frames>),
    Xz(XzDecoder<BufReader<Section>>),
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked")
            .field("compressed", &self.compressed)
            .field("unpacked", &self.unpacked)
            .finish_non_exhaustive()
    }
}

impl Unpacked {
    /// # Errors
    /// The file's.
    pub fn new(section: Section) -> io::Result<Self> {
        let compressed = section.end - section.at;
        let compression = section.compression()?;
        let buffered = |section| BufReader::with_capacity(BUFFER, section);
        let decoder = match compression {
            Compression::None => Decoder::None(section),
            Compression::Gzip => Decoder::Gzip(Box::new(Members::new(buffered(section)))),
            Compression::Zstd => Decoder::Zstd(Box::new(Frames::new(buffered(section)))),
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(MAX_WINDOW, liblzma::stream::CONCATENATED);
                let stream = stream.map_err(io::Error::other)?;
                Decoder::Xz(XzDecoder::new_stream(buffered(section), stream))
            }
        };
        Ok(Self {
            decoder,
            compressed,
            unpacked: 0,
        })
    }

    /// Refuses what unpacks to much more than it is. To be called now and then.
    ///
    /// # Errors
    /// When the ratio is too large.
    pub fn check_ratio(&self) -> Result<()> {
        let most = self.compressed.saturating_mul(MAX_RATIO).max(RATIO_FROM);
        if self.unpacked > most {
            return Err(limit(format!(
                "{} bytes of the image unpack to more than {MAX_RATIO} times as many",
                self.compressed
            )));
        }
        Ok(())
    }

    /// Skips bytes of a file that is not compressed, and returns how many there were before its
    /// end; `None` for others.
    pub(crate) fn skip_in_file(&mut self, bytes: u64) -> Option<u64> {
        let Decoder::None(section) = &mut self.decoder else {
            return None;
        };
        let skipped = bytes.min(section.len());
        section.at += skipped;
        Some(skipped)
    }

    /// Skips bytes.
    ///
    /// # Errors
    /// When it ends before.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = match self.skip_in_file(bytes) {
            Some(skipped) => skipped,
            None => io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?,
        };
        if skipped == bytes {
            return Ok(());
        }
        Err(too_short())
    }
}

fn too_short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "it ends too early: it was truncated",
    )
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::None(section) => section.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
            Decoder::Xz(decoder) => decoder.read(buffer),
        }?;
        let pieces = buffer[..count].chunks(ZEROES.len());
        let kept = pieces.filter(|piece| !is_zero(piece));
        self.unpacked += kept.map(|piece| piece.len() as u64).sum::<u64>();
        Ok(count)
    }
}

/// Returns true if all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks(ZEROES.len());
    pieces.all(|piece| *piece == ZEROES[..piece.len()])
}

/// Members of gzip one after the other: parallel compressors and eStargz make many. As with gzip
/// itself, zeroes may follow the last one, which fill blocks of a tape or a download.
struct Members(Option<GzDecoder<BufReader<Section>>>);

impl Members {
    fn new(source: BufReader<Section>) -> Self {
        Self(Some(GzDecoder::new(source)))
    }

    /// Returns the source behind zeroes, `None` at the end.
    fn skip_zeroes(mut source: BufReader<Section>) -> io::Result<Option<BufReader<Section>>> {
        let mut has_skipped = false;
        loop {
            let bytes = source.fill_buf()?;
            let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
            if bytes.is_empty() {
                return Ok(None);
            }
            if zeroes == 0 && !has_skipped {
                return Ok(Some(source));
            }
            if zeroes < bytes.len() {
                return Err(io::Error::other(
                    "bytes that are no gzip follow its end: it is damaged",
                ));
            }
            source.consume(zeroes);
            has_skipped = true;
        }
    }
}

impl Read for Members {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(decoder) = &mut self.0 {
            let count = decoder.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let source = self.0.take().map(GzDecoder::into_inner);
            let next = source.map(Self::skip_zeroes).transpose()?.flatten();
            self.0 = next.map(GzDecoder::new);
        }
        Ok(0)
    }
}

/// Frames of zstd one after the other: parallel compressors make many, and zstd:chunked ends with
/// one that is skipped.
struct Frames {
    source: BufReader<Section>,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl Frames {
    fn new(source: BufReader<Section>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self {
            source,
            decoder,
            is_in_frame: false,
        }
    }

    /// Begins the next frame; false at the end.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.is_in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                self.is_in_frame = false;
                continue;
            }
            let blocks = BlockDecodingStrategy::UptoBlocks(1);
            let decoded = self.decoder.decode_blocks(&mut self.source, blocks);
            decoded.map_err(io::Error::other)?;
        }
    }
}
