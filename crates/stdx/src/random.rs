//! Extends the crate `rand`.

/// Returns `BYTES` bytes of the system's randomness as hexadecimal digits, two for each.
#[must_use]
pub fn hex<const BYTES: usize>() -> String
where
    rand::distr::StandardUniform: rand::distr::Distribution<[u8; BYTES]>,
{
    hex::encode(rand::random::<[u8; BYTES]>())
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_as_long_as_asked() {
        assert_eq!(super::hex::<8>().len(), 16);
        assert_ne!(super::hex::<32>(), super::hex::<32>());
    }
}
