//! Order statistics of measured times.

use std::time::Duration;

use serde::Serialize;

/// What is reported of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Statistics {
    /// How many times it was measured.
    pub(crate) count: usize,
    /// In milliseconds.
    pub(crate) median_ms: f64,
    /// The time within which 95 of 100 calls ended (nearest rank), in milliseconds.
    pub(crate) p95_ms: f64,
}

impl Statistics {
    /// The statistics of `samples`, in any order; `None` without samples.
    pub(crate) fn of(samples: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples
            .iter()
            .map(|sample| sample.as_secs_f64() * 1000.0)
            .collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            median_ms: median(&sorted)?,
            p95_ms: *sorted.get(nearest_rank(sorted.len(), 95)?)?,
        })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, upper))
}

/// The index of the smallest of `count` sorted values that `percent` of them do not exceed.
fn nearest_rank(count: usize, percent: usize) -> Option<usize> {
    (count * percent).div_ceil(100).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(values: &[u64]) -> Vec<Duration> {
        values
            .iter()
            .map(|&value| Duration::from_millis(value))
            .collect()
    }

    #[test]
    fn nothing_has_no_statistics() {
        assert_eq!(Statistics::of(&[]), None);
    }

    #[test]
    fn one_sample_is_its_own_median_and_p95() {
        let expected = Statistics {
            count: 1,
            median_ms: 7.0,
            p95_ms: 7.0,
        };
        assert_eq!(Statistics::of(&milliseconds(&[7])), Some(expected));
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let expected = Statistics {
            count: 4,
            median_ms: 25.0,
            p95_ms: 1000.0,
        };
        assert_eq!(
            Statistics::of(&milliseconds(&[1000, 20, 30, 10])),
            Some(expected)
        );
    }

    #[test]
    fn p95_is_the_nineteenth_of_twenty_and_the_ninety_fifth_of_a_hundred() {
        let upto = |last: u64| milliseconds(&(1..=last).rev().collect::<Vec<_>>());
        let p95 = |last| Statistics::of(&upto(last)).map(|statistics| statistics.p95_ms);
        assert_eq!(p95(20), Some(19.0));
        assert_eq!(p95(21), Some(20.0));
        assert_eq!(p95(100), Some(95.0));
    }
}
