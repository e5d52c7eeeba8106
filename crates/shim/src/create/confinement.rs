//! What security modules let the container's command do: AppArmor's profile (apparmor(7)) and
//! SELinux's label (selinux(8)), which the process takes on as it executes the command.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::config::Process;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC: u32 = 0x9fa0;

/// The inode of the root of every procfs.
const PROC_ROOT: u64 = 1;

/// The file of the first security module that takes profiles, as AppArmor was once.
const ANY_MODULE: &str = "thread-self/attr/exec";

/// AppArmor's own file, where several modules can be there (Linux 5.8).
const APPARMOR: &str = "thread-self/attr/apparmor/exec";

/// Has the kernel confine what the calling process executes next. It is in the container's root
/// directory, with its `/proc`.
pub(super) fn on_execution(process: &Process) -> Outcome<()> {
    let (profile, label) = (&process.apparmor_profile, &process.selinux_label);
    if !profile.is_empty() {
        let written = match write(APPARMOR, &format!("exec {profile}")) {
            Err(Errno::NOENT) => write(ANY_MODULE, &format!("exec {profile}")),
            other => other,
        };
        written.map_err(|error| {
            let reason = match error {
                Errno::NOENT => "no such profile is loaded".to_owned(),
                Errno::INVAL => "the kernel's security module is another one".to_owned(),
                other => other.to_string(),
            };
            Failure::invalid(format!("apply the AppArmor profile {profile:?}: {reason}"))
        })?;
    }
    if !label.is_empty() {
        write(ANY_MODULE, label).invalid(|| format!("apply the SELinux label {label:?}"))?;
    }
    Ok(())
}

/// Writes to a file of the process's own. An image or a volume may have put something in the place
/// of `/proc`, or over a part of it, which would make a process that is not confined
/// (CVE-2019-16884).
fn write(path: &str, text: &str) -> Result<(), Errno> {
    let file = open(path)?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

fn open(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::openat(CWD, "/proc", flags, Mode::empty())?;
    let file_system = u32::try_from(rustix::fs::fstatfs(&proc)?.f_type).unwrap_or_default();
    if file_system != PROC || rustix::fs::fstat(&proc)?.st_ino != PROC_ROOT {
        return Err(Errno::XDEV);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat2(&proc, path, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_files_are_written() {
        // The file can be opened wherever the kernel has security modules at all.
        match open(ANY_MODULE) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(
            open("thread-self/root/etc/passwd").unwrap_err(),
            Errno::LOOP
        );
        assert_eq!(open("../etc/passwd").unwrap_err(), Errno::XDEV);
    }
}
