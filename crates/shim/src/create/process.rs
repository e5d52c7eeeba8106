//! From a process of the shim to the process that was asked for: limits, identity, capabilities,
//! environment, working directory, command.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::config::{Capabilities, Process, ResourceLimit};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall;

/// Where commands are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of `/etc/passwd` is read, in bytes.
const MAX_PASSWD: u64 = 1 << 20;

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The shim's own executable, which no container may run.
    pub(crate) fn of_shim() -> Outcome<Self> {
        let metadata = fs::metadata("/proc/self/exe").system(|| "look at /proc/self/exe")?;
        Ok(Self {
            device: metadata.st_dev(),
            inode: metadata.st_ino(),
        })
    }
}

/// What execve(2) is to be given.
#[derive(Debug)]
pub(crate) struct Command {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    /// Executes it; comes back only with the reason why not.
    pub(crate) fn execute(&self) -> Failure {
        let error = syscall::execute(&self.path, &self.arguments, &self.environment);
        let message = format!("execute {}: {error}", self.path.to_string_lossy());
        match error {
            Errno::NOENT | Errno::ACCESS | Errno::NOEXEC | Errno::TOOBIG | Errno::NOTDIR => {
                Failure::invalid(message)
            }
            _ => Failure::system(message),
        }
    }
}

/// Cuts the calling process off from the shim it was cloned from: containers' processes can
/// neither trace it nor look at its memory and files, and signals are as a program expects them.
pub(crate) fn detach() -> Outcome<()> {
    hide()?;
    syscall::reset_signals();
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
        (
            "process.apparmorProfile",
            !process.apparmor_profile.is_empty(),
        ),
        ("process.selinuxLabel", !process.selinux_label.is_empty()),
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
            "{name} is not supported yet; it comes with a later version"
        ))),
        None => Ok(()),
    }
}

/// Turns the calling process, which is in the container's namespaces and root directory with its
/// streams in place, into the one asked for, up to execve(2).
pub(crate) fn assume(process: &Process, shim: Identity) -> Outcome<Command> {
    let environment = environment(process);
    for limit in &process.rlimits {
        set_rlimit(limit)?;
    }
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
    capabilities.assume()?;
    hide()?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).system(|| "set no_new_privs")?;
    }
    rustix::process::umask(Mode::from_raw_mode(user.umask.unwrap_or(0o022)));
    command(process, &environment, shim)
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

/// Opens a path in the container, but not through a link of /proc that names no path.
fn open(path: &Path, flags: OFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
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

/// The capabilities asked for, as far as this process has them: "all" means all that there are.
#[derive(Debug)]
struct Wanted {
    bounding: CapabilitySet,
    ambient: CapabilitySet,
    sets: CapabilitySets,
}

impl Wanted {
    fn new(asked: &Capabilities) -> Outcome<Self> {
        let have = rustix::thread::capabilities(None)
            .system(|| "read the capabilities")?
            .permitted;
        let have = have
            .iter()
            .filter(|one| is_bounding(*one))
            .collect::<CapabilitySet>();
        let bounding = set_of(&asked.bounding)? & have;
        let permitted = set_of(&asked.permitted)? & have;
        let inheritable = set_of(&asked.inheritable)? & bounding;
        Ok(Self {
            bounding,
            ambient: set_of(&asked.ambient)? & permitted & inheritable,
            sets: CapabilitySets {
                effective: set_of(&asked.effective)? & permitted,
                permitted,
                inheritable,
            },
        })
    }

    /// Drops the rest of the bounding set; it takes a capability that is gone afterwards.
    fn bound(&self) -> Outcome<()> {
        for capability in (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
            if !self.bounding.contains(capability) && is_bounding(capability) {
                rustix::thread::remove_capability_from_bounding_set(capability)
                    .system(|| format!("drop {capability:?} from the bounding set"))?;
            }
        }
        Ok(())
    }

    fn assume(&self) -> Outcome<()> {
        let doing = || format!("set the capabilities {:?}", self.sets.permitted);
        rustix::thread::set_capabilities(None, self.sets).system(doing)?;
        rustix::thread::clear_ambient_capability_set().system(doing)?;
        for capability in self.ambient.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true).system(doing)?;
        }
        Ok(())
    }
}

/// Whether a capability is in the bounding set; one that the kernel does not know is not.
fn is_bounding(capability: CapabilitySet) -> bool {
    rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
}

fn set_of(names: &[String]) -> Outcome<CapabilitySet> {
    let one = |name: &String| {
        name.strip_prefix("CAP_")
            .and_then(CapabilitySet::from_name)
            .ok_or_else(|| Failure::invalid(format!("{name:?} is not a capability")))
    };
    names.iter().map(one).collect()
}

/// Finds the command, as the user who is to run it.
fn command(process: &Process, environment: &[String], shim: Identity) -> Outcome<Command> {
    let arguments = &process.args;
    let name = arguments
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure::invalid("there is no command to run: process.args is empty"))?;
    let path = find(name, environment, shim)?;
    let strings = |strings: &[String]| {
        strings
            .iter()
            .map(|string| CString::new(string.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .invalid(|| "an argument or a variable of the environment")
    };
    Ok(Command {
        path: CString::new(path.into_os_string().into_encoded_bytes())
            .invalid(|| "the command's path")?,
        arguments: strings(arguments)?,
        environment: strings(environment)?,
    })
}

fn find(name: &str, environment: &[String], shim: Identity) -> Outcome<PathBuf> {
    let candidates = candidates(name, environment);
    let mut denied = None;
    for candidate in &candidates {
        match check(candidate, shim) {
            Ok(()) => return Ok(candidate.clone()),
            Err(Unfit::Missing) => {}
            Err(Unfit::Denied(reason)) => denied = denied.or(Some((candidate, reason))),
            Err(Unfit::Forbidden(reason)) => {
                return Err(Failure::invalid(format!(
                    "{} {reason}",
                    candidate.display()
                )));
            }
        }
    }
    Err(Failure::invalid(match denied {
        Some((path, reason)) => {
            format!(
                "the command {name:?} cannot be executed: {} {reason}",
                path.display()
            )
        }
        None => format!(
            "the command {name:?} is not in the container: looked for {}",
            candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }))
}

/// Where a command may lie: at its path, or in the directories of `PATH`.
fn candidates(name: &str, environment: &[String]) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .collect()
}

/// Why a file cannot be a command.
enum Unfit {
    /// There is none.
    Missing,
    /// It is not for this user to execute.
    Denied(String),
    /// It is not for anybody to execute.
    Forbidden(String),
}

fn check(path: &Path, shim: Identity) -> Result<(), Unfit> {
    let opened = match open(path, OFlags::PATH | OFlags::CLOEXEC) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(Unfit::Missing),
        Err(Errno::LOOP) => return Err(Unfit::Denied("leads through a link of /proc".to_owned())),
        other => other.map_err(|error| Unfit::Denied(format!("cannot be opened: {error}")))?,
    };
    let denied = |error: Errno| Unfit::Denied(format!("cannot be executed: {error}"));
    let found = rustix::fs::fstat(&opened).map_err(denied)?;
    if (Identity {
        device: found.st_dev,
        inode: found.st_ino,
    }) == shim
    {
        return Err(Unfit::Forbidden(
            "is the runtime's own executable".to_owned(),
        ));
    }
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Unfit::Denied("is a directory".to_owned())),
        _ => return Err(Unfit::Denied("is not a regular file".to_owned())),
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|error| {
        Unfit::Denied(match error {
            Errno::ACCESS => "is not executable (no permission)".to_owned(),
            other => format!("cannot be executed: {other}"),
        })
    })?;
    check_interpreter(path)
}

/// A script's interpreter is the file that is executed in the end, so it is looked at as well: by
/// way of /proc/self/exe it could be the shim (CVE-2019-5736).
fn check_interpreter(path: &Path) -> Result<(), Unfit> {
    let mut beginning = [0; 256];
    // A command that cannot be read can still be executed.
    let Ok(file) = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC) else {
        return Ok(());
    };
    let length = rustix::io::read(&file, &mut beginning).unwrap_or(0);
    let Some(interpreter) = interpreter(&beginning[..length]) else {
        return Ok(());
    };
    match open(Path::new(interpreter), OFlags::PATH | OFlags::CLOEXEC) {
        Err(Errno::LOOP) => Err(Unfit::Forbidden(format!(
            "is a script whose interpreter {interpreter} leads through a link of /proc"
        ))),
        Err(error) => Err(Unfit::Denied(format!(
            "is a script whose interpreter {interpreter} cannot be opened: {error}"
        ))),
        Ok(_) => Ok(()),
    }
}

fn interpreter(beginning: &[u8]) -> Option<&str> {
    let line = beginning
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    std::str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .next()
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
    fn every_capability_has_a_bit() {
        let text = include_str!("capabilities.txt");
        for (number, name) in text.lines().enumerate() {
            assert_eq!(
                set_of(&[name.to_owned()]).unwrap().bits(),
                1 << number,
                "{name}"
            );
        }
        assert_eq!(text.lines().count(), 41);
    }

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
    fn commands_are_looked_for_in_the_last_path() {
        let environment = ["PATH=/a".to_owned(), "PATH=/b::/c".to_owned()];
        let expected = ["/b/x", "./x", "/c/x"].map(PathBuf::from);
        assert_eq!(candidates("x", &environment), expected);
        assert_eq!(candidates("./x", &environment), [PathBuf::from("./x")]);
        assert_eq!(candidates("x", &[]).len(), 6);
    }

    #[test]
    fn interpreters() {
        assert_eq!(interpreter(b"#!/bin/sh\necho"), Some("/bin/sh"));
        assert_eq!(
            interpreter(b"#! /usr/bin/env -S python3\n"),
            Some("/usr/bin/env")
        );
        assert_eq!(interpreter(b"\x7fELF"), None);
        assert_eq!(interpreter(b"#!"), None);
    }

    #[test]
    fn limits() {
        assert_eq!(lower(None, Some(3)), Some(3));
        assert_eq!(lower(Some(5), Some(3)), Some(3));
        assert_eq!(lower(Some(5), None), Some(5));
        assert_eq!(lower(None, None), None);
    }
}
