//! A container's terminal, made by its own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::inside::{self, Kind};
use super::mounts::{attach, clone_tree_at};
use super::options::Reach;
use crate::config::Process;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS: i64 = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The shim's.
    pub(super) master: OwnedFd,
    /// The container's.
    pub(super) slave: OwnedFd,
}

impl Terminal {
    /// Opens one in the devpts that is mounted below `root`, and shows it as `/dev/console`.
    pub(super) fn open(root: BorrowedFd<'_>, process: &Process) -> Outcome<Self> {
        let doing = || "open a terminal in the container's /dev/pts";
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let master = rustix::fs::openat2(root, "dev/pts/ptmx", flags, Mode::empty(), resolve)
            .invalid(doing)?;
        if rustix::fs::fstatfs(&master).system(doing)?.f_type != DEVPTS {
            return Err(Failure::invalid(
                "process.terminal needs a devpts mounted on /dev/pts",
            ));
        }
        rustix::pty::unlockpt(&master).system(doing)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).system(doing)?;
        if let Some(size) = process.console_size {
            let (ws_row, ws_col) = (size.height, size.width);
            let size = Winsize {
                ws_row,
                ws_col,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&slave, size).system(doing)?;
        }
        let console = Path::new("/dev/console");
        let place = inside::ensure(root, console, Kind::File).invalid(doing)?;
        let tree = clone_tree_at(slave.as_fd(), Reach::One).system(doing)?;
        attach(tree.as_fd(), place.as_fd()).system(doing)?;
        Ok(Self { master, slave })
    }
}
