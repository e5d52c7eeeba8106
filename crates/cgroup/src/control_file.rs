//! Reading and writing control files.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::Error;

/// What the kernel writes at once, and more than nearly every control file has.
const PAGE: usize = 4096;

/// More than a number takes.
const LINE: usize = 64;

/// Links to a directory without any below it, where each of those links to its parent, as the
/// kernel's own file systems count. To ask for them is far cheaper than to read the directory.
const CHILDLESS: u64 = 2;

/// The text of a control file.
pub(crate) fn read(file: &Path) -> Result<String, Error> {
    read_text(file).map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })
}

/// As [`fs::read`], for files of `/proc` and `/sys`: that asks the kernel for a size that it does not
/// know, and then reads in small steps. Statistics are many files.
pub fn read_kernel_file(file: &Path) -> io::Result<Vec<u8>> {
    let mut opened = fs::File::open(file)?;
    let mut page = [0; PAGE];
    let mut bytes = Vec::new();
    loop {
        match read_part(&mut opened, &mut page)? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(&page[..length]),
        }
    }
}

/// One read(2) that is not interrupted.
fn read_part(opened: &mut fs::File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match opened.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// As [`read_kernel_file`], as text.
pub(crate) fn read_text(file: &Path) -> io::Result<String> {
    String::from_utf8(read_kernel_file(file)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A control file that holds one number, which the kernel writes at once; `None` stands for `max`.
pub(crate) fn read_number(file: &Path) -> Result<Option<u64>, Error> {
    let mut line = [0; LINE];
    let opened = fs::File::open(file);
    let read = opened.and_then(|mut opened| read_part(&mut opened, &mut line));
    let length = read.map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&line[..length]);
    match text.trim_ascii() {
        "max" => Ok(None),
        number => number.parse().map(Some).map_err(|_| malformed(file, &text)),
    }
}

/// Writes `value` with a single write(2), without creating or truncating anything.
pub(crate) fn write(file: &Path, value: &str) -> Result<(), Error> {
    try_write(file, value).map_err(|source| Error::Write {
        file: file.to_owned(),
        value: value.to_owned(),
        hint: hint(file, &source),
        source,
    })
}

/// As [`write`], for callers that look at the kernel's answer.
pub(crate) fn try_write(file: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    match file.write(value.as_bytes())? {
        written if written == value.len() => Ok(()),
        written => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("the kernel took {written} of {} bytes", value.len()),
        )),
    }
}

/// The value behind `key` in the text of a flat keyed file ("KEY VALUE" a line).
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|value| value.trim_ascii().parse().ok())
}

/// As [`keyed`]; a key that is not there is an error that names the file.
pub(crate) fn require(file: &Path, text: &str, key: &str) -> Result<u64, Error> {
    keyed(text, key).ok_or_else(|| Error::Malformed {
        file: file.to_owned(),
        found: format!("no line {key:?}"),
    })
}

/// The directories below `directory`, deepest first, itself last; none when it does not exist.
pub(crate) fn tree(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        match children(&next) {
            Ok(below) => open.extend(below),
            Err(error) if gone(&error) => continue,
            Err(source) => return Err(Error::Read { file: next, source }),
        }
        found.push(next);
    }
    found.reverse();
    Ok(found)
}

fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    if fs::metadata(directory)?.nlink() == CHILDLESS {
        return Ok(below);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            below.push(entry.path());
        }
    }
    Ok(below)
}

/// Whether the kernel says that the cgroup is not there any more: `ENOENT` from its directory,
/// `ENODEV` from a file of it that was open already.
pub(crate) fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn malformed(file: &Path, found: &str) -> Error {
    Error::Malformed {
        file: file.to_owned(),
        found: format!("{:?}", found.trim_ascii()),
    }
}

/// What the kernel means where its error number alone does not say it.
fn hint(file: &Path, error: &io::Error) -> &'static str {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    match (name, error.raw_os_error()) {
        ("cpuset.cpus" | "cpuset.mems", Some(libc::EINVAL | libc::EACCES | libc::ERANGE)) => {
            "; it must be a list such as 0-3,8 of what is online and in the parent's set"
        }
        ("cpu.cfs_quota_us" | "cpu.cfs_period_us" | "cpu.max", Some(libc::EINVAL)) => {
            "; a period is 1000 to 1000000 us, a quota at least 1000 us, \
             and on v1 no larger a share than the parent's"
        }
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Some(libc::EBUSY)) => {
            "; more than that is in use and cannot be reclaimed"
        }
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Some(libc::EINVAL)) => {
            "; the limit of memory and swap together must not be below the limit of memory"
        }
        ("devices.allow", Some(libc::EPERM)) => "; the parent's own device rules do not allow it",
        (_, Some(libc::ENOENT)) => {
            "; the controller is not there, or not enabled in the parent's cgroup.subtree_control"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom 1\noom_kill_disable 0\noom_kill 7\n";
        assert_eq!(keyed(text, "oom_kill"), Some(7));
        assert_eq!(keyed(text, "oom_group_kill"), None);
    }

    #[test]
    fn nothing_is_created_by_a_write() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.max");
        let error = write(&file, "1").unwrap_err().to_string();
        assert!(
            error.contains("memory.max") && error.contains("not enabled"),
            "{error}"
        );
        assert!(!file.exists());
    }

    #[test]
    fn the_deepest_directory_comes_first() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b/c")).unwrap();
        fs::create_dir_all(root.path().join("d")).unwrap();
        let tree = tree(root.path()).unwrap();
        assert_eq!(tree.len(), 5);
        assert_eq!(tree.last().unwrap(), root.path());
        for (position, directory) in tree.iter().enumerate() {
            assert!(
                tree[..position]
                    .iter()
                    .all(|earlier| !directory.starts_with(earlier))
            );
        }
        assert!(super::tree(&root.path().join("absent")).unwrap().is_empty());
    }
}
