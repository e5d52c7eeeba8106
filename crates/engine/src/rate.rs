//! How fast processor time is used, from readings of a counter that only says how much was.

/// Nearer together than this, two readings say more about the clock than about the use.
const SHORTEST: u64 = 1_000_000_000;

/// The rate at which a cgroup uses processor time.
#[derive(Debug, Default)]
pub struct CpuRate {
    last: Option<Reading>,
    nano_cores: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Nanoseconds since the epoch.
    at: i64,
    /// Nanoseconds of processor time, ever.
    used: u64,
}

impl CpuRate {
    /// A cgroup in which nothing has run before this moment.
    pub fn begin(&mut self, at: i64) {
        self.last = Some(Reading { at, used: 0 });
        self.nano_cores = None;
    }

    /// Takes a reading and answers the rate between the last two that are at least a second apart,
    /// in billionths of a processor; none while there are no two.
    pub fn observe(&mut self, at: i64, used: u64) -> Option<u64> {
        let now = Reading { at, used };
        let Some(last) = self.last else {
            self.last = Some(now);
            return None;
        };
        match (u64::try_from(at - last.at), used.checked_sub(last.used)) {
            (Ok(elapsed), Some(_)) if elapsed < SHORTEST => {}
            (Ok(elapsed), Some(more)) => {
                let rate = u128::from(more) * 1_000_000_000 / u128::from(elapsed);
                self.nano_cores = u64::try_from(rate).ok();
                self.last = Some(now);
            }
            // The clock was set back, or the counter belongs to another cgroup of that name.
            _ => {
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

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_rate_needs_two_readings_and_a_second_between_them() {
        let mut rate = CpuRate::default();
        assert_eq!(rate.observe(0, 5_000_000_000), None);
        assert_eq!(rate.observe(SECOND / 2, 5_900_000_000), None, "too near");
        assert_eq!(rate.observe(2 * SECOND, 6_000_000_000), Some(500_000_000));
        assert_eq!(
            rate.observe(2 * SECOND + 1, 7_000_000_000),
            Some(500_000_000),
            "the last rate that is known"
        );
        assert_eq!(rate.observe(4 * SECOND, 8_000_000_000), Some(1_000_000_000));
    }

    #[test]
    fn a_container_that_was_just_started_has_a_rate_at_its_first_reading() {
        let mut rate = CpuRate::default();
        rate.begin(10 * SECOND);
        assert_eq!(rate.observe(12 * SECOND, 1_000_000_000), Some(500_000_000));
    }

    #[test]
    fn nothing_is_made_of_a_clock_or_a_counter_that_ran_backwards() {
        let mut rate = CpuRate::default();
        rate.observe(10 * SECOND, 3_000_000_000);
        assert_eq!(rate.observe(5 * SECOND, 4_000_000_000), None);
        assert_eq!(rate.observe(7 * SECOND, 2_000_000_000), None);
        assert_eq!(rate.observe(9 * SECOND, 3_000_000_000), Some(500_000_000));
    }
}
