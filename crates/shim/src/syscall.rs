//! The system calls for which rustix has no safe function. All of the crate's unsafe code is here.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// A process's two sides after [`clone_process`].
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the process that asked.
    Parent {
        /// The new process, as the caller's PID namespace numbers it.
        pid: Pid,
        /// A descriptor for it.
        pidfd: OwnedFd,
    },
    /// In the new process.
    Child,
}

fn result(value: libc::c_long) -> Result<libc::c_long, Errno> {
    if value == -1 {
        Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error))
    } else {
        Ok(value)
    }
}

/// Of netdevice(7), in the type of the field that it goes to.
const IFF_UP: libc::c_short = 1;

/// Of clone3(2); libc has it in a type that it does not fit into.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What a new process is to the one that asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Relation {
    /// A child of it.
    Child,
    /// A child of it in new namespaces.
    ChildIn(UnshareFlags),
    /// Another child of its parent.
    Sibling,
}

/// clone3(2) as fork: the new process has a copy of the memory and of the descriptors. `cgroup` (a
/// directory of cgroup v2) is where it is born.
///
/// Only for the shim, which is a single thread: the child must be able to allocate.
pub(crate) fn clone_process(
    relation: Relation,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is made of integers, for which zero is a value ("not asked for").
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    match relation {
        Relation::Child => arguments.exit_signal = libc::SIGCHLD as u64,
        Relation::ChildIn(namespaces) => {
            arguments.exit_signal = libc::SIGCHLD as u64;
            // Namespaces have the same bits in both calls.
            arguments.flags |= u64::from(namespaces.bits());
        }
        // Its parent is told of its end by the same signal as of the caller's.
        Relation::Sibling => arguments.flags |= libc::CLONE_PARENT as u64,
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::BADF)?;
    }
    // SAFETY: the arguments live across the call; without CLONE_VM and a stack the child goes on
    // on a copy of this one, as after fork.
    let pid = result(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    })?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Ok(Cloned::Child),
        Some(pid) => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// fork(2): none in the new process. Unlike [`clone_process`] it can be done under the seccomp
/// filters that containers have.
///
/// Only for a process of a single thread: the child must be able to allocate.
pub(crate) fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: with a single thread the child finds the memory as it would be here.
    let pid = result(unsafe { libc::fork() }.into())?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Ends the process without running anything that the parent registered.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// execve(2); comes back only with the error.
pub(crate) fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end in a null pointer and point to strings that outlive the call.
    let returned = unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    result(returned.into()).err().unwrap_or(Errno::IO)
}

/// Gives the process a new and empty session keyring in the place of the one that it inherited
/// (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
pub(crate) fn leave_session_keyring() -> Result<(), Errno> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = ptr::null::<libc::c_char>();
    // SAFETY: a null pointer is the call's way to ask for a keyring without a name.
    result(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}

/// unshare(2) of namespaces.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the descriptor table is not among what is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// seccomp(2): has the calling thread's system calls filtered from now on.
pub(crate) fn set_seccomp_filter(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program lives across the call, which copies and does not change it.
    result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
    .map(drop)
}

/// Closes every descriptor but 0, 1, 2 and those of `keep`.
pub(crate) fn close_all_but(keep: &mut [RawFd]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut first: u32 = 3;
    for descriptor in keep
        .iter()
        .filter_map(|descriptor| u32::try_from(*descriptor).ok())
    {
        if descriptor > first {
            close_range(first, descriptor - 1)?;
        }
        first = first.max(descriptor + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: called in a new process that ends in execve or _exit, so that no owner of one of
    // these descriptors is ever dropped or used again.
    result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// What [`mount_setattr`] changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MountSetattr {
    /// Attributes to set.
    pub(crate) set: MountAttrFlags,
    /// Attributes to clear.
    pub(crate) clear: MountAttrFlags,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 for no change.
    pub(crate) propagation: u64,
}

impl Default for MountSetattr {
    fn default() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            propagation: 0,
        }
    }
}

/// mount_setattr(2) on the mount that `mount` is the root of, and with `recursive` on those below.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    change: &MountSetattr,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: change.set.bits().into(),
        attr_clr: change.clear.bits().into(),
        propagation: change.propagation,
        userns_fd: 0,
    };
    set_mount_attributes(mount, recursive, &attributes)
}

/// Maps the ids of a detached mount, not of those below it, by a user namespace: what user 0 owns
/// in the file system belongs to the namespace's user 0 in the mount, and so on (mount_setattr(2),
/// `MOUNT_ATTR_IDMAP`).
pub(crate) fn map_ids(mount: BorrowedFd<'_>, user: BorrowedFd<'_>) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: MountAttrFlags::MOUNT_ATTR_IDMAP.bits().into(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user.as_raw_fd()).map_err(|_| Errno::BADF)?,
    };
    set_mount_attributes(mount, false, &attributes)
}

fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: &libc::mount_attr,
) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure lives across the call, and its size is the one we name.
    result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Sends a signal through a process's descriptor; any number, real-time ones too.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is handed over.
    result(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is handed over.
    result(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into()).map(drop)
}

/// Sends a signal to a process group.
pub(crate) fn kill_group(group: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is handed over.
    result(unsafe { libc::kill(-group.as_raw_nonzero().get(), signal) }.into()).map(drop)
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before anything reads it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Blocks exactly these signals.
pub(crate) fn block_signals(signals: &[i32]) {
    let set = signal_set(signals);
    // SAFETY: the set is initialised; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// A descriptor that becomes readable when one of these signals, which are blocked, has come.
pub(crate) fn signal_descriptor(signals: &[i32]) -> Result<OwnedFd, Errno> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised.
    let descriptor =
        unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    result(descriptor.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Waits for one of these signals, which are blocked.
pub(crate) fn wait_for_signal(signals: &[i32]) -> i32 {
    let set = signal_set(signals);
    // SAFETY: the set is initialised; no information about the signal is asked for.
    unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) }
}

/// Ignores these signals.
pub(crate) fn ignore_signals(signals: &[i32]) {
    for signal in signals {
        // SAFETY: SIG_IGN is not a function that could do harm.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Gives every signal its default disposition and unblocks all, as a new program expects it.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is not a function that could do harm. Signals that cannot be changed
        // are refused, which is as good.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    block_signals(&[]);
}

/// Brings the loopback interface of the current network namespace up.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a request is an int for musl, into which these fit"
)]
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: ifreq is made of integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both calls read and write an ifreq, which lives across them; SIOCGIFFLAGS fills in
    // the union's member that we then read.
    unsafe {
        let (get, set) = (libc::SIOCGIFFLAGS as _, libc::SIOCSIFFLAGS as _);
        result(libc::ioctl(socket.as_raw_fd(), get, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= IFF_UP;
        result(libc::ioctl(socket.as_raw_fd(), set, &raw const request).into()).map(drop)
    }
}

/// Gives free memory at the heap's end back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: always allowed.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has tokio watch a socket.
#[cfg(feature = "client")]
pub(crate) fn watch(socket: OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one descriptor for as long as it lives, and is closed only when it is
    // dropped, which is after the registration.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(socket) }?)
}
