//! What the figures depend on: the machine and the day.

use super::link::{CONGESTION, MTU};
use std::fs;
use time::{OffsetDateTime, macros::format_description};

/// One line: date, processor, kernel, load before the start, and how the agent was built.
pub fn read() -> String {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let day = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = line("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let build = if cfg!(debug_assertions) { "DEBUG BUILD, not to be quoted" } else { "release build" };
    format!(
        "{}; {cores} cores, {}; Linux {}; TCP {CONGESTION}; load before {load}; {build}; one veth pair, MTU {MTU}",
        day.unwrap_or_default(),
        processor(&line("/proc/cpuinfo")),
        line("/proc/sys/kernel/osrelease"),
    )
}

fn processor(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    model.and_then(|line| line.split_once(':')).map_or(std::env::consts::ARCH, |(_, name)| name.trim())
}
