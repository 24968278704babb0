//! Impairments of a host's link to the others: named, and changed in the middle of a test.

use super::place::Place;

/// The link between one host and the bridge.
pub struct Link {
    pub(super) host: Place,
    pub(super) wire: Place,
    pub(super) port: String,
}

impl Link {
    /// Loses so many of a thousand QUIC packets on the way in. Segmentation is moved into software first, so that packets
    /// are lost one by one and not in bursts of 40.
    pub fn lose_per_mille(&self, lost: u32) {
        self.host.sh("ip link set eth0 gso_max_segs 1");
        self.wire.sh(&format!("ip link set {} gso_max_segs 1", self.port));
        self.filter(&format!("meta l4proto udp numgen random mod 1000 < {lost} drop"));
    }

    /// Loses every QUIC packet, both ways: the other side hears nothing more.
    pub fn blackhole(&self) {
        self.filter("meta l4proto udp drop");
    }

    /// Limits the link to so many Mbit/s, both ways.
    pub fn rate_mbit(&self, rate: u32) {
        let shape =
            |device: &str| format!("tc qdisc replace dev {device} root tbf rate {rate}mbit burst 64k latency 50ms");
        self.host.sh(&shape("eth0"));
        self.wire.sh(&shape(&self.port));
    }

    /// Pulls the plug.
    pub fn unplug(&self) {
        self.wire.sh(&format!("ip link set {} down", self.port));
    }

    /// Puts the plug back.
    pub fn plug(&self) {
        self.wire.sh(&format!("ip link set {} up", self.port));
    }

    /// Takes every impairment but a pulled plug away.
    pub fn heal(&self) {
        self.host.sh("nft delete table inet lab 2>/dev/null || true; tc qdisc del dev eth0 root 2>/dev/null || true");
        self.wire.sh(&format!("tc qdisc del dev {} root 2>/dev/null || true", self.port));
    }

    fn filter(&self, rule: &str) {
        self.host.sh("nft delete table inet lab 2>/dev/null || true");
        self.host.sh(&format!(
            "nft -f - <<'END'\ntable inet lab {{\n\
             chain in {{ type filter hook input priority 0; iifname eth0 {rule}; }}\n\
             chain out {{ type filter hook output priority 0; oifname eth0 {rule}; }}\n}}\nEND"
        ));
    }
}
