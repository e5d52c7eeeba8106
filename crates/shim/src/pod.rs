//! What a pod has before its first container: namespaces, pins, `/dev/shm`, kernel parameters.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::failure::{Explain, Outcome};
use crate::init;
use crate::protocol::{Failure, Pod, UserMappings};
use crate::syscall;
use crate::sysctl::{self, Namespace};
use crate::user::Founder;

/// A pod's surroundings. Until they are [kept](Self::keep), dropping them takes every mount back.
#[derive(Debug)]
pub(crate) struct Surroundings {
    mounts: Mounts,
    /// The init of a PID namespace that the containers share.
    pub(crate) init: Option<Pid>,
}

/// Mounts made so far, to be taken back in the opposite order; with a file or directory each, if
/// that was made for it.
#[derive(Debug, Default)]
struct Mounts(Vec<PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // There is nobody left to tell.
            let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            let _ = if path.is_dir() {
                fs::remove_dir(path)
            } else {
                fs::remove_file(path)
            };
        }
    }
}

impl Surroundings {
    /// Makes them; the calling process stays in the new namespaces, for its children to inherit.
    pub(crate) fn make(pod: &Pod) -> Outcome<Self> {
        let mut mounts = Mounts::default();
        let founder = match &pod.user {
            None => {
                unshare(pod)?;
                set_sysctls(pod)?;
                None
            }
            // Parameters are read as the namespace's own root means them: groups by its numbers.
            Some(user) => Some(Founder::found(pod, user, || set_sysctls(pod), init::run)?),
        };
        if pod.network {
            loopback_up().system(|| "bring the pod's loopback interface up")?;
        }
        if let Some(hostname) = &pod.hostname {
            rustix::system::sethostname(hostname.as_bytes())
                .system(|| format!("set the host name {hostname:?}"))?;
        }
        let pins = pod.directory.join("ns");
        make_directory(&pins).system(|| format!("make {}", pins.display()))?;
        for (wanted, name) in [
            (pod.network, "net"),
            (pod.ipc, "ipc"),
            (pod.hostname.is_some(), "uts"),
        ] {
            if wanted {
                let namespace = PathBuf::from(format!("/proc/self/ns/{name}"));
                mounts.pin(&namespace, pins.join(name))?;
            }
        }
        if let Some(founder) = &founder {
            mounts.pin(&founder.namespace("user"), pins.join("user"))?;
        }
        if let Some(size) = pod.shm_size {
            let root = pod.user.as_ref().and_then(UserMappings::root);
            mounts.shared_memory(pod.directory.join("shm"), size, root.unwrap_or_default())?;
        }
        let mut surroundings = Self { mounts, init: None };
        if pod.shared_pid {
            let init = match founder {
                Some(founder) => founder.stay()?,
                None => init::start().system(|| "start the init of the pod's PID namespace")?,
            };
            surroundings.init = Some(init);
            let namespace = PathBuf::from(format!("/proc/{}/ns/pid", init.as_raw_nonzero()));
            if let Err(failure) = surroundings.mounts.pin(&namespace, pins.join("pid")) {
                surroundings.end_init();
                return Err(failure);
            }
        }
        Ok(surroundings)
    }

    /// Leaves the mounts to the daemon.
    pub(crate) fn keep(&mut self) {
        self.mounts.0.clear();
    }

    /// Kills the init of a shared PID namespace, and with it whatever still runs there.
    pub(crate) fn end_init(&mut self) {
        if let Some(init) = self.init.take() {
            // It may have ended by itself.
            let _ = syscall::kill(init, libc::SIGKILL);
        }
    }
}

impl Mounts {
    fn pin(&mut self, namespace: &Path, path: PathBuf) -> Outcome<()> {
        let doing = || format!("pin {} at {}", namespace.display(), path.display());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::WRONLY;
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o444)).system(doing)?;
        let mounted = rustix::mount::mount_bind(namespace, &path).system(doing);
        self.0.push(path);
        mounted
    }

    /// `root` is the user and the group that it belongs to.
    fn shared_memory(&mut self, path: PathBuf, size: u64, root: (u32, u32)) -> Outcome<()> {
        let doing = || format!("mount a tmpfs of {size} bytes on {}", path.display());
        make_directory(&path).system(doing)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let (uid, gid) = root;
        let data = format!("mode=1777,size={size},uid={uid},gid={gid}");
        let data = std::ffi::CString::new(data).unwrap_or_default();
        rustix::mount::mount("shm", &path, "tmpfs", flags, data.as_c_str()).system(doing)?;
        self.0.push(path);
        Ok(())
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn unshare(pod: &Pod) -> Outcome<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, pod.network);
    flags.set(UnshareFlags::NEWIPC, pod.ipc);
    flags.set(UnshareFlags::NEWUTS, pod.hostname.is_some());
    syscall::unshare(flags).system(|| format!("unshare the pod's namespaces ({flags:?})"))
}

fn loopback_up() -> rustix::io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    syscall::loopback_up(socket.as_fd())
}

fn set_sysctls(pod: &Pod) -> Outcome<()> {
    pod.sysctls
        .iter()
        .try_for_each(|(name, value)| set_sysctl(pod, name, value))
}

/// Sets a kernel parameter, if it is one of a namespace that the pod has for itself.
fn set_sysctl(pod: &Pod, name: &str, value: &str) -> Outcome<()> {
    let path = sysctl::path(name)
        .ok_or_else(|| Failure::invalid(format!("{name:?} is not the name of a sysctl")))?;
    let (namespace, own) = match sysctl::namespace(&path) {
        Some(Namespace::Network) => ("network", pod.network),
        Some(Namespace::Ipc) => ("IPC", pod.ipc),
        Some(Namespace::Uts) => ("UTS", pod.hostname.is_some()),
        None => {
            return Err(Failure::invalid(format!(
                "sysctl {name} belongs to the whole node: a pod can set net.*, kernel.shm*, \
                 kernel.msg*, kernel.sem, fs.mqueue.* and kernel.domainname"
            )));
        }
    };
    if !own {
        return Err(Failure::invalid(format!(
            "sysctl {name} needs a pod with its own {namespace} namespace; this one uses the node's"
        )));
    }
    let path = Path::new("/proc/sys").join(path);
    fs::write(&path, value).invalid(|| format!("set sysctl {name} to {value:?}"))
}

/// Opens `/dev/null`.
pub(crate) fn open_null() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Makes `descriptor` the standard input, output and error.
pub(crate) fn stdio_to(descriptor: &OwnedFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stdin(descriptor)?;
    rustix::stdio::dup2_stdout(descriptor)?;
    rustix::stdio::dup2_stderr(descriptor)
}
