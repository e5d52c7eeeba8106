//! Links to Docker's own files: what dockershim and older versions of Slipway have put where a
//! kubelet looks for logs. Docker alone rotates what is behind one.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Whether a log path is a link to Docker's file. Blocking, briefly.
pub(super) fn is_to(path: &Path, target: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|found| found == target)
}

/// Puts a link there. Blocking, briefly.
pub(super) fn replace(path: &Path, target: &Path) -> io::Result<()> {
    if is_to(path, target) {
        return Ok(());
    }
    match symlink(target, path) {
        // What is left of a container of the same name and attempt.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            symlink(target, path)
        }
        other => other,
    }
}

/// Removes a link of a container that is about to be removed, whose file goes with it. A log that is
/// no link stays: kubelets remove those. Blocking, briefly.
pub(crate) fn remove(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        // It has gone with its directory.
        let _ = std::fs::remove_file(path);
    }
}
