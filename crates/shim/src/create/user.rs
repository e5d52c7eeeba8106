//! The user namespace that a container joins.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::thread::LinkNameSpaceType;

use crate::config::{IdMapping, NamespaceKind, Spec};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::user::become_root;

/// A user namespace, opened while the node's root could still do so.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    descriptor: OwnedFd,
    /// Its root, as the node numbers it.
    root: (Uid, Gid),
}

impl UserNamespace {
    /// The one that the specification names; none where the container's users are the node's.
    pub(crate) fn of(spec: &Spec) -> Outcome<Option<Self>> {
        let found = spec
            .linux
            .namespaces
            .iter()
            .find(|namespace| namespace.kind == NamespaceKind::User);
        let Some(namespace) = found else {
            return Ok(None);
        };
        let path = namespace.path.as_ref().ok_or_else(|| {
            Failure::invalid("a container joins its pod's user namespace; it has none of its own")
        })?;
        let root = |mappings: &[IdMapping], field: &str| {
            let found = mappings.iter().find(|mapping| mapping.container == 0);
            found.map(|mapping| mapping.host).ok_or_else(|| {
                Failure::invalid(format!("{field} of config.json does not map number 0"))
            })
        };
        let root = (
            Uid::from_raw(root(&spec.linux.uid_mappings, "linux.uidMappings")?),
            Gid::from_raw(root(&spec.linux.gid_mappings, "linux.gidMappings")?),
        );
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .system(|| format!("open the user namespace {}", path.display()))?;
        Ok(Some(Self { descriptor, root }))
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Gives the standard streams to its root: what belongs to somebody who does not exist in the
    /// namespace, nobody in there can pass on.
    pub(crate) fn own_streams(&self) {
        for stream in [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ] {
            let kind = rustix::fs::fstat(stream).map(|it| FileType::from_raw_mode(it.st_mode));
            if matches!(kind, Ok(FileType::Fifo | FileType::Socket)) {
                let (uid, gid) = self.root;
                // They work as they are; only opening /dev/stdout anew would not.
                let _ = rustix::fs::fchown(stream, Some(uid), Some(gid));
            }
        }
    }

    /// Whether what belongs to number 0 in a mount belongs to its root already, by an earlier
    /// mapping.
    pub(crate) fn maps(&self, mount: BorrowedFd<'_>) -> bool {
        rustix::fs::fstat(mount).is_ok_and(|found| Uid::from_raw(found.st_uid) == self.root.0)
    }

    /// Has the calling process join it, as its root.
    pub(crate) fn join(&self) -> Outcome<()> {
        let kind = Some(LinkNameSpaceType::User);
        rustix::thread::move_into_link_name_space(self.descriptor.as_fd(), kind)
            .system(|| "join the pod's user namespace")?;
        become_root()
    }
}
