//! Small handles for the things in one policy.

/// What [`Ix`](WorkloadIx) types share: a position in one of the policy's tables.
macro_rules! index {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// Valid for the one [`Policy`](crate::Policy) that gave it out; look names up again after a reload.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(u32);

        impl $type {
            /// The handle of a position; `None` beyond 2³² entries, which the graph's size limit keeps out of reach.
            pub(crate) fn at(position: usize) -> Option<Self> {
                u32::try_from(position).ok().map(Self)
            }

            /// The handles of the first `count` positions.
            #[allow(dead_code, reason = "edges are only ever looked up")]
            pub(crate) fn first(count: usize) -> impl ExactSizeIterator<Item = Self> {
                (0..u32::try_from(count).unwrap_or(u32::MAX)).map(Self)
            }

            /// The position in the policy's table, from 0.
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// A workload of one policy.
    WorkloadIx
);
index!(
    /// A service of one policy.
    ServiceIx
);
index!(
    /// An `allow` edge of one policy: a position in `graph().edges`.
    EdgeIx
);
