//! How the node's mounts spread (proc_pid_mountinfo(5), "shared subtrees" of mount_namespaces(7)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// A mount of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeMount {
    id: u64,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Whether what is mounted in it reaches its peers.
    pub(crate) shared: bool,
    /// Whether what is mounted in another mount reaches it.
    pub(crate) slave: bool,
}

/// The mount that a path lies on. Blocking, briefly.
pub(crate) fn of(path: &Path) -> io::Result<NodeMount> {
    let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let table = fs::read("/proc/self/mountinfo")?;
    table
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .find(|mount| mount.id == found.stx_mnt_id)
        .ok_or_else(|| io::Error::other("its mount is not in /proc/self/mountinfo"))
}

/// Reads one line; none where it is not of the documented form.
fn parse(line: &[u8]) -> Option<NodeMount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    // The parent, the device, the root within the file system.
    let point = unescape(fields.nth(3)?);
    let _options = fields.next()?;
    let mut mount = NodeMount {
        id,
        point: PathBuf::from(OsString::from_vec(point)),
        shared: false,
        slave: false,
    };
    for field in fields {
        if field == b"-" {
            return Some(mount);
        }
        mount.shared |= field.starts_with(b"shared:");
        mount.slave |= field.starts_with(b"master:");
    }
    None
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let code = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &rest[4..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:7 - ext3 /dev/root rw";
        let expected = NodeMount {
            id: 36,
            point: PathBuf::from("/mnt 2"),
            shared: true,
            slave: true,
        };
        assert_eq!(parse(line), Some(expected));
        let private = parse(b"6 27 254:0 / / rw,relatime - ext4 /dev/vda rw").unwrap();
        assert!(!private.shared && !private.slave);
        assert_eq!(parse(b"6 27 254:0 / / rw,relatime shared:1"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_mount_of_a_path_is_found() {
        assert_eq!(
            of(Path::new("/proc/self/status")).unwrap().point,
            Path::new("/proc")
        );
        assert!(of(Path::new("/no/such/path")).is_err());
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }

        #[test]
        fn what_the_kernel_escapes_comes_back(name in "[a-z \t\n\\\\]{0,20}") {
            let escaped: String = name
                .bytes()
                .map(|byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}"),
                    other => char::from(other).to_string(),
                })
                .collect();
            prop_assert_eq!(unescape(escaped.as_bytes()), name.into_bytes());
        }
    }
}
