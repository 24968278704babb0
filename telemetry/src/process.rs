//! What the kernel knows of the agent's own process.

use super::instruments::{FILES, MEMORY, float};
use metrics::gauge;

/// Reads the agent's own memory and descriptors; called before each scrape.
pub(super) fn sample() {
    if let Some(bytes) = resident_bytes() {
        gauge!(MEMORY).set(bytes);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // The directory's own descriptor is among them.
        gauge!(FILES).set(float(entries.count().saturating_sub(1)));
    }
}

/// `VmRSS` of proc_pid_status(5), which is in KiB.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
