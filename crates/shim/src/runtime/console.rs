//! The socket on which a runtime hands a terminal over (`--console-socket`).

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// A listening socket in a bundle. Its name goes with it.
#[derive(Debug)]
pub(super) struct Console {
    socket: OwnedFd,
    path: PathBuf,
    name: String,
}

impl Drop for Console {
    fn drop(&mut self) {
        // The bundle is removed in the end.
        let _ = fs::remove_file(&self.path);
    }
}

impl Console {
    /// Listens in `bundle`.
    pub(super) fn listen(bundle: &Path, number: u64) -> Outcome<Self> {
        let name = format!("console-{number}.sock");
        let path = bundle.join(&name);
        let doing = || format!("listen on {}", path.display());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .system(doing)?;
        // A socket's address holds 108 bytes; by the directory's descriptor it is always short.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(bundle, flags, Mode::empty()).system(doing)?;
        let address = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let address = SocketAddrUnix::new(address).system(doing)?;
        rustix::net::bind(&socket, &address).system(doing)?;
        let console = Self {
            socket,
            path: path.clone(),
            name,
        };
        rustix::net::listen(&console.socket, 1).system(doing)?;
        Ok(console)
    }

    /// The socket's name in the bundle, which is the runtime's working directory.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The terminal that a runtime, which has ended by now, has handed over.
    pub(super) fn take(self) -> Outcome<OwnedFd> {
        let doing = || "take the terminal from the runtime";
        let connection =
            rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
                .system(doing)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // The runtime sends the terminal's name along.
        let mut bytes = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut slices = [IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&connection, &mut slices, &mut control, flags).system(doing)?;
        let mut received = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        received
            .next()
            .ok_or_else(|| Failure::system("the runtime has sent no terminal"))
    }
}
