//! Starting a pod's shim.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::client::{Error, Shim, proc_path};
use crate::probe;
use crate::protocol::{Pod, READY};
use crate::syscall::{MountSetattr, mount_setattr};

/// How long a shim may take until it is ready. It takes milliseconds; a machine that is short of
/// everything may take a thousand times as long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Starts shims. The daemon makes one of it.
#[derive(Debug)]
pub struct Launcher {
    program: Program,
}

/// A process that does nothing and ends when this is dropped, or with this process.
#[derive(Debug)]
pub struct Placeholder {
    pid: u32,
    _child: Child,
}

impl Placeholder {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

#[derive(Debug)]
enum Program {
    /// The executable on a private, read-only mount that nobody else can reach. A container that
    /// gets hold of `/proc/<shim>/exe` cannot open it for writing (CVE-2019-5736).
    Sealed(OwnedFd),
    /// The executable where it lies, and why it could not be sealed.
    Plain { path: PathBuf, reason: io::Error },
}

impl Launcher {
    /// Opens the shim's executable. Later changes of `shim` on disk are not seen.
    ///
    /// # Errors
    ///
    /// `shim` does not exist.
    pub fn new(shim: &Path) -> io::Result<Self> {
        let path = shim.canonicalize()?;
        let program = match seal(&path) {
            Ok(descriptor) => Program::Sealed(descriptor),
            Err(error) => Program::Plain {
                path,
                reason: error.into(),
            },
        };
        Ok(Self { program })
    }

    /// Why the executable is not on a read-only mount of its own, where the kernel has refused
    /// that.
    pub fn unsealed(&self) -> Option<&io::Error> {
        match &self.program {
            Program::Sealed(_) => None,
            Program::Plain { reason, .. } => Some(reason),
        }
    }

    /// Starts the shim of `pod`, whose directory exists, waits until it is ready, and connects to
    /// it. The shim outlives this process; while this process lives, it reaps it.
    ///
    /// A shim whose launch is dropped half-way finds nobody to report to, undoes what it has done
    /// and exits.
    ///
    /// # Errors
    ///
    /// [`Error::Launch`] with the shim's own reason.
    pub async fn launch(&self, pod: &Pod) -> Result<Shim, Error> {
        let failed = |reason: String| Error::Launch {
            pod: pod.id.clone(),
            reason,
        };
        let mut child = self.spawn(pod).map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(DEADLINE, hand_over(&mut child, pod)).await {
            Ok(Ok(answer)) if answer == READY => {
                // Reaped whenever it ends.
                tokio::spawn(async move { child.wait().await });
                Shim::connect(&pod.directory).await
            }
            Ok(Ok(answer)) => {
                let status = child
                    .wait()
                    .await
                    .map_err(|error| failed(error.to_string()))?;
                let answer = answer.trim_end();
                Err(failed(if answer.is_empty() {
                    status.to_string()
                } else {
                    answer.to_owned()
                }))
            }
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => {
                let _ = child.kill().await;
                Err(failed(format!(
                    "it was not ready after {} s",
                    DEADLINE.as_secs()
                )))
            }
        }
    }

    /// Starts a shim that is never told of a pod: it waits to be, and ends with what is given back.
    /// A scope of systemd's takes a process to begin with (systemd.scope(5)). Takes a runtime of
    /// tokio's.
    ///
    /// # Errors
    ///
    /// What the kernel says to a process more.
    pub fn placeholder(&self) -> io::Result<Placeholder> {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.kill_on_drop(true).spawn()?;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("it has ended at once"))?;
        Ok(Placeholder { pid, _child: child })
    }

    fn spawn(&self, pod: &Pod) -> io::Result<Child> {
        self.command()
            // For whoever looks at the node's processes; the shim itself is told on its input.
            .arg(&pod.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    }

    /// Finds out whether pods can have user namespaces on this node, with layers in these
    /// directories, by trying it in a process of its own. Blocking, for some milliseconds.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub fn probe_user_namespaces(&self, directories: &[&Path]) -> Result<(), String> {
        let answer = std::process::Command::new(self.path())
            .arg(probe::ARGUMENT)
            .args(directories)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("the per-pod process cannot be executed: {error}"))?;
        match String::from_utf8_lossy(&answer.stdout) {
            answer if answer == READY => Ok(()),
            silence if silence.is_empty() => Err(answer.status.to_string()),
            reason => Err(reason.trim_end().to_owned()),
        }
    }

    fn path(&self) -> PathBuf {
        match &self.program {
            Program::Sealed(descriptor) => proc_path(descriptor.as_fd()).into(),
            Program::Plain { path, .. } => path.clone(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        command
            .arg0("slipway-shim")
            .env_clear()
            .current_dir("/")
            .stderr(Stdio::null());
        command
    }
}

/// Gives the shim its pod, and takes its first and last words on standard output.
async fn hand_over(child: &mut Child, pod: &Pod) -> io::Result<String> {
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let mut stdout = child.stdout.take().expect("standard output is a pipe");
    // A shim that dies early is told by what it says, not by the pipe that it leaves broken.
    match stdin.write_all(&serde_json::to_vec(pod)?).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => drop(stdin),
    }
    let mut answer = String::new();
    stdout.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A detached, read-only clone of the mount that `path` is on.
fn seal(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let descriptor = rustix::mount::open_tree(CWD, path, flags)?;
    let attributes = MountSetattr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
        ..MountSetattr::default()
    };
    mount_setattr(descriptor.as_fd(), false, &attributes)?;
    Ok(descriptor)
}

/// Makes a mount, which nobody else can see, read-only together with those below it, as a
/// container's `rro` volumes are (mount_setattr(2), `AT_RECURSIVE`, Linux 5.12).
///
/// # Errors
///
/// What the kernel says where it cannot.
pub fn try_recursive_read_only() -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, "/proc", flags)?;
    let read_only = MountSetattr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..MountSetattr::default()
    };
    Ok(mount_setattr(tree.as_fd(), true, &read_only)?)
}
