//! QUIC application error codes (RFC 9000 section 20.2): what a stream is reset or a connection closed with.
//!
//! The named codes stand for reasons that both hosts word differently or that end a connection; every other [`Reason`]
//! travels as [`OTHER`] plus its own wire code. Codes are never given a new meaning.

use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use ripstop_config::Reason;

/// The application at the sender's side reset the session.
pub const RESET: u32 = 1;
/// The policy no longer allows the session, or no longer names the host.
pub const POLICY: u32 = 2;
/// The sending agent is stopping.
pub const SHUTDOWN: u32 = 3;
/// The receiver broke the session protocol.
pub const PROTOCOL: u32 = 4;
/// The session was idle for too long.
pub const IDLE: u32 = 5;
/// The caller gave up before the verdict.
pub const CANCELLED: u32 = 6;
/// The serving agent let go of the session without a verdict.
pub const ABANDONED: u32 = 7;
/// Closes a connection that another one between the same hosts has replaced.
pub const REPLACED: u32 = 8;
/// Closes a connection whose peer is not a host of this fabric, or not the dialled one.
pub const IDENTITY: u32 = 9;
/// Closes a connection, or resets a session, that is over a limit.
pub const LIMIT: u32 = 10;
/// Closes a connection of a host, or with a certificate, that is revoked.
pub const REVOKED: u32 = 11;
/// Added to the wire code of a reason that has no code of its own here.
pub const OTHER: u32 = 0x100;

/// Marks a code that says how much of the other direction to read first; see [`behind`].
const BEHIND: u64 = 1 << 61;
/// Below the mark: the reason's wire code, and the bytes in so many bits.
const BYTES_BITS: u32 = 48;

/// An end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The calling workload and its agent.
    Caller,
    /// The endpoint and its agent.
    Endpoint,
}

/// The code with which to reset a session's streams for a reason.
#[must_use]
pub fn from_reason(reason: Reason) -> VarInt {
    VarInt::from_u32(match reason {
        Reason::CallerReset | Reason::EndpointReset => RESET,
        Reason::PolicyChanged => POLICY,
        Reason::Shutdown => SHUTDOWN,
        Reason::Protocol => PROTOCOL,
        Reason::Idle => IDLE,
        Reason::CallerGone => CANCELLED,
        Reason::AgentFull => LIMIT,
        Reason::Closed
        | Reason::PeerLost
        | Reason::CallerTimeout
        | Reason::NoEdge
        | Reason::NoService
        | Reason::NoPort
        | Reason::PortNotAllowed
        | Reason::UnknownCaller
        | Reason::NotExported
        | Reason::KeptApart
        | Reason::HostNotEntitled
        | Reason::NotServedHere
        | Reason::OpenRate
        | Reason::Sessions
        | Reason::NoEndpoint
        | Reason::HostUnreachable
        | Reason::EndpointRefused
        | Reason::EndpointTimeout
        | Reason::EndpointUnreachable
        | Reason::WrongListener
        | Reason::NoInterface
        | Reason::Malformed
        | Reason::SpoofedSource
        | Reason::Fragment
        | Reason::ExtensionHeader
        | Reason::UnknownProtocol
        | Reason::Multicast
        | Reason::Loopback
        | Reason::OutsideFabric
        | Reason::NoSession
        | Reason::IcmpIgnored
        | Reason::InterfaceFull
        | Reason::EndpointUnhealthy
        | Reason::Draining
        | Reason::MalformedQuery
        | Reason::QueryFlood
        | Reason::RateLimited
        | Reason::Congested
        | Reason::EchoFlood
        | Reason::EchoUnanswered
        | Reason::LateDatagram => OTHER + u32::from(reason.code()),
    })
}

/// The code with which to stop one direction of a session whose application has reset it: what it sent before, so many bytes
/// of the other direction, arrives first, and only then is the session over. A reset of that other direction could not say
/// so, as QUIC throws away what a reset overtakes. `None` for more bytes than the code can hold.
#[must_use]
pub fn behind(reason: Reason, bytes: u64) -> Option<VarInt> {
    let bytes = (bytes >> BYTES_BITS == 0).then_some(bytes)?;
    VarInt::from_u64(BEHIND | u64::from(reason.code()) << BYTES_BITS | bytes).ok()
}

/// After how many bytes of the other direction a code takes effect, if it says so.
#[must_use]
pub fn bytes_before(code: VarInt) -> Option<u64> {
    let code = code.into_inner();
    (code & BEHIND != 0).then_some(code & ((1 << BYTES_BITS) - 1))
}

/// The reason that a received code stands for, where `sender` is the end that sent it. A code that this version does
/// not know is a reset.
#[must_use]
pub fn to_reason(code: VarInt, sender: End) -> Reason {
    let reset = match sender {
        End::Caller => Reason::CallerReset,
        End::Endpoint => Reason::EndpointReset,
    };
    if bytes_before(code).is_some() {
        let [_, reason, ..] = code.into_inner().to_be_bytes();
        return Reason::from_code(reason).unwrap_or(reset);
    }
    let Ok(code) = u32::try_from(code.into_inner()) else { return reset };
    match code {
        POLICY => Reason::PolicyChanged,
        SHUTDOWN => Reason::Shutdown,
        PROTOCOL | IDENTITY => Reason::Protocol,
        IDLE => Reason::Idle,
        CANCELLED => Reason::CallerGone,
        LIMIT => Reason::AgentFull,
        ABANDONED | REPLACED => Reason::PeerLost,
        RESET => reset,
        other => other
            .checked_sub(OTHER)
            .and_then(|code| u8::try_from(code).ok())
            .and_then(Reason::from_code)
            .unwrap_or(reset),
    }
}

/// The reason why reading from the other end failed, where `sender` is that end.
#[must_use]
pub fn of_read(error: &ReadError, sender: End) -> Reason {
    match error {
        ReadError::Reset(code) => to_reason(*code, sender),
        ReadError::ConnectionLost(why) => of_connection(why),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => Reason::Protocol,
    }
}

/// The reason why writing to the other end failed, where `sender` is that end.
#[must_use]
pub fn of_write(error: &WriteError, sender: End) -> Reason {
    match error {
        WriteError::Stopped(code) => to_reason(*code, sender),
        WriteError::ConnectionLost(why) => of_connection(why),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => Reason::Protocol,
    }
}

/// The reason that the end of a connection is for the sessions on it.
#[must_use]
pub fn of_connection(error: &ConnectionError) -> Reason {
    match error {
        ConnectionError::ApplicationClosed(close) => match u32::try_from(close.error_code.into_inner()) {
            Ok(SHUTDOWN) => Reason::Shutdown,
            Ok(POLICY) => Reason::PolicyChanged,
            Ok(PROTOCOL | IDENTITY) => Reason::Protocol,
            Ok(_) | Err(_) => Reason::PeerLost,
        },
        ConnectionError::LocallyClosed => Reason::Shutdown,
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) => Reason::Protocol,
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::CidsExhausted => Reason::PeerLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in Reason::ALL.iter().copied() {
            let sender = if reason == Reason::CallerReset { End::Caller } else { End::Endpoint };
            assert_eq!(to_reason(from_reason(reason), sender), reason);
        }
    }

    #[test]
    fn unknown_codes_are_resets_of_the_end_that_sent_them() {
        for code in [0, 99, OTHER, OTHER + 19, OTHER + 256, u32::MAX] {
            assert_eq!(to_reason(code.into(), End::Caller), Reason::CallerReset, "{code}");
            assert_eq!(to_reason(code.into(), End::Endpoint), Reason::EndpointReset, "{code}");
        }
        assert_eq!(to_reason(VarInt::MAX, End::Endpoint), Reason::EndpointReset);
    }

    #[test]
    fn a_reset_says_behind_how_much_it_comes() {
        for bytes in [0, 1, (1 << BYTES_BITS) - 1] {
            let code = behind(Reason::CallerTimeout, bytes).unwrap();
            assert_eq!(bytes_before(code), Some(bytes));
            assert_eq!(to_reason(code, End::Caller), Reason::CallerTimeout);
        }
        assert_eq!(behind(Reason::CallerReset, 1 << BYTES_BITS), None);
        assert_eq!(bytes_before(from_reason(Reason::CallerReset)), None);
    }

    #[test]
    fn a_lost_connection_is_a_lost_peer() {
        assert_eq!(of_connection(&ConnectionError::TimedOut), Reason::PeerLost);
        assert_eq!(of_connection(&ConnectionError::Reset), Reason::PeerLost);
        assert_eq!(of_read(&ReadError::ConnectionLost(ConnectionError::LocallyClosed), End::Caller), Reason::Shutdown);
        assert_eq!(of_write(&WriteError::Stopped(RESET.into()), End::Endpoint), Reason::EndpointReset);
    }
}
