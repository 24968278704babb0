//! Sequence numbers.

/// A sequence number (RFC 9293 section 3.4). They go round at 2^32, so that one is before or behind another, within 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seq(pub(super) u32);

impl Seq {
    /// So many bytes further on; less than 2^31.
    pub(super) fn plus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(u32::try_from(bytes).unwrap_or(0)))
    }

    /// The one before.
    pub(super) fn before(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// How far behind the other one this is; negative when it is before that.
    pub(super) fn since(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// How far behind the other one this is; 0 when it is before that.
    pub(super) fn bytes_since(self, other: Self) -> usize {
        usize::try_from(self.since(other)).unwrap_or(0)
    }

    /// It lies behind the other one.
    pub(super) fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    /// The later one of two.
    pub(super) fn later(self, other: Self) -> Self {
        if other.is_after(self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round() {
        let (last, first) = (Seq(u32::MAX), Seq(2));
        assert_eq!((last.plus(3), first.before().before().before()), (first, last));
        assert_eq!((first.since(last), last.since(first)), (3, -3));
        assert_eq!((first.bytes_since(last), last.bytes_since(first)), (3, 0));
        assert!(first.is_after(last) && !last.is_after(first) && !last.is_after(last));
        assert_eq!((first.later(last), last.later(first)), (first, first));
    }
}
