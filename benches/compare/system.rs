//! What is compared.

use std::fmt;

/// How a system carries traffic, as far as a comparison must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The kernels alone: neither encrypted nor authorised.
    Plain,
    /// A tunnel in userspace that does nothing but carry packets: neither encrypted nor authorised.
    Bare,
    /// What all others are compared with.
    Fabric,
    /// A tunnel between hosts that carries their packets.
    Vpn,
    /// A proxy on each host, mutual TLS between them.
    Sidecar,
}

/// A system that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum System {
    Direct,
    Fabric,
    #[value(name = "wireguard-go")]
    WireguardGo,
    Boringtun,
    Gotatun,
    #[value(name = "openvpn")]
    OpenVpn,
    Nebula,
    Quincy,
    Haproxy,
    /// This program's own: what a TUN interface costs before anything else does.
    #[value(name = "bare-tun")]
    BareTun,
    /// A resolver on loopback: it only answers names.
    Unbound,
}

impl System {
    /// Those between hosts, in the order of the columns.
    pub const ALL: [Self; 10] = [
        Self::Direct,
        Self::BareTun,
        Self::Fabric,
        Self::WireguardGo,
        Self::Boringtun,
        Self::Gotatun,
        Self::OpenVpn,
        Self::Nebula,
        Self::Quincy,
        Self::Haproxy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fabric => "fabric",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::OpenVpn => "openvpn",
            Self::Nebula => "nebula",
            Self::Quincy => "quincy",
            Self::Haproxy => "haproxy pair",
            Self::BareTun => "bare TUN",
            Self::Unbound => "unbound",
        }
    }

    pub fn class(self) -> Class {
        match self {
            Self::Direct | Self::Unbound => Class::Plain,
            Self::BareTun => Class::Bare,
            Self::Fabric => Class::Fabric,
            Self::WireguardGo | Self::Boringtun | Self::Gotatun | Self::OpenVpn | Self::Nebula | Self::Quincy => {
                Class::Vpn
            }
            Self::Haproxy => Class::Sidecar,
        }
    }

    /// Whether it ends each session at its hosts, so that an idle one costs it memory.
    pub fn terminates(self) -> bool {
        matches!(self.class(), Class::Fabric | Class::Sidecar)
    }

    /// Whether it carries datagrams.
    pub fn carries_datagrams(self) -> bool {
        self.class() != Class::Sidecar
    }

    /// The programs that it is made of, the one that tells its version first. The fabric's is the one under test,
    /// and the bare tunnel is this one.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Direct | Self::BareTun | Self::Fabric => &[],
            Self::WireguardGo => &["wireguard-go", "wg"],
            Self::Boringtun => &["boringtun-cli", "wg"],
            Self::Gotatun => &["gotatun", "wg"],
            Self::OpenVpn => &["openvpn"],
            Self::Nebula => &["nebula", "nebula-cert"],
            Self::Quincy => &["quincy-server", "quincy-client"],
            Self::Haproxy => &["haproxy"],
            Self::Unbound => &["unbound", "dnsperf"],
        }
    }

    /// Whether it is only measured where `--peer` names it, because no package provides it.
    pub fn by_path_only(self) -> bool {
        self == Self::Gotatun
    }

    /// The address of a host in its tunnel; `number` is 1 on alpha and 2 on beta.
    pub fn tunnel(self, number: usize) -> String {
        format!("10.77.{}.{number}", self as u8)
    }

    /// The tunnel's interface.
    pub fn link(self) -> String {
        format!("vpn{}", self as u8)
    }

    /// The port at which its processes find each other.
    pub fn port(self) -> u16 {
        9000 + self as u16
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
