//! The pieces of the hot paths with fixed inputs: `cargo bench -p ripstop-pieces` says how long each takes, and the
//! program `counts` how many instructions, which are the same on every machine and are kept on record.
//!
//! `cargo bench -p ripstop-pieces --bench threads` says what two data threads cost each other.
//!
//! A piece is set up once and then run round after round, each of which leaves things as it found them. What a round should
//! have done is asserted in it: a piece that is refused at the door would be fast.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "inputs are fixed: what fails is a mistake in them")]

mod bed;
mod decide;
mod dns;
mod flows;
mod header;
mod limits;
mod tcp;
mod threads;
mod wire;

pub use bed::Shared;
pub use threads::{AT_ONCE, AtOnce, computation, host};

/// One turn of a piece.
pub type Round = Box<dyn FnMut()>;

/// Something that is done for every packet, session or name.
#[derive(Clone, Copy)]
pub struct Piece {
    /// What it is, as `place/what`.
    pub name: &'static str,
    /// Makes ready for its rounds.
    pub set_up: fn() -> Round,
    /// Its instructions are on record. Not where setting it up takes long, or where others say as much.
    pub counted: bool,
}

const fn counted(name: &'static str, set_up: fn() -> Round) -> Piece {
    Piece { name, set_up, counted: true }
}

const fn timed(name: &'static str, set_up: fn() -> Round) -> Piece {
    Piece { name, set_up, counted: false }
}

/// Every piece.
pub const PIECES: &[Piece] = &[
    counted("decide/allowed", decide::allowed),
    counted("decide/denied", decide::denied),
    counted("header/encode", header::encode),
    counted("header/decode", header::decode),
    counted("verdict/encode", header::verdict),
    counted("dns/address", dns::address),
    counted("dns/hidden", dns::hidden),
    counted("dns/ports", dns::ports),
    counted("dns/interface", dns::interface),
    timed("flows/10", || flows::held(10)),
    counted("flows/1000", || flows::held(1_000)),
    timed("flows/100000", || flows::held(100_000)),
    counted("tcp/in-100", || tcp::inward(100)),
    counted("tcp/in-2x4000", || tcp::inward_twice(4_000)),
    timed("tcp/in-65000", || tcp::inward(65_000)),
    counted("tcp/out-100", || tcp::outward(100)),
    counted("tcp/out-65000", || tcp::outward(65_000)),
    counted("udp/out-1200", flows::datagram),
    counted("limits/none", limits::none),
    counted("limits/police", limits::police),
    counted("limits/shape", limits::shape),
    counted("limits/admit", limits::admit),
];
