//! Directories.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// The sum of the sizes of all files in it, in bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn size(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() {
            size(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(sum)
}
