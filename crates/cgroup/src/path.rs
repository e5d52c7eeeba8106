//! Where a cgroup is, counted from the mount point of its hierarchy.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::systemd;

/// The longest file name of Linux (`NAME_MAX` in limits.h), in bytes.
const NAME_MAX: usize = 255;
/// The longest path accepted, in bytes: what `PATH_MAX` leaves beside a mount point and a file name.
const PATH_MAX: usize = 3072;

/// An absolute, normalised path such as `/kubepods/besteffort/pod<uid>/<container id>`: it starts
/// with a slash, does not end with one unless it is the root, and has no empty, `.` or `..` part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

/// What is wrong with a cgroup path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path is empty.
    #[error("the cgroup path is empty; give an absolute one, such as /kubepods")]
    Empty,
    /// The path belongs to the systemd cgroup driver.
    #[error(
        "the cgroup path {0:?} is a slice of systemd, and this node uses the cgroupfs driver, whose \
         paths look like /kubepods/burstable/pod1; set runtime.cgroup_driver = \"systemd\", or \
         cgroupDriver: cgroupfs in the kubelet's configuration"
    )]
    SystemdSlice(String),
    /// The path belongs to the cgroupfs driver, or is not the name of a slice.
    #[error(
        "the cgroup path {0:?} is not the name of a slice, such as kubepods-burstable-pod1.slice, \
         which the systemd cgroup driver of this node takes; set runtime.cgroup_driver = \
         \"cgroupfs\", or cgroupDriver: systemd in the kubelet's configuration"
    )]
    NoSlice(String),
    /// The path does not begin with a slash.
    #[error("the cgroup path {0:?} is relative; give an absolute one, such as /kubepods")]
    Relative(String),
    /// A part of the path would lead elsewhere.
    #[error("the cgroup path {path:?} has the part {part:?}, which a cgroup path must not have")]
    Dots {
        /// The path that was given.
        path: String,
        /// `.` or `..`.
        part: String,
    },
    /// A part has a character that the kernel refuses, or that would garble `/proc/<pid>/cgroup`.
    #[error("the cgroup path {0:?} has a control character in it")]
    ControlCharacter(String),
    /// A part, or the whole, is longer than the kernel takes.
    #[error("the cgroup path {path:?} is too long: {length} bytes where {limit} are the most")]
    TooLong {
        /// The part or path that is too long.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// The most that is accepted.
        limit: usize,
    },
}

impl CgroupPath {
    /// Reads a path, removing doubled and trailing slashes.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if !path.starts_with('/') {
            return Err(if systemd::is_slice(path) {
                PathError::SystemdSlice(path.to_owned())
            } else {
                PathError::Relative(path.to_owned())
            });
        }
        let mut root = Self::root();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            root.push(part, path)?;
        }
        Ok(root)
    }

    /// The mount point of the hierarchy itself.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path of the child `name`, which is one part: a slash in it is an error.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        if name.is_empty() {
            return Err(PathError::Empty);
        }
        if name.contains('/') {
            return Err(PathError::Relative(name.to_owned()));
        }
        let mut child = self.clone();
        child.push(name, name)?;
        Ok(child)
    }

    /// The path without its last part; none for the root.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/').filter(|_| !self.is_root())?;
        Some(if parent.is_empty() {
            Self::root()
        } else {
            Self(parent.to_owned())
        })
    }

    /// Whether this is the mount point of the hierarchy.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The path as text, which [`CgroupPath::parse`] reads back unchanged.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every path on the way down to this one, itself included, the root excluded.
    pub(crate) fn lineage(&self) -> Vec<Self> {
        let mut lineage: Vec<_> = std::iter::successors(Some(self.clone()), Self::parent)
            .filter(|p| !p.is_root())
            .collect();
        lineage.reverse();
        lineage
    }

    /// The directory of this cgroup below `mount_point`.
    pub(crate) fn below(&self, mount_point: &Path) -> PathBuf {
        mount_point.join(&self.0[1..])
    }

    fn push(&mut self, part: &str, whole: &str) -> Result<(), PathError> {
        if part == "." || part == ".." {
            return Err(PathError::Dots {
                path: whole.to_owned(),
                part: part.to_owned(),
            });
        }
        if part.chars().any(char::is_control) {
            return Err(PathError::ControlCharacter(whole.to_owned()));
        }
        if part.len() > NAME_MAX {
            return Err(too_long(part, NAME_MAX));
        }
        if !self.is_root() {
            self.0.push('/');
        }
        self.0.push_str(part);
        if self.0.len() > PATH_MAX {
            return Err(too_long(whole, PATH_MAX));
        }
        Ok(())
    }
}

fn too_long(path: &str, limit: usize) -> PathError {
    PathError::TooLong {
        path: path.to_owned(),
        length: path.len(),
        limit,
    }
}

impl FromStr for CgroupPath {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        Self::parse(path)
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_normalised() {
        for (given, read) in [
            ("/", "/"),
            ("//", "/"),
            ("/kubepods", "/kubepods"),
            ("//kubepods//besteffort/", "/kubepods/besteffort"),
            (
                "/kubepods.slice/kubepods-pod1.slice",
                "/kubepods.slice/kubepods-pod1.slice",
            ),
            ("/a/...", "/a/..."),
        ] {
            assert_eq!(CgroupPath::parse(given).unwrap().as_str(), read);
        }
    }

    #[test]
    fn a_bad_path_is_named() {
        assert_eq!(CgroupPath::parse(""), Err(PathError::Empty));
        assert_eq!(
            CgroupPath::parse("kubepods/a"),
            Err(PathError::Relative("kubepods/a".into()))
        );
        for slice in ["kubepods-besteffort.slice", "kubepods.slice:cri:abc"] {
            assert_eq!(
                CgroupPath::parse(slice),
                Err(PathError::SystemdSlice(slice.into()))
            );
        }
        for dots in ["/a/../b", "/..", "/./a"] {
            assert!(
                matches!(CgroupPath::parse(dots), Err(PathError::Dots { .. })),
                "{dots}"
            );
        }
        for control in ["/a\nb", "/a\0b"] {
            assert!(matches!(
                CgroupPath::parse(control),
                Err(PathError::ControlCharacter(_))
            ));
        }
        let part = format!("/{}", "x".repeat(256));
        assert!(matches!(
            CgroupPath::parse(&part),
            Err(PathError::TooLong { limit: 255, .. })
        ));
        let whole = "/abcdefgh".repeat(400);
        assert!(matches!(
            CgroupPath::parse(&whole),
            Err(PathError::TooLong { limit: 3072, .. })
        ));
    }

    #[test]
    fn a_child_is_one_part() {
        let pods = CgroupPath::parse("/kubepods").unwrap();
        assert_eq!(pods.join("pod1").unwrap().as_str(), "/kubepods/pod1");
        assert_eq!(CgroupPath::root().join("pod1").unwrap().as_str(), "/pod1");
        for bad in ["", "a/b", "..", "/"] {
            assert!(pods.join(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_absolute_and_normal(text in "[/.a-c:\\n]{0,24}") {
            if let Ok(path) = CgroupPath::parse(&text) {
                let text = path.as_str();
                prop_assert!(text.starts_with('/'));
                prop_assert!(path.is_root() || !text.ends_with('/'));
                prop_assert!(path.is_root() || text[1..].split('/').all(|p| !["", ".", ".."].contains(&p)));
                prop_assert_eq!(&CgroupPath::parse(text).unwrap(), &path);
                prop_assert!(path.below(Path::new("/sys/fs/cgroup")).starts_with("/sys/fs/cgroup"));
            }
        }

        #[test]
        fn the_lineage_leads_down_to_the_path(parts in prop::collection::vec("[a-z]{1,8}", 0..6)) {
            let path = CgroupPath::parse(&format!("/{}", parts.join("/"))).unwrap();
            let lineage = path.lineage();
            prop_assert_eq!(lineage.len(), parts.len());
            prop_assert_eq!(lineage.last().cloned().unwrap_or_else(CgroupPath::root), path);
            for pair in lineage.windows(2) {
                prop_assert_eq!(pair[1].parent().unwrap(), pair[0].clone());
            }
        }
    }
}
