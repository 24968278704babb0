//! What many figures are, in one.

use std::time::Duration;

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// How far the values are from each other: half of the way from the least to the most, as a part of their median.
pub fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values).filter(|middle| *middle > 0.0)?;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some((most - least) / 2.0 / middle)
}

/// What so many of a thousand times were at most, in microseconds; the times are sorted. Of none it is 0.
pub fn per_mille(sorted: &[Duration], mille: usize) -> f64 {
    let at = (sorted.len() * mille / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
}
