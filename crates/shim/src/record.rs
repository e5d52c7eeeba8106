//! A container's record on disk, and the clock that its times come from.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::{Exit, Record};

/// The record's name in the bundle.
const STATE: &str = "state.json";

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

/// Writes a record into its bundle; a reader finds the old one or the new one, whole.
pub(crate) fn write_record(bundle: &Path, record: &Record) -> io::Result<()> {
    let temporary = bundle.join(".state.json");
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(&temporary, bundle.join(STATE))
}

impl Exit {
    /// From the two numbers of a wait status.
    pub(crate) fn new(status: Option<i32>, signal: Option<i32>, oom_killed: bool) -> Self {
        let code = status.unwrap_or_else(|| 128 + signal.unwrap_or(0));
        Self {
            code,
            signal,
            oom_killed,
        }
    }
}
