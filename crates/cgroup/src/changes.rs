//! Writes to control files that can be taken back.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::control_file::{read, try_write, write};

/// The writes of one operation.
#[derive(Debug)]
pub(crate) enum Changes {
    /// To a cgroup that is removed when one of them fails.
    Final,
    /// To one that is in use: what each file held before, in the order of the writes.
    Reversible(Vec<(PathBuf, String)>),
}

impl Changes {
    /// Writes `value`, remembering what was there.
    pub(crate) fn write(&mut self, file: &Path, value: &str) -> Result<(), Error> {
        let before = self.before(file);
        write(file, value)?;
        self.remember(file, before);
        Ok(())
    }

    /// As [`Changes::write`], for callers that have another way when the kernel refuses.
    pub(crate) fn accepted(&mut self, file: &Path, value: &str) -> bool {
        let before = self.before(file);
        let accepted = try_write(file, value).is_ok();
        if accepted {
            self.remember(file, before);
        }
        accepted
    }

    /// Writes back what was there, the last first: so each step is one that the kernel took in the
    /// other direction. A file of one line for each device gets its lines back, and keeps the
    /// lines of devices that it had none for.
    pub(crate) fn undo(self) {
        let Self::Reversible(before) = self else {
            return;
        };
        for (file, text) in before.iter().rev() {
            // An empty set is written as an empty line: nothing at all is no write.
            let lines = if text.trim_ascii().is_empty() {
                vec![""]
            } else {
                text.lines().collect()
            };
            for line in lines {
                if let Err(error) = try_write(file, &format!("{line}\n")) {
                    tracing::warn!(file = %file.display(), line, %error, "a limit is not put back");
                }
            }
        }
    }

    fn before(&self, file: &Path) -> Option<String> {
        match self {
            Self::Final => None,
            // What can only be written has nothing to be put back.
            Self::Reversible(_) => read(file).ok(),
        }
    }

    fn remember(&mut self, file: &Path, before: Option<String>) {
        if let (Self::Reversible(all), Some(before)) = (self, before) {
            all.push((file.to_owned(), before));
        }
    }
}
