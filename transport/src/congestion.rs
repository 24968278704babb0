//! Congestion control: CUBIC (RFC 9438) that never sends less at once than it began with.
//!
//! All sessions of two hosts share one connection, and CUBIC answers loss that has nothing to do with congestion down to
//! two packets a round trip for all of them: less than one acknowledgement waits for, so that each round waits for the
//! timer of delayed ones.

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;
use std::{any::Any, sync::Arc, time::Instant};

/// Packets that may always be in flight: what any connection may begin with without knowing the path (RFC 9002 section
/// 7.2).
const FLOOR: u64 = 10;

/// Makes the controllers of connections.
#[derive(Debug, Default)]
pub(crate) struct Factory(Arc<CubicConfig>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::clone(&self.0), now, current_mtu);
        Box::new(Floored { cubic, floor: FLOOR * u64::from(current_mtu) })
    }
}

#[derive(Debug, Clone)]
struct Floored {
    cubic: Cubic,
    floor: u64,
}

impl Controller for Floored {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
        self.floor = FLOOR * u64::from(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.floor)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
