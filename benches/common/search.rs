//! The highest rate without loss, by doubling and then bisection.

/// The rate that is tried first, in datagrams a second: 96 Mbit/s of 1 200 bytes.
pub const FIRST: f64 = 10_000.0;
/// The rate above which none is tried: more than any sender here can offer.
pub const LAST: f64 = 2_000_000.0;
/// Steps between the last rate without loss and the first with it, which is twice as high: the last step is of 4 %.
const STEPS: u32 = 4;
/// The part of a rate that must have arrived for a higher one to be tried. Where less does, this rate brought hardly more than
/// the one before, which was half of it: the sender offers no more. One that was not scheduled for a moment lags less.
const OFFERED: f64 = 0.55;

/// What came of one rate.
pub struct Attempt {
    /// What arrived, in datagrams a second.
    pub rate: f64,
    /// Whether nothing was lost.
    pub clean: bool,
}

/// The highest rate that arrived without loss, in datagrams a second; 0 where even the lowest lost.
///
/// # Errors
/// The first of the attempts.
pub fn search<E>(mut attempt: impl FnMut(f64) -> Result<Attempt, E>) -> Result<f64, E> {
    // One that lost is tried again: the machine may have been elsewhere.
    let mut again = |rate| match attempt(rate)? {
        Attempt { clean: false, .. } => attempt(rate),
        clean => Ok(clean),
    };
    let (mut best, mut low, mut high) = (0.0_f64, 0.0, FIRST);
    while high < LAST {
        let tried = again(high)?;
        if !tried.clean {
            break;
        }
        best = best.max(tried.rate);
        if tried.rate < high * OFFERED {
            return Ok(best);
        }
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..STEPS {
        let rate = if low > 0.0 { f64::sqrt(low * high) } else { high / 2.0 };
        let tried = again(rate)?;
        if tried.clean {
            best = best.max(tried.rate);
            low = rate;
        } else {
            high = rate;
        }
    }
    Ok(best)
}
