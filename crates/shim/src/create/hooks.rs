//! Hooks: programs of the node that are run at points of a container's life (OCI runtime
//! specification, "POSIX-platform Hooks").
//!
//! Each gets the container's state in JSON on its standard input, has the environment that it
//! lists and no other, and is killed, with its process group, when its time is over or when nobody
//! waits for it any more.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use rustix::thread::LinkNameSpaceType;
use serde::Serialize;

use super::process::set_streams;
use super::{Offspring, Progress, read, report, write_oom_score};
use crate::config::{Hook, Hooks, Spec};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall;

/// What the hooks of one point may take together. The daemon waits for an answer for a minute, in
/// which a container passes two of these points.
const PATIENCE: Duration = Duration::from_secs(25);

/// How much of what a hook writes is kept for the error message, in bytes.
const MOST_SAID: usize = 2048;

/// A point in a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Deprecated; where `createRuntime` is, and before it.
    Prestart,
    /// In the node's namespaces, when the container's are there and its root file system is not
    /// yet entered.
    CreateRuntime,
    /// The same in the container's namespaces.
    CreateContainer,
    /// In the container, before its program is executed.
    StartContainer,
    /// In the node's namespaces, after that.
    Poststart,
    /// In the node's namespaces, after its end.
    Poststop,
}

impl Point {
    fn of(self, hooks: &Hooks) -> &[Hook] {
        match self {
            Self::Prestart => &hooks.prestart,
            Self::CreateRuntime => &hooks.create_runtime,
            Self::CreateContainer => &hooks.create_container,
            Self::StartContainer => &hooks.start_container,
            Self::Poststart => &hooks.poststart,
            Self::Poststop => &hooks.poststop,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// `status` of the state.
    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

/// The state of a container (OCI runtime specification, "State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    annotations: &'a BTreeMap<String, String>,
}

/// A container, as hooks are told of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) spec: &'a Spec,
}

impl Subject<'_> {
    /// Runs the hooks of a point one after the other, in the namespaces that the calling process is
    /// in; the first one that fails is the last. `pid` is the container's init as those namespaces
    /// number it. Once nobody has the other end of `waiting` open, the hook that runs is killed.
    pub(crate) fn run(
        self,
        point: Point,
        pid: Pid,
        waiting: Option<BorrowedFd<'_>>,
    ) -> Outcome<()> {
        let hooks = point.of(&self.spec.hooks);
        if hooks.is_empty() {
            return Ok(());
        }
        let state = State {
            oci_version: &self.spec.oci_version,
            id: self.id,
            status: point.status(),
            pid: (point != Point::Poststop).then_some(pid.as_raw_nonzero().get()),
            bundle: self.bundle,
            annotations: &self.spec.annotations,
        };
        let state = serde_json::to_vec(&state).system(|| "write the state for a hook")?;
        let end = Instant::now() + PATIENCE;
        for hook in hooks {
            let doing = || format!("the {} hook {}", point.name(), hook.path.display());
            let allowed = hook.timeout.map(Duration::from_secs);
            let left = end.saturating_duration_since(Instant::now());
            let time = allowed.map_or(left, |allowed| allowed.min(left));
            match run_one(hook, &state, time, waiting).system(doing)? {
                End::Succeeded => {}
                End::Failed(how) => {
                    return Err(Failure::system(format!("{} {how}", doing())));
                }
                End::TooLate => {
                    return Err(Failure::system(format!(
                        "{} was not done after {} s",
                        doing(),
                        time.as_secs()
                    )));
                }
                End::Abandoned => {
                    return Err(Failure::system(format!("nobody waits for {}", doing())));
                }
            }
        }
        Ok(())
    }
}

/// What became of a hook.
enum End {
    Succeeded,
    Failed(String),
    TooLate,
    Abandoned,
}

fn run_one(
    hook: &Hook,
    state: &[u8],
    time: Duration,
    waiting: Option<BorrowedFd<'_>>,
) -> Result<End, Errno> {
    // A file takes a state of any length at once, also one that is never read.
    let input = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?;
    std::fs::File::from(input.try_clone().map_err(|_| Errno::MFILE)?)
        .write_all(state)
        .map_err(|_| Errno::NOSPC)?;
    rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0))?;
    let (said, output) = pipe_with(PipeFlags::CLOEXEC)?;
    let Some(pid) = syscall::fork()? else {
        execute(hook, input.as_fd(), output.as_fd());
    };
    drop((input, output));
    let mut running = Running {
        pid,
        process: rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
        said,
        text: Vec::new(),
    };
    let end = running.wait(time, waiting);
    if !matches!(end, Ok(End::Succeeded | End::Failed(_))) {
        running.kill();
    }
    end
}

/// Becomes the hook.
fn execute(hook: &Hook, input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> ! {
    let prepared = || -> Outcome<Errno> {
        set_streams([input, output, output])?;
        syscall::close_all_but(&mut []).system(|| "close descriptors")?;
        syscall::reset_signals();
        // A group of its own, to be killed together.
        rustix::process::setsid().system(|| "setsid")?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let strings = |strings: &[String]| {
            let strings = strings.iter().map(|string| CString::new(string.as_str()));
            strings
                .collect::<Result<Vec<_>, _>>()
                .invalid(|| "its arguments or environment")
        };
        let path = CString::new(hook.path.as_os_str().as_encoded_bytes()).invalid(|| "its path")?;
        let mut arguments = strings(&hook.args)?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        Ok(syscall::execute(&path, &arguments, &strings(&hook.env)?))
    };
    let why = match prepared() {
        Ok(error) => format!("cannot be executed: {error}"),
        Err(failure) => failure.to_string(),
    };
    // To where the hook itself would have written.
    let _ = rustix::io::write(rustix::stdio::stderr(), why.as_bytes());
    syscall::exit(127)
}

/// A hook's process; it must be waited for or killed.
struct Running {
    pid: Pid,
    process: OwnedFd,
    said: OwnedFd,
    text: Vec<u8>,
}

impl Running {
    fn wait(&mut self, time: Duration, waiting: Option<BorrowedFd<'_>>) -> Result<End, Errno> {
        let end = Instant::now() + time;
        let mut open = true;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(End::TooLate);
            }
            let timeout = rustix::event::Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
            let input = if open {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            // The process itself stands for an end of `waiting` that is not there.
            let waiting = waiting.unwrap_or(self.process.as_fd());
            let mut watched = [
                PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.said.as_fd(), input),
                PollFd::from_borrowed_fd(waiting, PollFlags::empty()),
            ];
            match rustix::event::poll(&mut watched, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            let [ended, said, nobody] = watched.each_ref().map(PollFd::revents);
            if open && !said.is_empty() {
                open = self.listen();
            } else if ended.contains(PollFlags::IN) {
                return self.ended();
            } else if nobody.intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(End::Abandoned);
            }
        }
    }

    /// Reads once; says whether there can be more.
    fn listen(&mut self) -> bool {
        let mut buffer = [0; 512];
        match rustix::io::read(&self.said, &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                let room = MOST_SAID.saturating_sub(self.text.len());
                self.text.extend(&buffer[..length.min(room)]);
                true
            }
        }
    }

    fn ended(&self) -> Result<End, Errno> {
        let status = rustix::process::waitpid(Some(self.pid), WaitOptions::empty())?;
        let how =
            match status.map(|(_, status)| (status.exit_status(), status.terminating_signal())) {
                Some((Some(0), _)) => return Ok(End::Succeeded),
                Some((Some(code), _)) => format!("failed with exit code {code}"),
                Some((_, Some(signal))) => format!("was killed by signal {signal}"),
                _ => "has ended for no reason known".to_owned(),
            };
        let text = String::from_utf8_lossy(&self.text);
        Ok(End::Failed(match text.trim() {
            "" => how,
            text => format!("{how}: {text}"),
        }))
    }

    fn kill(&self) {
        // The group is gone when the hook is, and the hook is a child until it is waited for.
        let _ = syscall::kill_group(self.pid, libc::SIGKILL);
        let _ = syscall::kill(self.pid, libc::SIGKILL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The namespaces that the shim came from, and its pod has others of.
#[derive(Debug)]
pub(crate) struct NodeNamespaces(Vec<(OwnedFd, LinkNameSpaceType)>);

impl NodeNamespaces {
    /// Those of the calling process, which is still in them.
    pub(crate) fn open() -> Outcome<Self> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let opened = [
            ("net", LinkNameSpaceType::Network),
            ("ipc", LinkNameSpaceType::InterProcessCommunication),
            ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ]
        .map(|(name, kind)| {
            let path = format!("/proc/self/ns/{name}");
            rustix::fs::open(&path, flags, Mode::empty())
                .map(|opened| (opened, kind))
                .system(|| format!("open {path}"))
        });
        opened.into_iter().collect::<Outcome<_>>().map(Self)
    }

    fn enter(&self) -> Outcome<()> {
        for (namespace, kind) in &self.0 {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(*kind))
                .system(|| "go back to the node's namespaces")?;
        }
        Ok(())
    }
}

/// A child of the shim that runs hooks in the node's namespaces, and tells how that went:
/// [`Progress::Ready`] or [`Progress::Failed`].
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) pid: Pid,
    pub(crate) points: &'a [Point],
    pub(crate) namespaces: &'a NodeNamespaces,
    /// To whoever waits.
    pub(crate) sync: BorrowedFd<'a>,
    /// The shim's oom_score_adj before it changed it.
    pub(crate) oom_score: i32,
}

impl Offspring for Runner<'_> {
    fn run(&self) -> ! {
        let progress = match self.run_hooks() {
            Ok(()) => Progress::Ready,
            Err(failure) => Progress::Failed(failure),
        };
        report(self.sync, &progress, None);
        syscall::exit(0)
    }
}

impl Runner<'_> {
    fn run_hooks(&self) -> Outcome<()> {
        self.namespaces.enter()?;
        // What the shim has open must not stay open when it is gone.
        syscall::close_all_but(&mut [self.sync.as_raw_fd()]).system(|| "close descriptors")?;
        syscall::reset_signals();
        // Fails only where it was not lowered.
        let _ = write_oom_score(self.oom_score);
        let spec = read(&self.bundle.join("config.json"))?;
        let subject = Subject {
            id: self.id,
            bundle: self.bundle,
            spec: &spec,
        };
        for point in self.points {
            subject.run(*point, self.pid, Some(self.sync))?;
        }
        Ok(())
    }
}

/// Waits until a [`Runner`] at the other end of a socket has told how it went.
pub(super) fn wait_for_runner(socket: BorrowedFd<'_>) -> Outcome<()> {
    // A failure's message has a hook's words in it, which are bounded.
    let mut buffer = vec![0; 4 * MOST_SAID];
    let (length, _) = rustix::net::recv(socket, &mut buffer, RecvFlags::empty())
        .system(|| "wait for the hooks")?;
    match postcard::from_bytes(&buffer[..length]) {
        Ok(Progress::Ready) => Ok(()),
        Ok(Progress::Failed(failure)) => Err(failure),
        _ => Err(Failure::system(
            "the process that runs the hooks was killed",
        )),
    }
}
