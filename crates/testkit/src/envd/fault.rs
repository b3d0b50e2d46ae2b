//! The ways in which an answer can be wrong.

/// Way in which an answer is wrong. `script` has the bytes for each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The request is read, and nothing is sent.
    Silent,
    /// The connection ends without an answer.
    Unanswered,
    /// Half of a good answer, then no more is sent, and what comes is still read.
    HalfClosed,
    /// Fewer bytes than were announced, then the end of the connection.
    CutBody,
    /// A good answer, a byte at a time.
    SlowHead,
    /// A good head, then a byte at a time.
    SlowBody,
    EndlessHeaders,
    /// `103 Early Hints` again and again.
    EndlessInformational,
    /// A body of blanks without end.
    EndlessBody,
    /// Good messages without end.
    EndlessMessages,
    /// An error whose text has no end.
    EndlessError,
    /// Almost 2^63 bytes are announced.
    HugeLength,
    /// A message of almost 2^32 bytes is announced.
    HugeMessage,
    /// A small body that decodes into millions of elements.
    ManyElements,
    /// Bytes of another protocol.
    NotHttp,
    /// A good head, and a body that cannot be decoded.
    MalformedBody,
    /// Values that make no sense: negative sizes, unknown kinds, the end before the start.
    Lies,
    /// 500 without a word.
    EmptyError,
    /// 307 to another address.
    Redirect,
    /// 101 without a request to switch protocols, then bytes without end.
    SwitchingProtocols,
    /// 204, where a body is expected.
    NoContent,
    /// `text/html`.
    WrongContentType,
    /// A body that is said to be compressed.
    Compressed,
    /// The good answer two times.
    Twice,
    /// What a guest agent of an earlier version answers; the call fails, and nothing is wrong.
    Unimplemented,
}

impl Fault {
    /// Every one that is wrong.
    pub const ALL: [Self; 24] = [
        Self::Silent,
        Self::Unanswered,
        Self::HalfClosed,
        Self::CutBody,
        Self::SlowHead,
        Self::SlowBody,
        Self::EndlessHeaders,
        Self::EndlessInformational,
        Self::EndlessBody,
        Self::EndlessMessages,
        Self::EndlessError,
        Self::HugeLength,
        Self::HugeMessage,
        Self::ManyElements,
        Self::NotHttp,
        Self::MalformedBody,
        Self::Lies,
        Self::EmptyError,
        Self::Redirect,
        Self::SwitchingProtocols,
        Self::NoContent,
        Self::WrongContentType,
        Self::Compressed,
        Self::Twice,
    ];
}
