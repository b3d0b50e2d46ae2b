//! Position in a trace, as the header field `traceparent` has it.

use std::fmt;

/// Flag of a trace that its caller records.
pub(crate) const SAMPLED: u8 = 1;

/// Position in a trace: `00-TRACE-SPAN-FLAGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    pub(crate) flags: u8,
}

impl TraceParent {
    /// Returns a new trace that is not to be recorded.
    pub(super) fn random() -> Self {
        Self {
            trace_id: rand::random(),
            span_id: rand::random(),
            flags: 0,
        }
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Returns the same position, sampled or not.
    pub(super) fn with_sampled(self, is_sampled: bool) -> Self {
        let flags = match is_sampled {
            true => self.flags | SAMPLED,
            false => self.flags & !SAMPLED,
        };
        Self { flags, ..self }
    }

    /// Parses the header field; `None` if it is not valid.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut next = || fields.next().filter(|field| is_lower_hex(field));
        let version = next()?;
        let trace_id = next()?;
        let span_id = next()?;
        let flags = next()?;
        // Later versions may have more fields, this one has not.
        let is_known = version != "00" || fields.next().is_none();
        if version.len() != 2 || version == "ff" || flags.len() != 2 || !is_known {
            return None;
        }
        let mut parsed = Self {
            trace_id: [0; 16],
            span_id: [0; 8],
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        hex::decode_to_slice(trace_id, &mut parsed.trace_id).ok()?;
        hex::decode_to_slice(span_id, &mut parsed.span_id).ok()?;
        let is_valid = parsed.trace_id != [0; 16] && parsed.span_id != [0; 8];
        is_valid.then_some(parsed)
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = hex::encode(self.trace_id);
        let span_id = hex::encode(self.span_id);
        write!(f, "00-{trace_id}-{span_id}-{:02x}", self.flags)
    }
}
