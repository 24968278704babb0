//! Why something was denied, dropped or ended: one closed set, which is also the metric label and the wire code.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $label:literal, $text:literal;)*) => {
        /// Why a session or a packet was denied, dropped or ended.
        ///
        /// The set is closed: the label is a metric label and a field of session records, the code travels in verdicts.
        /// Codes are never given a new meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Reason {
            /// Every reason, in order of code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The label in metrics and session records.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// A sentence fragment for people, fitting after "denied: " or "dropped: ".
            #[must_use]
            pub fn describe(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The code on the wire.
            #[must_use]
            pub fn code(self) -> u8 {
                self as u8
            }

            /// The reason with a wire code, if this version knows it.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The application ended the session in the ordinary way.
    Closed = 1, "closed", "closed by both sides";
    /// The calling workload reset the session.
    CallerReset = 2, "caller_reset", "the caller reset the connection";
    /// The endpoint reset the session.
    EndpointReset = 3, "endpoint_reset", "the endpoint reset the connection";
    /// The host at the other end is gone.
    PeerLost = 4, "peer_lost", "the other host stopped answering";
    /// The policy no longer allows an open session.
    PolicyChanged = 5, "policy_changed", "the policy no longer allows it";
    /// The agent is stopping.
    Shutdown = 6, "shutdown", "the agent is stopping";
    /// The peer or the agent broke the protocol.
    Protocol = 7, "protocol", "the peer broke the session protocol";
    /// Nothing moved for longer than the idle limit.
    Idle = 8, "idle", "idle for too long";
    /// The calling workload's kernel no longer answers on an open session.
    CallerTimeout = 9, "caller_timeout", "the caller stopped answering";

    /// No edge of the graph allows it. Of another tenant's service that is exported: the caller's side does not consent.
    NoEdge = 20, "no_edge", "no `allow` edge in the graph permits it";
    /// The address or name is of no service.
    NoService = 21, "no_service", "no such service";
    /// The service has no such port.
    NoPort = 22, "no_port", "the service has no such port";
    /// An edge exists, but not for this port.
    PortNotAllowed = 23, "port_not_allowed", "the edge does not include this port";
    /// The caller is of no workload in the policy.
    UnknownCaller = 24, "unknown_caller", "the policy does not know the calling workload";
    /// The service belongs to another tenant and is not exported to the caller's: the service's side does not consent.
    NotExported = 25, "not_exported", "the service is not exported to the caller's tenant";
    /// The peer host may not speak for the workload it named.
    HostNotEntitled = 26, "host_not_entitled", "the calling host may not speak for that workload";
    /// A rule of the graph keeps the caller's tenant and the service's apart.
    KeptApart = 28, "kept_apart", "a `never` rule of the graph keeps the two tenants apart";
    /// The host that was asked does not serve the service.
    NotServedHere = 27, "not_served_here", "this host does not run that service";

    /// More new sessions per second than the edge allows.
    OpenRate = 40, "open_rate", "more new sessions per second than the limit";
    /// More concurrent sessions than the edge allows.
    Sessions = 41, "sessions", "more concurrent sessions than the limit";
    /// A table or queue of the agent is full.
    AgentFull = 42, "agent_full", "the agent's own limit is reached";

    /// No host serves the service.
    NoEndpoint = 60, "no_endpoint", "no host serves the service";
    /// Every endpoint's host is out of reach.
    HostUnreachable = 61, "host_unreachable", "no host that serves it can be reached";
    /// The endpoint refused the connection.
    EndpointRefused = 62, "endpoint_refused", "the endpoint refused the connection";
    /// The endpoint did not answer in time.
    EndpointTimeout = 63, "endpoint_timeout", "the endpoint did not answer in time";
    /// The endpoint's network reported it out of reach.
    EndpointUnreachable = 64, "endpoint_unreachable", "the endpoint cannot be reached";
    /// The listener does not belong to the workload that should serve.
    WrongListener = 65, "wrong_listener", "another program listens on the service's port";
    /// The interface of the serving workload is not there.
    NoInterface = 66, "no_interface", "the serving workload has no interface on its host";
    /// The endpoint fails its health check.
    EndpointUnhealthy = 68, "endpoint_unhealthy", "the endpoint fails its health check";
    /// The endpoint, or its host, takes no new sessions.
    Draining = 69, "draining", "the endpoint is being drained";
    /// The caller gave up before a verdict.
    CallerGone = 67, "caller_gone", "the caller gave up waiting";

    /// The packet is not a whole IP packet.
    Malformed = 80, "malformed", "not a well-formed packet";
    /// The source is not the interface's own address.
    SpoofedSource = 81, "spoofed_source", "the source address is not the workload's";
    /// An IP fragment.
    Fragment = 82, "fragment", "IP fragments are not accepted";
    /// An IPv6 extension header that hides ports.
    ExtensionHeader = 83, "extension_header", "IPv6 extension headers are not accepted";
    /// Neither TCP, UDP nor ICMP.
    UnknownProtocol = 84, "unknown_protocol", "neither TCP, UDP nor ICMP";
    /// A multicast or broadcast destination.
    Multicast = 85, "multicast", "multicast is not carried";
    /// A loopback destination on an interface.
    Loopback = 86, "loopback", "loopback addresses are not carried";
    /// The destination is outside the fabric's ranges.
    OutsideFabric = 87, "outside_fabric", "the destination is not in the fabric";
    /// A TCP segment of no session.
    NoSession = 88, "no_session", "a segment of no open session";
    /// An ICMP message that is not answered.
    IcmpIgnored = 89, "icmp_ignored", "an ICMP message that is not answered";
    /// The interface did not take the packet.
    InterfaceFull = 90, "interface_full", "the interface did not take the packet";
    /// A malformed DNS query.
    MalformedQuery = 92, "malformed_query", "a malformed DNS query";
    /// More DNS queries in flight than one workload may have.
    QueryFlood = 93, "query_flood", "more DNS queries at once than one workload may have";
    /// A datagram beyond a rate limit.
    RateLimited = 94, "rate_limited", "more bytes per second than the limit";
    /// A datagram for which the path to the other host had no room.
    Congested = 95, "congested", "the path to the other host is full";
    /// More echo requests than one workload may send.
    EchoFlood = 96, "echo_flood", "more echo requests than one workload may send";
    /// An echo request that no endpoint's host answered.
    EchoUnanswered = 97, "echo_unanswered", "no healthy endpoint to answer the echo request";
    /// A datagram from another host for a session that is not open.
    LateDatagram = 98, "late_datagram", "a datagram of no open session";
}

impl Reason {
    /// The fabric said no: by policy, by a limit, or because who answers is not who should. Everything else is a failure of
    /// what was allowed, or an ordinary end.
    #[must_use]
    pub fn is_denial(self) -> bool {
        matches!(self.code(), 20..=59) || matches!(self, Self::WrongListener)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(label: &str) -> Result<Self, UnknownReason> {
        let found = Self::ALL.iter().find(|reason| reason.as_str() == label);
        found.copied().ok_or_else(|| UnknownReason {
            hint: crate::suggest::nearest(label, Self::ALL.iter().map(|reason| reason.as_str()))
                .map_or_else(known, |near| format!("did you mean `{near}`?")),
            label: label.into(),
        })
    }
}

fn known() -> String {
    let all: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    format!("there are: {}", all.join(", "))
}

/// A text that is no reason's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no reason `{label}`; {hint}")]
pub struct UnknownReason {
    label: String,
    hint: String,
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_labels_are_distinct_and_round_trip() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
        let error = "no_egde".parse::<Reason>().unwrap_err().to_string();
        assert_eq!(error, "there is no reason `no_egde`; did you mean `no_edge`?");
        let error = "nonsense".parse::<Reason>().unwrap_err().to_string();
        assert!(error.contains("there are: ") && error.contains(", no_edge, no_service, "), "{error}");
    }
}
