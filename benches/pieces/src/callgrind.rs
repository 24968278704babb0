//! Runs a piece under callgrind, and reads what that wrote.
//!
//! Only what Rust functions themselves execute counts. C libraries are left out (libc, with its `memcpy` and `malloc`; AWS-LC):
//! they choose among routines by the processor, so their counts would differ from machine to machine. What a piece has them do
//! most, allocate, is counted in calls.

use anyhow::{Context, bail};
use std::{env, fs, process::Command};

/// libc's allocating functions, by every name that its symbol table has for them.
const ALLOCATORS: &[&str] = &[
    "malloc",
    "__libc_malloc",
    "calloc",
    "__libc_calloc",
    "realloc",
    "__libc_realloc",
    "aligned_alloc",
    "posix_memalign",
    "__posix_memalign",
];

/// What was executed, all rounds together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Instructions of Rust functions.
    pub(crate) instructions: u64,
    /// Calls of these functions to [`ALLOCATORS`]; also those before the count begins, as callgrind tells calls only in all.
    pub(crate) allocations: u64,
}

/// Runs this program with `arguments` under callgrind, and counts instructions from each call of a function whose name has
/// `function` in it to its return.
///
/// # Errors
/// When valgrind is not there, or the program failed under it.
pub(crate) fn run(arguments: &[&str], function: &str) -> anyhow::Result<Tally> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("callgrind.out");
    let own = env::current_exe()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--demangle=no", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .args(arguments)
        .output()
        .context("failed to start valgrind; install it (apt-get install valgrind)")?;
    if !output.status.success() {
        bail!("{arguments:?} failed under valgrind:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let tally = read(&fs::read_to_string(out)?);
    if tally.instructions == 0 {
        bail!("{arguments:?}: nothing was counted: is the symbol of `{function}` there?");
    }
    Ok(tally)
}

/// Adds up a profile in callgrind's format, written without compression of names and positions. A line that starts with a digit
/// says what the function of the last `fn=` executed itself; the one behind `calls=` says what the callee did, and is
/// the callee's.
fn read(profile: &str) -> Tally {
    let (mut tally, mut counts, mut callee, mut of_call) = (Tally::default(), false, "", false);
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            counts = is_rust(name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            of_call = true;
            if counts && ALLOCATORS.contains(&callee) {
                tally.allocations += number(calls, 0);
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            if counts && !of_call {
                tally.instructions += number(line, 1);
            }
            of_call = false;
        }
    }
    tally
}

/// Both manglings of Rust: no C symbol starts like these.
fn is_rust(name: &str) -> bool {
    name.starts_with("_ZN") || name.starts_with("_R")
}

fn number(line: &str, field: usize) -> u64 {
    line.split(' ').nth(field).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
version: 1
positions: line
events: Ir
fl=???
fn=_ZN4dns6answer17h0123456789abcdefE
0 500
cfn=malloc
calls=3 0
0 900
cfn=_RNvC3dns5place
calls=1 0
0 70
0 5
fn=malloc
0 600
cfn=malloc
calls=9 0
0 300
fn=_RNvC3dns5place
12 70
fn=__memcpy_avx_unaligned_erms
0 1000
totals: 2475
";

    #[test]
    fn what_rust_executes_itself_counts_and_how_often_it_allocates() {
        assert_eq!(read(PROFILE), Tally { instructions: 575, allocations: 3 });
    }
}
