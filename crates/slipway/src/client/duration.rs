//! Durations and times as people write and read them.

use std::time::Duration;

use anyhow::bail;
use jiff::{SignedDuration, Timestamp};

/// Reads `90`, `90s`, `1m30s` or `500ms`; a bare number is in seconds.
pub(crate) fn parse(text: &str) -> anyhow::Result<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    match text.parse::<SignedDuration>().map(Duration::try_from) {
        Ok(Ok(duration)) => Ok(duration),
        _ => bail!("write it like 30s, 1m30s or 500ms"),
    }
}

/// Reads a point in time: RFC 3339, or a duration before now.
pub(super) fn parse_moment(text: &str) -> anyhow::Result<Timestamp> {
    if let Ok(timestamp) = text.parse() {
        return Ok(timestamp);
    }
    match parse(text) {
        Ok(duration) => Ok(Timestamp::now() - SignedDuration::try_from(duration)?),
        Err(_) => bail!("write it like 10m (before now) or 2024-01-31T08:00:00Z"),
    }
}

/// How long ago `nanoseconds` since the epoch were, in the words that crictl's users know.
pub(super) fn ago(nanoseconds: i64) -> String {
    match Timestamp::from_nanosecond(nanoseconds.into()) {
        Ok(time) if nanoseconds > 0 => {
            let age = Timestamp::now().duration_since(time);
            format!(
                "{} ago",
                roughly(Duration::try_from(age).unwrap_or_default())
            )
        }
        _ => "unknown".to_string(),
    }
}

/// A duration in its largest unit.
fn roughly(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const WEEK: u64 = 7 * DAY;
    const MONTH: u64 = 30 * DAY;
    const YEAR: u64 = 365 * DAY;
    match duration.as_secs() {
        0 => "Less than a second".to_string(),
        1 => "1 second".to_string(),
        seconds @ 2..MINUTE => format!("{seconds} seconds"),
        seconds if seconds < 2 * MINUTE => "About a minute".to_string(),
        seconds if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
        seconds if seconds < 2 * HOUR => "About an hour".to_string(),
        seconds if seconds < 2 * DAY => format!("{} hours", seconds / HOUR),
        seconds if seconds < 2 * WEEK => format!("{} days", seconds / DAY),
        seconds if seconds < 2 * MONTH => format!("{} weeks", seconds / WEEK),
        seconds if seconds < 2 * YEAR => format!("{} months", seconds / MONTH),
        seconds => format!("{} years", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_seconds_need_none() {
        assert_eq!(parse("90").unwrap(), Duration::from_secs(90));
        assert_eq!(parse("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse("500ms").unwrap(), Duration::from_millis(500));
        for text in ["", "-5s", "soon", "5 parsecs", "1y"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_an_age() {
        let time = parse_moment("2024-01-31T08:00:00.5+01:00").unwrap();
        assert_eq!(time.to_string(), "2024-01-31T07:00:00.5Z");
        let moment = parse_moment("10m").unwrap();
        let age = Timestamp::now().duration_since(moment);
        assert!((600..660).contains(&age.as_secs()), "{age}");
        assert!(parse_moment("yesterday").is_err());
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (300, "5 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (90 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(roughly(Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(0), "unknown");
    }
}
