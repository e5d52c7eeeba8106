//! From a process of the shim to the process that was asked for: limits, user, environment, working
//! directory.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::capabilities::Wanted;
use super::command::{Command, Identity, command, open};
use super::confinement;
use super::seccomp::{Armed, Filter};
use crate::config::{Process, ResourceLimit};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall;

/// How much of `/etc/passwd` is read, in bytes.
const MAX_PASSWD: u64 = 1 << 20;

/// Cuts the calling process off from the shim it was cloned from: containers' processes can
/// neither trace it nor look at its memory and files, and signals are as a program expects them.
pub(crate) fn detach() -> Outcome<()> {
    hide()?;
    syscall::reset_signals();
    // The daemon's keys are none of the container's business (keyrings(7)).
    match syscall::leave_session_keyring() {
        Err(Errno::NOSYS) => {}
        other => other.system(|| "leave the daemon's session keyring")?,
    }
    rustix::process::setsid().map(drop).system(|| "setsid")
}

fn hide() -> Outcome<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .system(|| "make the process undumpable")
}

/// Sets how readily the kernel kills the process for want of memory. Without an own value it is
/// the one that the shim was started with. Where the kernel refuses a value that low (it takes
/// `CAP_SYS_RESOURCE`), the lowest permitted one is what the shim was started with.
pub(crate) fn set_oom_score(process: &Process, inherited: i32) -> Outcome<()> {
    let wanted = process.oom_score_adj.unwrap_or(inherited);
    match write_oom_score(wanted) {
        Err(_) if wanted < inherited => write_oom_score(inherited),
        other => other,
    }
    .system(|| format!("set oom_score_adj to {wanted}"))
}

/// Sets the calling process's oom_score_adj.
pub(crate) fn write_oom_score(value: i32) -> std::io::Result<()> {
    fs::write("/proc/self/oom_score_adj", value.to_string())
}

/// Refuses what this version would have to leave undone.
pub(crate) fn refuse_unsupported(process: &Process) -> Outcome<()> {
    let unsupported = [
        ("process.ioPriority", process.io_priority.is_some()),
        ("process.scheduler", process.scheduler.is_some()),
        (
            "process.execCPUAffinity",
            process.exec_cpu_affinity.is_some(),
        ),
    ];
    refuse(&unsupported)
}

/// Refuses each of these that is there.
pub(crate) fn refuse(unsupported: &[(&str, bool)]) -> Outcome<()> {
    match unsupported.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(Failure::invalid(format!(
            "{name} is not carried out by the built-in runtime: leave it out, or give the pod a \
             runtime_handler whose runtime does"
        ))),
        None => Ok(()),
    }
}

/// Turns the calling process, which is in the container's namespaces and root directory with its
/// streams in place, into the one asked for, up to execve(2).
pub(crate) fn assume(
    process: &Process,
    shim: Identity,
    filter: Option<Filter>,
) -> Outcome<Command> {
    let environment = environment(process);
    limit(process)?;
    let user = &process.user;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    own_streams(uid);
    let capabilities = Wanted::new(&process.capabilities)?;
    capabilities.bound()?;
    // Root can go where the user cannot, and the other way round on a network file system.
    let gone = change_directory(&process.cwd);
    assume_user(uid, gid, &user.additional_gids)?;
    if gone.is_err() {
        change_directory(&process.cwd)?;
    }
    let filter = match filter {
        None => {
            capabilities.assume()?;
            Armed::Unfiltered
        }
        Some(filter) if process.no_new_privileges => {
            capabilities.assume()?;
            Armed::WithoutNewPrivileges(filter)
        }
        Some(filter) => {
            capabilities.assume_for_now(CapabilitySet::SYS_ADMIN)?;
            Armed::AsAdministrator(filter, capabilities.sets())
        }
    };
    hide()?;
    confinement::on_execution(process)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).system(|| "set no_new_privs")?;
    }
    rustix::process::umask(Mode::from_raw_mode(user.umask.unwrap_or(0o022)));
    command(process, &environment, shim, filter)
}

/// Sets the process's resource limits.
pub(crate) fn limit(process: &Process) -> Outcome<()> {
    process.rlimits.iter().try_for_each(set_rlimit)
}

fn environment(process: &Process) -> Vec<String> {
    let mut environment = process.env.clone();
    if !environment
        .iter()
        .any(|variable| variable.starts_with("HOME="))
    {
        let home = home(process.user.uid).unwrap_or_else(|| "/".to_owned());
        environment.push(format!("HOME={home}"));
    }
    environment
}

/// The home directory of a user, from the container's `/etc/passwd`.
fn home(uid: u32) -> Option<String> {
    // The image decides what lies there: a pipe must not make us wait.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open("/etc/passwd")
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_PASSWD).read_to_string(&mut text).ok()?;
    home_in(&text, uid).map(str::to_owned)
}

fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse() == Ok(uid);
        fields.nth(2).filter(|home| found && !home.is_empty())
    })
}

fn set_rlimit(limit: &ResourceLimit) -> Outcome<()> {
    let resource = resource(&limit.name)
        .ok_or_else(|| Failure::invalid(format!("{:?} is not a resource limit", limit.name)))?;
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    let wanted = Rlimit {
        current: finite(limit.soft),
        maximum: finite(limit.hard),
    };
    match rustix::process::setrlimit(resource, wanted) {
        Err(Errno::PERM) => {
            // Raising a hard limit takes CAP_SYS_RESOURCE: as high as it goes, then.
            let maximum = rustix::process::getrlimit(resource).maximum;
            let current = lower(wanted.current, maximum);
            rustix::process::setrlimit(resource, Rlimit { current, maximum })
        }
        other => other,
    }
    .invalid(|| {
        format!(
            "set {} to {} (at most {})",
            limit.name, limit.soft, limit.hard
        )
    })
}

/// The lower of two limits, of which none means infinity.
fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        _ => return None,
    })
}

/// Gives the streams to the user, so that `/dev/stdout` can be opened anew.
fn own_streams(uid: Uid) {
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(found) = rustix::fs::fstat(stream) else {
            continue;
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        let terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(stream);
        if terminal || matches!(kind, FileType::Fifo | FileType::Socket) {
            // A file system that cannot do it leaves things as they are.
            let _ = rustix::fs::fchown(stream, Some(uid), None);
        }
    }
}

/// Goes to the working directory, which must be in the container: neither through a link of /proc
/// nor by being outside of the root directory may it lead to the node (CVE-2024-21626).
fn change_directory(path: &Path) -> Outcome<()> {
    let doing = || format!("change to the working directory {}", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(path, flags).invalid(doing)?;
    rustix::process::fchdir(&opened).invalid(doing)?;
    let found = rustix::process::getcwd(Vec::new()).invalid(doing)?;
    if found.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "{}: it is not inside the container",
            doing()
        )))
    }
}

fn assume_user(uid: Uid, gid: Gid, additional: &[u32]) -> Outcome<()> {
    let doing = || format!("become user {}, group {}", uid.as_raw(), gid.as_raw());
    let groups: Vec<Gid> = additional.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_keep_capabilities(true).system(doing)?;
    rustix::thread::set_thread_groups(&groups).system(doing)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).system(doing)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).system(doing)?;
    rustix::thread::set_keep_capabilities(false).system(doing)
}

/// Makes three descriptors the standard streams.
pub(crate) fn set_streams(streams: [BorrowedFd<'_>; 3]) -> Outcome<()> {
    let [input, output, error] = streams.map(|stream| rustix::io::fcntl_dupfd_cloexec(stream, 3));
    let doing = || "set the standard streams";
    // By way of copies: one of them may lie where another one goes.
    let (input, output, error) = (
        input.system(doing)?,
        output.system(doing)?,
        error.system(doing)?,
    );
    rustix::stdio::dup2_stdin(input.as_fd()).system(doing)?;
    rustix::stdio::dup2_stdout(output.as_fd()).system(doing)?;
    rustix::stdio::dup2_stderr(error.as_fd()).system(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1000::/home/user:\nx:x:7:7\n";
        assert_eq!(home_in(passwd, 0), Some("/root"));
        assert_eq!(home_in(passwd, 1000), Some("/home/user"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 8), None);
    }

    #[test]
    fn limits() {
        assert_eq!(lower(None, Some(3)), Some(3));
        assert_eq!(lower(Some(5), Some(3)), Some(3));
        assert_eq!(lower(Some(5), None), Some(5));
        assert_eq!(lower(None, None), None);
    }
}
