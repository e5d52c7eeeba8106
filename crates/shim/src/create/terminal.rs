//! A container's terminal, made by its own devpts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::inside::{self, Kind};
use super::mounts::{attach, clone_tree_at};
use super::options::Reach;
use super::process::set_streams;
use crate::config::Process;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS: i64 = 0x1cd1;

/// The device that makes terminals (pts(4)).
const PTMX: (u32, u32) = (5, 2);

/// What programs are told of a terminal of which nobody says more: every terminal understands it.
pub(crate) const TERM: &str = "TERM=xterm";

/// Whether a variable of the environment says what kind of terminal there is.
pub(crate) fn names_terminal(variable: &str) -> bool {
    variable.starts_with("TERM=")
}

/// Both ends of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The shim's.
    pub(crate) master: OwnedFd,
    /// The container's.
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// Opens one in the devpts that is mounted below `root`.
    pub(crate) fn open(root: BorrowedFd<'_>, process: &Process) -> Outcome<Self> {
        let doing = || "open a terminal in the container's /dev/pts";
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let master = rustix::fs::openat2(root, "dev/pts/ptmx", flags, Mode::empty(), resolve)
            .invalid(doing)?;
        // A container that runs may have put something else there.
        let device = rustix::fs::fstat(&master).system(doing)?.st_rdev;
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        if rustix::fs::fstatfs(&master).system(doing)?.f_type != DEVPTS || device != PTMX {
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
        Ok(Self { master, slave })
    }

    /// Shows it as the container's `/dev/console`.
    pub(super) fn show_as_console(&self, root: BorrowedFd<'_>) -> Outcome<()> {
        let doing = || "show the terminal as /dev/console";
        let console = Path::new("/dev/console");
        let place = inside::ensure(root, console, Kind::File).invalid(doing)?;
        let tree = clone_tree_at(self.slave.as_fd(), Reach::One).system(doing)?;
        attach(tree.as_fd(), place.as_fd()).system(doing)
    }
}

/// Makes it the calling process's controlling terminal and standard streams. The process leads a
/// session.
pub(crate) fn take(slave: BorrowedFd<'_>) -> Outcome<()> {
    rustix::process::ioctl_tiocsctty(slave).system(|| "take the terminal")?;
    set_streams([slave; 3])
}
