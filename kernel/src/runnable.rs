//! Whether the machine's processors are wanted by more threads than there are.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

/// The kernel's count of the threads that run or would (proc_loadavg(5)), of the whole machine.
const COUNT: &str = "/proc/loadavg";
/// The processors that are on, as ranges of numbers (Documentation/admin-guide/cputopology.rst).
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// Bytes of [`COUNT`] that are read: it has under fifty.
const COUNT_MAX: usize = 128;

/// Asks the kernel; some two microseconds each time.
#[derive(Debug)]
pub struct Runnable {
    count: File,
    processors: usize,
}

impl Runnable {
    /// Opens what is asked.
    ///
    /// # Errors
    /// When this host's `/proc` or `/sys` does not say.
    pub fn open() -> io::Result<Self> {
        let online = fs::read_to_string(ONLINE)?;
        let processors = processors(&online).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, online))?;
        Ok(Self { count: File::open(COUNT)?, processors })
    }

    /// More threads run or would than there are processors, the caller among them. Where the kernel does not say, they do.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        let mut text = [0; COUNT_MAX];
        let read = self.count.read_at(&mut text, 0).ok().and_then(|length| text.get(..length));
        let count = read.and_then(|text| str::from_utf8(text).ok()).and_then(runnable);
        count.is_none_or(|count| count > self.processors)
    }
}

/// Of `0-3,8`: five.
fn processors(online: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
    };
    online.trim().split(',').map(count).sum()
}

/// Of `0.20 0.18 0.12 1/80 11206`: one.
fn runnable(text: &str) -> Option<usize> {
    text.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_texts_are_understood() {
        assert_eq!(["0\n", "0-1\n", "0-3,8\n", "0,2,4-5"].map(processors), [1, 2, 5, 4].map(Some));
        assert_eq!(["", "a", "3-1", "0-"].map(processors), [None; 4]);
        assert_eq!(runnable("0.20 0.18 0.12 1/80 11206\n"), Some(1));
        assert_eq!(["", "0.20 0.18 0.12", "0 0 0 x/y 1"].map(runnable), [None; 3]);
    }

    #[test]
    fn a_machine_with_more_to_do_than_processors_is_crowded() {
        let runnable = Runnable::open().unwrap();
        let end = std::sync::atomic::AtomicBool::new(false);
        let is_over = || end.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..=runnable.processors {
                scope.spawn(|| {
                    while !is_over() {
                        std::hint::spin_loop();
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            let is_crowded = runnable.is_crowded();
            end.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(is_crowded);
        });
    }
}
