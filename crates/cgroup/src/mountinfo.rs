//! The cgroup file systems in `/proc/self/mountinfo` (proc(5)).

use std::path::PathBuf;

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupMount {
    /// Which directory of the hierarchy is mounted: `/`, or a cgroup that was bound.
    pub(crate) root: String,
    /// Where it is.
    pub(crate) mount_point: PathBuf,
    /// Whether the mount or its file system is read-only.
    pub(crate) read_only: bool,
    /// What kind it is.
    pub(crate) kind: Kind,
}

/// The two interfaces of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `cgroup`, with the file system's own options, among them its controllers.
    V1(Vec<String>),
    /// `cgroup2`.
    V2,
}

/// The cgroup mounts in the text of a mountinfo file, in its order. Lines of other file systems and
/// lines that proc(5) does not describe are passed over.
pub(crate) fn parse(mountinfo: &str) -> Vec<CgroupMount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<CgroupMount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, mount_point, options) = (mount.next()?, mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let kind = file_system.next()?;
    let super_options = file_system.nth(1)?;
    let kind = match kind {
        "cgroup" => Kind::V1(super_options.split(',').map(str::to_owned).collect()),
        "cgroup2" => Kind::V2,
        _ => return None,
    };
    let read_only = [options, super_options]
        .iter()
        .any(|o| o.split(',').any(|o| o == "ro"));
    let mount_point = unescape(mount_point).into();
    Some(CgroupMount {
        root: unescape(root),
        mount_point,
        read_only,
        kind,
    })
}

/// Undoes the octal escapes of mountinfo: `\040` for a blank and the like.
fn unescape(field: &str) -> String {
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.as_bytes();
    while let [first, rest @ ..] = bytes {
        let octal = rest.get(..3).filter(|_| *first == b'\\').and_then(octal);
        text.push(octal.unwrap_or(*first));
        bytes = octal.map_or(rest, |_| &rest[3..]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read() {
        let text = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 /a\\040b /run/with\\040blank\\134 ro,nosuid - cgroup2 cgroup2 rw,nsdelegate
broken
";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[0].mount_point,
            Path::new("/sys/fs/cgroup/cpu,cpuacct")
        );
        assert!(matches!(&mounts[0].kind, Kind::V1(o) if o == &["rw", "cpu", "cpuacct"]));
        assert!(!mounts[0].read_only);
        assert_eq!(mounts[1].root, "/a b");
        assert_eq!(mounts[1].mount_point, Path::new("/run/with blank\\"));
        assert!(mounts[1].read_only && mounts[1].kind == Kind::V2);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~\\n]{0,200}") {
            parse(&text);
        }

        #[test]
        fn escaped_mount_points_are_read_back(name in "/[ -~éß\\t\\n]{0,20}") {
            let escaped: String = name.chars().map(|c| match c {
                ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
                other => other.to_string(),
            }).collect();
            let line = format!("41 31 0:38 / {escaped} rw - cgroup2 cgroup2 rw");
            let mounts = parse(&line);
            prop_assert_eq!(mounts[0].mount_point.as_path(), Path::new(&name));
        }
    }
}
