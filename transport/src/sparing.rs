//! Log lines that anyone who reaches a port or a socket can cause: few, and with the number of those left out.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time between two lines: enough to see an attack, too little to fill a disk.
const BETWEEN: Duration = Duration::from_secs(1);

/// Lets one line through per [`BETWEEN`].
#[derive(Debug, Default)]
pub struct Sparing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Sparing {
    /// Whether a line may be written, and then how many were left out since the one before.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_it_stands_for() {
        let (sparing, start) = (Sparing::default(), Instant::now());
        let due = |after: u64| sparing.due(start + Duration::from_millis(after));
        assert_eq!(due(0), Some(0));
        assert_eq!([due(1), due(500), due(999)], [None; 3]);
        assert_eq!(due(1_000), Some(3));
        assert_eq!([due(1_001), due(1_999)], [None; 2]);
        assert_eq!(due(9_000), Some(2));
        assert_eq!(due(10_000), Some(0));
    }
}
