//! Mount options as config.json spells them (OCI runtime specification, "Linux mount options").

use rustix::mount::MountAttrFlags;

use crate::syscall::MountSetattr;

/// A mount's options, by where they go.
#[derive(Debug, Clone, Default)]
pub(super) struct MountOptions {
    /// Bind mount; with everything that is mounted below the source, or without.
    pub(super) bind: Option<Reach>,
    /// For the mount itself.
    pub(super) attributes: MountSetattr,
    /// For the mount and everything below it.
    pub(super) recursive: MountSetattr,
    /// How mounts made later spread to and from it.
    pub(super) propagation: Option<(u64, Reach)>,
    /// For the file system: `key=value` or `key`.
    pub(super) data: Vec<String>,
}

/// How much of a tree of mounts is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The uppermost only.
    One,
    /// All.
    Recursive,
}

/// A kind of propagation, `private` or `rprivate` and so on, as mount_setattr(2) takes it.
pub(super) fn propagation(option: &str) -> Option<(u64, Reach)> {
    let (name, reach) = match option.strip_prefix('r') {
        Some(name) => (name, Reach::Recursive),
        None => (option, Reach::One),
    };
    let flag = match name {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, reach))
}

impl MountOptions {
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "" | "defaults" | "async" | "loud" | "norelatime" | "nostrictatime" => {}
                "bind" => parsed.bind = Some(Reach::One),
                "rbind" => parsed.bind = Some(Reach::Recursive),
                other => {
                    if let Some(change) = propagation(other) {
                        parsed.propagation = Some(change);
                    } else if attribute(&mut parsed.attributes, other) {
                        // Done.
                    } else if let Some(rest) = other.strip_prefix('r')
                        && attribute(&mut parsed.recursive, rest)
                    {
                        // Done.
                    } else {
                        parsed.data.push(option.clone());
                    }
                }
            }
        }
        parsed
    }

    /// Whether the mount is to be read-only.
    pub(super) fn read_only(&self) -> bool {
        self.attributes
            .set
            .contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }
}

/// Takes an option that is an attribute of the mount; says whether it is one. The last one wins.
fn attribute(change: &mut MountSetattr, option: &str) -> bool {
    use MountAttrFlags as Flags;
    let (flags, set) = match option {
        "ro" => (Flags::MOUNT_ATTR_RDONLY, true),
        "rw" => (Flags::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (Flags::MOUNT_ATTR_NOSUID, true),
        "suid" => (Flags::MOUNT_ATTR_NOSUID, false),
        "nodev" => (Flags::MOUNT_ATTR_NODEV, true),
        "dev" => (Flags::MOUNT_ATTR_NODEV, false),
        "noexec" => (Flags::MOUNT_ATTR_NOEXEC, true),
        "exec" => (Flags::MOUNT_ATTR_NOEXEC, false),
        "nosymfollow" => (Flags::MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (Flags::MOUNT_ATTR_NOSYMFOLLOW, false),
        "nodiratime" => (Flags::MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (Flags::MOUNT_ATTR_NODIRATIME, false),
        // These are values of one field, which is cleared before it is set.
        "relatime" | "atime" => (Flags::MOUNT_ATTR_RELATIME, true),
        "noatime" => (Flags::MOUNT_ATTR_NOATIME, true),
        "strictatime" => (Flags::MOUNT_ATTR_STRICTATIME, true),
        _ => return false,
    };
    if matches!(option, "relatime" | "atime" | "noatime" | "strictatime") {
        change.set.remove(Flags::MOUNT_ATTR__ATIME);
        change.set |= flags;
        change.clear |= Flags::MOUNT_ATTR__ATIME;
    } else if set {
        change.set |= flags;
        change.clear.remove(flags);
    } else {
        change.set.remove(flags);
        // A source that the node has mounted read-only stays so, as with the other runtimes.
        if option != "rw" {
            change.clear |= flags;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_volume() {
        let options = parse(&["rbind", "rslave", "ro", "nosuid"]);
        assert_eq!(options.bind, Some(Reach::Recursive));
        assert_eq!(
            options.propagation,
            Some((libc::MS_SLAVE, Reach::Recursive))
        );
        assert!(options.read_only());
        assert_eq!(
            options.attributes.set,
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID
        );
        assert!(options.recursive.set.is_empty());
        assert!(options.data.is_empty());
    }

    #[test]
    fn recursive_attributes_are_apart() {
        let options = parse(&["rbind", "rro"]);
        assert!(!options.read_only());
        assert_eq!(options.recursive.set, MountAttrFlags::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn relatime_is_not_a_recursive_elatime() {
        let options = parse(&["strictatime", "relatime"]);
        assert_eq!(options.attributes.set, MountAttrFlags::MOUNT_ATTR_RELATIME);
        assert_eq!(options.attributes.clear, MountAttrFlags::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn the_rest_belongs_to_the_file_system() {
        let options = parse(&["mode=1777", "size=64k", "newinstance", "ro", "rw"]);
        assert_eq!(options.data, ["mode=1777", "size=64k", "newinstance"]);
        assert!(!options.read_only());
    }
}
