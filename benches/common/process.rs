//! What processes cost: processor time and memory, as the kernel counts them, of a process and all that it started.

use nix::unistd::{SysconfVar, sysconf};
use std::{fs, sync::LazyLock};

/// Clock ticks in a second (proc_pid_stat(5)); Linux has had 100 everywhere for long.
static TICKS: LazyLock<f64> = LazyLock::new(|| sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64);

/// A process and all below it. One that has ended counts for nothing.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    all
}

/// Processor time that these processes and those below them have used, in seconds.
pub fn cpu(pids: &[u32]) -> f64 {
    pids.iter().flat_map(|pid| tree(*pid)).map(|pid| cpu_ticks(pid) as f64 / *TICKS).sum()
}

/// Resident memory of a process and of those below it, in bytes.
pub fn resident(pid: u32) -> u64 {
    tree(pid).into_iter().map(resident_alone).sum()
}

/// User and system time of a process in clock ticks: fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the last parenthesis may hold spaces; field 3 follows it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn resident_alone(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}
