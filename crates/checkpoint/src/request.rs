//! What a request asks for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Access;
use slipway_cri_api::v1::CheckpointContainerRequest;
use slipway_engine::{Error, Result};

use crate::{Content, archive};

/// A checkpoint that is to be written.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    location: PathBuf,
    limit: Option<Duration>,
    deadline: Option<Instant>,
}

impl Checkpoint {
    /// Reads a request: its time begins now. Blocking, briefly.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::InvalidArgument`] for a `timeout` below zero (which is in seconds,
    /// and 0 for none), and a `location` at which no file can be made.
    pub fn of(request: &CheckpointContainerRequest) -> Result<Self> {
        let limit = limit(request.timeout)?;
        let location = PathBuf::from(&request.location);
        check(&location)?;
        Ok(Self {
            location,
            limit,
            deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
        })
    }

    /// How long it may take in all.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// What is said of one that has taken longer.
    #[must_use]
    pub fn overdue(&self) -> Error {
        Error::deadline(format!(
            "it was not written within {} s (CheckpointContainerRequest.timeout)",
            self.limit.unwrap_or_default().as_secs()
        ))
    }

    /// Writes the archive to its place: whole or not at all, and for root alone. Blocking.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::DeadlineExceeded`] when its time ends first,
    /// [`slipway_engine::Kind::ResourceExhausted`] when the disk is full,
    /// [`slipway_engine::Kind::InvalidArgument`] where no file without a name can be made, or
    /// somebody else has made one of that name, and otherwise what the file system says.
    pub fn write(&self, content: &Content) -> Result<()> {
        let written = archive::write(content, &self.location, self.deadline)?;
        written.ok_or_else(|| self.overdue())
    }
}

fn limit(timeout: i64) -> Result<Option<Duration>> {
    match u64::try_from(timeout) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Error::invalid(format!(
            "CheckpointContainerRequest.timeout is {timeout} s; 0 means no limit"
        ))),
    }
}

fn check(location: &Path) -> Result<()> {
    let refuse = |problem: String| {
        Err(Error::invalid(format!(
            "CheckpointContainerRequest.location {:?} {problem}",
            location.display().to_string()
        )))
    };
    if !location.is_absolute() {
        return refuse("is not an absolute path of a file to be written".to_owned());
    }
    let (Some(parent), Some(_)) = (location.parent(), location.file_name()) else {
        return refuse("names no file".to_owned());
    };
    if location.symlink_metadata().is_ok() {
        return refuse("exists already".to_owned());
    }
    if !parent.is_dir() {
        return refuse(format!("is in no directory: make {}", parent.display()));
    }
    match rustix::fs::access(parent, Access::WRITE_OK) {
        Ok(()) => Ok(()),
        Err(error) => refuse(format!("cannot be written: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn a_location_is_a_new_file_in_a_directory_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("there");
        fs::write(&there, "").unwrap();
        for (location, problem) in [
            (PathBuf::new(), "absolute"),
            (PathBuf::from("x.tar"), "absolute"),
            (PathBuf::from("/"), "names no file"),
            (there.clone(), "exists already"),
            (directory.path().to_owned(), "exists already"),
            (directory.path().join("no/x.tar"), "is in no directory"),
            (there.join("x.tar"), "is in no directory"),
            (PathBuf::from("/proc/x.tar"), ""),
        ] {
            match check(&location) {
                Err(error) => {
                    assert_eq!(error.kind(), Kind::InvalidArgument);
                    assert!(error.to_string().contains(problem), "{error}");
                    assert!(error.to_string().contains("location"), "{error}");
                }
                // Some file systems say no only when it comes to it.
                Ok(()) => assert!(problem.is_empty(), "{}", location.display()),
            }
        }
        assert!(check(&directory.path().join("new")).is_ok());
    }

    #[test]
    fn no_time_is_no_limit_and_less_is_none() {
        assert_eq!(limit(0).unwrap(), None);
        assert_eq!(limit(7).unwrap(), Some(Duration::from_secs(7)));
        let error = limit(-1).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("timeout"), "{error}");
    }
}
