//! The init of a PID namespace that a pod's containers share.
//!
//! Containers see it, and one with `SYS_PTRACE` can look into it and have it do what it can do. So
//! it has no capabilities, an empty root directory and no mounts.

use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::UnshareFlags;

use crate::create::{give_up_capabilities, leave_root};
use crate::failure::{Explain, Outcome};
use crate::pod::{open_null, stdio_to};
use crate::syscall::{self, Cloned, Relation};

/// Starts the first process of a new PID namespace. It reaps what is orphaned there, ends on
/// `SIGTERM`, and does not outlive the shim.
pub(crate) fn start() -> Outcome<Pid> {
    match syscall::clone_process(Relation::ChildIn(UnshareFlags::NEWPID), None)
        .system(|| "clone")?
    {
        Cloned::Parent { pid, .. } => Ok(pid),
        Cloned::Child => run(),
    }
}

/// What it is from beginning to end.
pub(crate) fn run() -> ! {
    const SIGNALS: [i32; 2] = [libc::SIGCHLD, libc::SIGTERM];
    syscall::block_signals(&SIGNALS);
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::thread::set_name(c"slipway-init");
    if give_up().is_err() {
        syscall::exit(1);
    }
    while syscall::wait_for_signal(&SIGNALS) != libc::SIGTERM {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
    syscall::exit(0)
}

/// Lets go of everything that it has from the shim.
fn give_up() -> Outcome<()> {
    let null = open_null().system(|| "open /dev/null")?;
    stdio_to(&null).system(|| "let go of the standard streams")?;
    drop(null);
    syscall::close_all_but(&mut []).system(|| "close descriptors")?;
    leave_root()?;
    give_up_capabilities()
}
