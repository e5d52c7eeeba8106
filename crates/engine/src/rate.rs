//! How fast processor time is used, from readings of a counter that only says how much was.

use std::time::{Duration, Instant};

/// Nearer together than this, two readings say more about the clock than about the use.
const SHORTEST: Duration = Duration::from_secs(1);

/// The rate at which a cgroup uses processor time.
#[derive(Debug, Default)]
pub struct CpuRate {
    last: Option<Reading>,
    nano_cores: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Not the time of day, which somebody may set in between.
    at: Instant,
    /// Nanoseconds of processor time, ever.
    used: u64,
}

impl CpuRate {
    /// A cgroup in which nothing has run before this moment.
    pub fn begin(&mut self, at: Instant) {
        self.last = Some(Reading { at, used: 0 });
        self.nano_cores = None;
    }

    /// Takes a reading and answers the rate between the last two that are at least a second apart,
    /// in billionths of a processor; none while there are no two. One that was taken before the last,
    /// and heard after it, changes nothing.
    pub fn observe(&mut self, at: Instant, used: u64) -> Option<u64> {
        let now = Reading { at, used };
        let Some(last) = self.last else {
            self.last = Some(now);
            return None;
        };
        let Some(elapsed) = at.checked_duration_since(last.at) else {
            return self.nano_cores;
        };
        match used.checked_sub(last.used) {
            Some(_) if elapsed < SHORTEST => {}
            Some(more) => {
                let rate = u128::from(more) * 1_000_000_000 / elapsed.as_nanos();
                self.nano_cores = u64::try_from(rate).ok();
                self.last = Some(now);
            }
            // The counter belongs to another cgroup of that name.
            None => {
                self.nano_cores = None;
                self.last = Some(now);
            }
        }
        self.nano_cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins now, and takes readings so many seconds later.
    fn readings(readings: &[(f64, u64)]) -> Vec<Option<u64>> {
        let begin = Instant::now();
        let mut rate = CpuRate::default();
        let readings = readings.iter();
        readings
            .map(|(seconds, used)| rate.observe(begin + Duration::from_secs_f64(*seconds), *used))
            .collect()
    }

    #[test]
    fn a_rate_needs_two_readings_and_a_second_between_them() {
        let rates = readings(&[
            (0.0, 5_000_000_000),
            (0.5, 5_900_000_000),
            (2.0, 6_000_000_000),
            (2.1, 7_000_000_000),
            (4.0, 8_000_000_000),
        ]);
        let half = Some(500_000_000);
        // One that is too near leaves the last rate that is known.
        assert_eq!(rates, [None, None, half, half, Some(1_000_000_000)]);
    }

    #[test]
    fn a_container_that_was_just_started_has_a_rate_at_its_first_reading() {
        let begin = Instant::now();
        let mut rate = CpuRate::default();
        rate.begin(begin);
        let later = begin + Duration::from_secs(2);
        assert_eq!(rate.observe(later, 1_000_000_000), Some(500_000_000));
    }

    #[test]
    fn readers_that_overtake_each_other_take_no_rate_away() {
        let rates = readings(&[
            (0.0, 0),
            (2.0, 1_000_000_000),
            (1.5, 750_000_000),
            (4.0, 2_000_000_000),
        ]);
        let half = Some(500_000_000);
        assert_eq!(rates, [None, half, half, half]);
    }

    #[test]
    fn nothing_is_made_of_a_counter_that_ran_backwards() {
        let rates = readings(&[
            (0.0, 3_000_000_000),
            (2.0, 2_000_000_000),
            (4.0, 3_000_000_000),
        ]);
        assert_eq!(rates, [None, None, Some(500_000_000)]);
    }
}
