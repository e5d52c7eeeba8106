//! The mounts that lie below a directory.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// A line of `/proc/self/mountinfo` (see proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
}

/// Every mount of this mount namespace, in the order in which they were made.
pub(crate) fn all() -> Vec<Mount> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .collect()
}

/// The mounts at or below `directory`.
pub(crate) fn below(directory: &Path) -> Vec<Mount> {
    all()
        .into_iter()
        .filter(|mount| mount.point.starts_with(directory))
        .collect()
}

/// Takes away every mount at or below `directory`, the last one made first.
///
/// A mount that is in use is detached: it vanishes with its last user.
pub(crate) fn unmount_below(directory: &Path) {
    for mount in below(directory).iter().rev() {
        let _ = unmount(&mount.point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let point = fields.nth(4)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount {
        point: PathBuf::from(OsString::from_vec(unescape(point))),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_point_and_kind_whatever_optional_fields_it_has() {
        let plain = b"36 35 98:0 / /mnt/a\\040b rw,noatime - ext4 /dev/root rw";
        let shared = b"36 35 98:0 / /mnt/a\\040b rw master:1 shared:2 - ext4 /dev/root rw";
        let expected = Some(Mount {
            point: "/mnt/a b".into(),
            kind: "ext4".into(),
        });
        assert_eq!(parse(plain), expected);
        assert_eq!(parse(shared), expected);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_root_is_among_the_mounts() {
        assert!(all().iter().any(|mount| mount.point == Path::new("/")));
    }
}
