//! The kernel and what it allows, and the clock.

use super::{Finding, Group};
use nix::sys::resource::{Resource, getrlimit};
use std::{fs, path::Path};
use time::format_description::well_known::Rfc3339;

/// Descriptors below which it is told: each session of an endpoint on the host takes one.
const DESCRIPTORS_FEW: u64 = 65_536;
/// Written by systemd-timesyncd once it has set the clock.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";
/// Programs that keep a clock right.
const TIMEKEEPERS: [&str; 6] = ["chronyd", "ntpd", "ntpd-rs", "openntpd", "ntp-daemon", "ptp4l"];

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel()];
    findings.extend(ripstop_kernel::probes().into_iter().map(|(what, missing)| match missing {
        None => Finding::good(Group::Host, what, there(what)),
        Some(missing) => Finding::bad(Group::Host, what, missing.what, missing.remedy),
    }));
    findings.push(descriptors());
    findings.extend(reverse_path());
    findings
}

fn kernel() -> Finding {
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => Finding::good(Group::Host, "kernel", format!("Linux {}", release.trim())),
        Err(error) => Finding::bad(Group::Host, "kernel", format!("/proc does not say which ({error})"), "mount /proc"),
    }
}

fn there(what: &str) -> &'static str {
    match what {
        "rights" => "CAP_NET_ADMIN and CAP_SYS_ADMIN",
        "tun" => "/dev/net/tun opens",
        "namespaces" => "network namespaces can be made",
        _ => "answers",
    }
}

fn descriptors() -> Finding {
    let what = "descriptors";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= DESCRIPTORS_FEW => Finding::good(Group::Host, what, format!("up to {hard}")),
        Ok((_, hard)) => Finding::doubtful(
            Group::Host,
            what,
            format!("{hard} at most, and each session of an endpoint on the host takes one"),
            "raise the limit here with `ulimit -Hn`; the systemd unit has `LimitNOFILE=` of its own",
        ),
        Err(error) => {
            Finding::doubtful(Group::Host, what, format!("the limit is not known ({error})"), "see `ulimit -Hn`")
        }
    }
}

/// A strict check of sources needs `src_valid_mark` for interfaces of users, which the agent sets where it may.
fn reverse_path() -> Option<Finding> {
    let what = "rp_filter";
    let filter = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").ok()?;
    let settable = fs::File::options().write(true).open("/proc/sys/net/ipv4/conf/all/src_valid_mark").is_ok();
    Some(match filter.trim() {
        "1" if !settable => Finding::doubtful(
            Group::Host,
            what,
            "strict, and the agent may not set `src_valid_mark` for its interfaces",
            "`sysctl net.ipv4.conf.all.rp_filter=2`, or give the agent a writable /proc/sys",
        ),
        "1" => Finding::good(Group::Host, what, "strict; the agent sets `src_valid_mark`"),
        other => Finding::good(Group::Host, what, other),
    })
}

/// Whether something keeps the clock right: certificates are good for a day.
pub(super) fn clock() -> Vec<Finding> {
    let keeper = fs::read_dir("/proc").into_iter().flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.ok()?.path().join("comm")).ok()?;
        TIMEKEEPERS.into_iter().find(|keeper| *keeper == name.trim())
    });
    let now = time::OffsetDateTime::now_utc();
    let shown = now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default();
    let found = match keeper {
        Some(keeper) => Finding::good(Group::Clock, "time", format!("{shown}, kept by {keeper}")),
        None if Path::new(TIMESYNC).exists() => {
            Finding::good(Group::Clock, "time", format!("{shown}, kept by systemd-timesyncd"))
        }
        None => Finding::doubtful(
            Group::Clock,
            "time",
            format!("{shown}, and nothing is seen to keep it"),
            "run systemd-timesyncd or chrony here, or where this machine has its clock from: certificates are good for a day",
        ),
    };
    vec![found]
}
