//! What processes cost: processor time and memory, as the kernel counts them, of a process and all that it started.

use nix::unistd::{SysconfVar, sysconf};
use std::{collections::HashMap, fs, sync::LazyLock};

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

/// Resident memory of a process and of those below it, in bytes. A page of a file that several of them have is one page.
pub fn resident(pid: u32) -> u64 {
    let mut own = 0;
    let mut of_files: HashMap<String, u64> = HashMap::new();
    for pid in tree(pid) {
        let mappings = mappings(pid);
        own += mappings.own;
        for (file, bytes) in mappings.of_files {
            let most = of_files.entry(file).or_default();
            *most = bytes.max(*most);
        }
    }
    own + of_files.into_values().sum::<u64>()
}

/// What a process has of itself, and of each file that it maps, in bytes.
#[derive(Default)]
struct Mappings {
    own: u64,
    of_files: HashMap<String, u64>,
}

/// From `/proc/PID/smaps` (proc_pid_smaps(5)): a mapping's first line ends with its file, if it has one, and the lines after it
/// say how much of it is resident, and how much of that is a copy of the process's own.
fn mappings(pid: u32) -> Mappings {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut found = Mappings::default();
    let mut file = None;
    let kib = |rest: &str| rest.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024;
    for line in text.lines() {
        match line.split_once(':') {
            Some(("Rss", rest)) => match &file {
                Some(file) => *found.of_files.entry(String::clone(file)).or_default() += kib(rest),
                None => found.own += kib(rest),
            },
            Some(("Anonymous", rest)) => {
                if let Some(of_file) = file.as_ref().and_then(|file| found.of_files.get_mut(file)) {
                    found.own += kib(rest);
                    *of_file -= kib(rest);
                }
            }
            _ if line.starts_with(|first: char| first.is_ascii_digit() || ('a'..='f').contains(&first)) => {
                file = line.find('/').map(|at| line[at..].to_owned());
            }
            _ => {}
        }
    }
    found
}

/// User and system time of a process in clock ticks: fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the last parenthesis may hold spaces; field 3 follows it.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}
