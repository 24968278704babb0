//! What passes between two agents of one host while the first hands over to the second.
//!
//! - [`Entrance`] is where the second comes to the first;
//! - [`Channel`] is a socket that keeps messages apart and carries descriptors;
//! - [`Frame`] is what data threads tell each other: packets and datagrams of the other's flows, and which those are.
//!
//! What the agents agree on before that is in `fabric/upgrade`.

mod channel;
mod entrance;
mod frame;

pub use channel::{Channel, MESSAGE_MAX, pair};
pub use entrance::{ENTRANCE, Entrance, reach};
pub use frame::{Flow, Frame};
