//! A pod's user namespace.
//!
//! A namespace belongs to the user namespace of the process that makes it. The shim stays the
//! node's root, so a process of its own, the founder, is cloned into a new user namespace and, with
//! that, into the namespaces that belong to it. The shim gives it its ids, pins and joins what it
//! has made, and sends it away, or lets it become the init of the pod's PID namespace.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::failure::{Explain, Outcome};
use crate::packet::send_packet;
use crate::protocol::{Failure, IdMapping, Pod, UserMappings};
use crate::supervisor::sync_pair;
use crate::syscall::{self, Cloned, Relation};

/// What the shim sends to a founder that is to stay as the pod's init.
const STAY: &[u8] = b"stay";

/// The longest thing that the two say to each other, in bytes: why something was not done.
const LONGEST_PACKET: usize = 8 * 1024;

/// The process that is first in a user namespace. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Founder {
    pid: Pid,
    socket: OwnedFd,
    /// Whether it has become somebody else's to end.
    stays: bool,
}

impl Drop for Founder {
    fn drop(&mut self) {
        if !self.stays {
            // It is a child of ours that nobody has reaped.
            let _ = syscall::kill(self.pid, libc::SIGKILL);
        }
    }
}

impl Founder {
    /// Makes the namespaces, and has the calling process join those for network, IPC and host
    /// name. `furnish` runs as root of the new user namespace, and `init` in the process that
    /// [stays](Self::stay).
    pub(crate) fn found(
        pod: &Pod,
        mappings: &UserMappings,
        furnish: impl FnOnce() -> Outcome<()>,
        init: fn() -> !,
    ) -> Outcome<Self> {
        let mut namespaces = UnshareFlags::NEWUSER
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS;
        namespaces.set(UnshareFlags::NEWPID, pod.shared_pid);
        let (socket, of_founder) = sync_pair()?;
        match syscall::clone_process(Relation::ChildIn(namespaces), None) {
            Ok(Cloned::Child) => {
                drop(socket);
                run(of_founder.as_fd(), furnish, init)
            }
            Ok(Cloned::Parent { pid, .. }) => {
                drop(of_founder);
                let founder = Self {
                    pid,
                    socket,
                    stays: false,
                };
                founder.settle(mappings)?;
                Ok(founder)
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Gives the namespace its ids, waits until it is furnished, and joins what belongs to it.
    fn settle(&self, mappings: &UserMappings) -> Outcome<()> {
        for (file, mappings) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
            let path = self.path(file);
            fs::write(&path, lines(mappings)).system(|| {
                format!(
                    "map the ids of the pod's user namespace ({file}: {})",
                    lines(mappings).trim_end().replace('\n', ", ")
                )
            })?;
        }
        let doing = || "furnish the pod's user namespace";
        send_packet(self.socket.as_fd(), b"go", &[]).system(doing)?;
        let answer = receive(self.socket.as_fd()).ok_or_else(|| {
            Failure::system("the first process of the pod's user namespace has ended unasked")
        })?;
        postcard::from_bytes::<Outcome<()>>(&answer).system(doing)??;
        for (name, kind) in [
            ("net", LinkNameSpaceType::Network),
            ("ipc", LinkNameSpaceType::InterProcessCommunication),
            ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ] {
            let path = self.namespace(name);
            let doing = || format!("join {}", path.display());
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty()).system(doing)?;
            rustix::thread::move_into_link_name_space(opened.as_fd(), Some(kind)).system(doing)?;
        }
        Ok(())
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid.as_raw_nonzero()))
    }

    /// The path of one of the namespaces that it is in, for as long as it runs.
    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        self.path(&format!("ns/{name}"))
    }

    /// Lets it become the init of the PID namespace that it was made in.
    pub(crate) fn stay(mut self) -> Outcome<Pid> {
        send_packet(self.socket.as_fd(), STAY, &[])
            .system(|| "start the init of the pod's PID namespace")?;
        self.stays = true;
        Ok(self.pid)
    }
}

pub(crate) fn refused(error: Errno) -> Failure {
    let doing = "make the pod's user namespace";
    match error {
        Errno::NOSPC | Errno::USERS => Failure::unsupported(format!(
            "{doing}: {error}: the node has as many as it may have; raise the sysctl \
             user.max_user_namespaces (or whichever of user.max_*_namespaces is that low)"
        )),
        Errno::INVAL | Errno::PERM => Failure::unsupported(format!(
            "{doing}: {error}: the node's kernel does not have them, or does not allow them here"
        )),
        other => Failure::system(format!("{doing}: {other}")),
    }
}

/// Waits for a packet; none when the other side has let go.
fn receive(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; LONGEST_PACKET];
    let (_, length) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()).ok()?;
    buffer.truncate(length);
    Some(buffer).filter(|packet| !packet.is_empty())
}

fn lines(mappings: &[IdMapping]) -> String {
    use std::fmt::Write as _;
    mappings.iter().fold(String::new(), |mut text, mapping| {
        // A string takes everything.
        let _ = writeln!(
            text,
            "{} {} {}",
            mapping.container, mapping.host, mapping.length
        );
        text
    })
}

fn run(socket: BorrowedFd<'_>, furnish: impl FnOnce() -> Outcome<()>, init: fn() -> !) -> ! {
    // The shim may let go of it instead.
    let told = || receive(socket).is_some();
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if !told() {
        syscall::exit(1);
    }
    let furnished = become_root().and_then(|()| furnish());
    let answer = postcard::to_stdvec(&furnished).unwrap_or_default();
    if send_packet(socket, &answer, &[]).is_err() || !told() {
        syscall::exit(0);
    }
    init()
}

/// Makes the calling process root of the user namespace that it has just come into: until then it is
/// nobody there.
pub(crate) fn become_root() -> Outcome<()> {
    let doing = || "become root of the user namespace";
    rustix::thread::set_thread_groups(&[]).system(doing)?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).system(doing)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).system(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_a_line_for_each_range() {
        let range = |container, host, length| IdMapping {
            container,
            host,
            length,
        };
        assert_eq!(
            lines(&[range(0, 100_000, 65536), range(65536, 300_000, 1)]),
            "0 100000 65536\n65536 300000 1\n"
        );
    }
}
