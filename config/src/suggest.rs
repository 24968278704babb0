//! "Did you mean": the known name nearest to one that is not known.

/// Names longer than this are not compared: the cost grows with the product of the lengths.
const COMPARED_MAX: usize = 128;

/// The candidate nearest to `wanted`, when it is near enough to be what was meant: at most a third of its characters
/// away. Of equally near ones the first.
#[must_use]
pub fn nearest<S: AsRef<str>>(wanted: &str, candidates: impl IntoIterator<Item = S>) -> Option<String> {
    let allowed = (wanted.chars().count() / 3).max(1);
    if wanted.is_empty() || wanted.len() > COMPARED_MAX {
        return None;
    }
    let near = |candidate: S| {
        let far = distance(wanted, candidate.as_ref(), allowed)?;
        Some((far, candidate.as_ref().to_owned()))
    };
    candidates.into_iter().filter_map(near).min_by_key(|(far, _)| *far).map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) from one text to another; `None` when there are more than
/// `allowed`.
fn distance(from: &str, to: &str, allowed: usize) -> Option<usize> {
    if to.len() > COMPARED_MAX || from.len().abs_diff(to.len()) > allowed * char::MAX.len_utf8() {
        return None;
    }
    let to: Vec<char> = to.chars().collect();
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=to.len()).collect());
    let mut previous = None;
    for (row, ours) in from.chars().enumerate() {
        let mut next = vec![row + 1];
        for (column, theirs) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(ours != *theirs);
            let mut least = replaced.min(last[column + 1] + 1).min(next[column] + 1);
            if column > 0 && previous == Some(*theirs) && ours == to[column - 1] && ours != *theirs {
                least = least.min(before[column - 1] + 1);
            }
            next.push(least);
        }
        // A swap looks two rows back, so both must be too far for the rest to be.
        if [&last, &next].iter().all(|row| row.iter().all(|far| *far > allowed)) {
            return None;
        }
        (before, last) = (last, next);
        previous = Some(ours);
    }
    last.last().copied().filter(|far| *far <= allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["api", "web", "database", "workloads"];
        for (wanted, expected) in [
            ("apu", Some("api")),
            ("aip", Some("api")),
            ("databse", Some("database")),
            ("workload", Some("workloads")),
            ("wbe", Some("web")),
            ("cache", None),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, known).as_deref(), expected, "{wanted}");
        }
    }

    #[test]
    fn distances_count_edits() {
        for (from, to, expected) in [("abc", "abc", 0), ("abc", "acb", 1), ("abc", "", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(from, to, 9), Some(expected), "{from} {to}");
            assert_eq!(distance(from, to, expected), Some(expected), "{from} {to}");
        }
        assert_eq!(distance("abc", "xyz", 2), None);
    }
}
