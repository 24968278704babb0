//! Sessions: from the first packet to the one record at the end.
//!
//! 1. [`egress`]: a SYN from an interface is decided, held, and [`dial`]led.
//! 2. [`ingress`]: a stream from another host is decided again, and its endpoint reached.
//! 3. [`udp`]: the same for datagrams, which pass without waiting.
//! 4. [`pump`]: bytes go both ways between two [`sides`], under the [`limits`] of the edge.
//! 5. [`live`]: while it is open, a session is in a table from which a new policy may cut it; when it ends, on
//!    whichever path, its guard writes the one record.
//! 6. [`endpoints`], by [`health`] and by [`report`]s of other hosts, are known to take sessions or not, by [`hearsay`] where a
//!    host is not connected, whose loads are [`claims`], and [`balance`] chooses among them.
//! 7. [`voice`]: what a workload says of itself, and is let say.
//! 8. [`policies`]: a session that was allowed by a newer signed policy waits for that one.
//! 9. [`captures`]: whose packets are copied for operators, while they are.
//! 10. [`common`]: what all data threads of a host share; everything else here is of one thread.

pub mod balance;
pub mod captures;
pub mod carry;
pub mod claims;
pub mod common;
pub mod context;
pub mod dial;
pub mod echo;
pub mod egress;
pub mod endpoints;
pub mod health;
pub mod hearsay;
pub mod ingress;
pub mod lanes;
pub mod limits;
pub mod live;
pub mod observe;
pub mod order;
pub mod policies;
pub mod pump;
pub mod reach;
pub mod report;
pub mod serving;
pub mod sides;
pub mod udp;
pub mod voice;
