//! The result of ADD (CNI specification, "Result types"): that of the plugins before, and the workload's interface.

use super::config::Config;
use crate::admin::{Status, WorkloadStatus};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The address of a device that has none; podman takes no interface without one.
const NO_HARDWARE: &str = "00:00:00:00:00:00";
/// Versions in which each address says of which family it is.
const WITH_FAMILY: [&str; 3] = ["0.3.0", "0.3.1", "0.4.0"];

/// The result once the workload is attached. Names are the fabric's resolver's to answer from then on; it asks the host's servers
/// for all others.
pub(super) fn of(config: &Config, status: &Status, workload: &WorkloadStatus, netns: &str) -> Value {
    let mut result = before(config);
    let interface = json!({ "name": workload.link, "mac": NO_HARDWARE, "sandbox": netns });
    let index = push(&mut result, "interfaces", interface);
    for address in [IpAddr::V4(workload.v4), IpAddr::V6(workload.v6)] {
        let (bits, family) = if address.is_ipv4() { (32, "4") } else { (128, "6") };
        let mut ip = json!({ "address": format!("{address}/{bits}"), "interface": index });
        if WITH_FAMILY.contains(&config.cni_version.as_str()) {
            ip["version"] = family.into();
        }
        push(&mut result, "ips", ip);
    }
    let search = format!("{}.{}", workload.id.tenant.dns_labels(), status.fabric);
    result["dns"] = json!({ "nameservers": [status.resolver.v4], "search": [search] });
    result
}

/// The result of the plugins before, as it is.
pub(super) fn before(config: &Config) -> Value {
    let mut result = match &config.prev_result {
        Some(result @ Value::Object(_)) => result.clone(),
        Some(_) | None => json!({}),
    };
    result["cniVersion"] = config.cni_version.as_str().into();
    result
}

/// Whether a result has an interface of this name in this namespace.
pub(super) fn has(result: &Value, link: &str, netns: &str) -> bool {
    let interfaces = result["interfaces"].as_array().into_iter().flatten();
    interfaces.into_iter().any(|one| one["name"] == link && one["sandbox"] == netns)
}

/// Adds to a list of the result; returns where it is.
fn push(result: &mut Value, list: &str, value: Value) -> usize {
    if !result[list].is_array() {
        result[list] = json!([]);
    }
    let Some(all) = result[list].as_array_mut() else { return 0 };
    all.push(value);
    all.len() - 1
}
