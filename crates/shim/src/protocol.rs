//! What the daemon and a pod's shim say to each other.
//!
//! The socket is `SOCK_SEQPACKET`, so a packet is a message: one [`Frame`] in postcard's encoding,
//! at most [`MAX_PACKET`] bytes. Descriptors travel beside it as `SCM_RIGHTS`, in the order the
//! request names them. A reply carries its request's number; replies may overtake one another, and
//! [`Frame::Event`]s come on every connection that has subscribed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The largest packet that either side sends, in bytes.
pub const MAX_PACKET: usize = 192 * 1024;

/// The socket's name in [`Pod::directory`].
pub const SOCKET: &str = "shim.sock";

/// What a shim says on standard output once it listens. Anything else is the reason why it does
/// not.
pub const READY: &str = "ready\n";

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Daemon to shim.
    Request {
        /// Chosen by the daemon, unique on its connection.
        number: u64,
        /// What is asked.
        request: Request,
    },
    /// Shim to daemon, once for each request.
    Reply {
        /// The request's number.
        number: u64,
        /// The answer.
        reply: Result<Reply, Failure>,
    },
    /// Shim to daemon, unasked.
    Event(Event),
}

/// What the daemon asks of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Make a container up to the point before its process is executed. Answered with
    /// [`Reply::Created`].
    Create(Create),
    /// Execute a created container's process. Answered with [`Reply::Started`], after `execve`
    /// has succeeded.
    Start {
        /// The container.
        container: String,
    },
    /// Send a signal to a container's init, or to every process of it. A container that has
    /// exited is not an error.
    Kill {
        /// The container.
        container: String,
        /// Signal number, as in signal(7).
        signal: i32,
        /// Whether every process in the container's cgroup gets it.
        all: bool,
    },
    /// Forget a container: kills what is left of it and gives back what the shim holds for it. A
    /// container that the shim does not know is not an error.
    Delete {
        /// The container.
        container: String,
    },
    /// Run one more process in a started container. The descriptors that come with the request
    /// are its standard input, output and error, or none where it gets a terminal; answered with
    /// [`Reply::Executed`] after `execve` has succeeded, and followed by [`Event::ExecExited`].
    Exec(Exec),
    /// Kill a process started by [`Request::Exec`] that has not ended, its process group, and with
    /// [`ExecCgroup::Own`] everything that it has started.
    KillExec {
        /// The process.
        exec: u64,
    },
    /// Copy a container's output into pipes from now on, beside its log. The descriptors that come
    /// with the request are the pipes' write ends, of standard output and error in this order.
    /// Answered with [`Reply::Attached`].
    Attach(Attach),
    /// Open the log file's path anew, after somebody has moved the file away.
    ReopenLog {
        /// The container.
        container: String,
    },
    /// The state of every container the shim knows. Answered with [`Reply::Containers`].
    List,
    /// Send [`Frame::Event`]s on this connection from now on. Answered with
    /// [`Reply::Containers`], so that no exit falls between the two.
    Subscribe,
    /// Kill every container, unpin nothing (the pins belong to the daemon), and exit.
    Shutdown,
}

/// The file beside `config.json` with the compiled program of its `linux.seccomp`: an array of
/// `struct sock_filter` (seccomp(2)). It is there where that section is.
pub const SECCOMP_PROGRAM: &str = "seccomp.bpf";

/// A container to create. Paths are absolute and on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// The container's id.
    pub container: String,
    /// The directory that holds `config.json` (the OCI runtime configuration) and into which the
    /// shim writes the container's [`Record`], as the file `state.json`.
    pub bundle: PathBuf,
    /// What the root file system is mounted from; `root.path` of `config.json` is the mount point,
    /// and `root.readonly` is honoured.
    pub rootfs: Overlay,
    /// The directories of the container's cgroup: one for each hierarchy of v1, or the one of v2.
    /// They exist already, with their limits set; they belong to the daemon.
    pub cgroups: Vec<PathBuf>,
    /// The file with an `oom_kill N` line (`memory.events` of v2, `memory.oom_control` of v1).
    pub oom_events: Option<PathBuf>,
    /// The container log in CRI format; none keeps no log.
    pub log: Option<PathBuf>,
    /// Whether the process gets a terminal (`process.terminal` says so too).
    pub terminal: bool,
    /// Whether standard input is held open for a later attach, instead of being `/dev/null`.
    pub stdin: bool,
    /// The container whose PID namespace this one joins, whatever `config.json` says of it. It
    /// must be running.
    pub target: Option<String>,
    /// The OCI runtime that makes the container and works on it; none for the shim itself.
    pub runtime: Option<Box<Runtime>>,
}

/// An OCI runtime other than the shim, with the command line that runc, crun, youki and runsc have
/// in common (`create`, `start`, `kill`, `exec`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Its executable.
    pub path: PathBuf,
    /// Where it keeps what it knows of containers (`--root`).
    pub root: PathBuf,
    /// Arguments before the command.
    pub options: Vec<String>,
    /// How long one of its commands may take, in seconds; it is killed then.
    pub timeout: u32,
    /// What its `exec --cgroup` takes.
    pub exec_cgroup: SubCgroup,
}

/// How a runtime is told to execute a process in a cgroup below the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubCgroup {
    /// It cannot be.
    Unsupported,
    /// By its path, which is the same in all hierarchies.
    Path,
    /// By its path, or by a controller of v1 with the path in that one's hierarchy.
    ControllerAndPath,
}

/// An overlay file system (overlayfs.rst in the kernel's documentation).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Read-only layers, the lowest first (the order in which an image lists them).
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Overlay's work directory, on the file system of `upper`.
    pub work: PathBuf,
    /// The SELinux label of all that is in it, where the kernel has SELinux.
    pub label: Option<String>,
}

/// A process to run in a started container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub container: String,
    /// What is executed.
    pub process: ExecProcess,
    /// Whether it gets a terminal, which the reply brings the other end of.
    pub terminal: bool,
    /// Where it runs.
    pub cgroup: ExecCgroup,
}

/// The cgroup of a process that is executed in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecCgroup {
    /// The container's.
    Container,
    /// One of its own below the container's, where the kernel lets it: so that everything it starts
    /// can be found, whatever that does to its session, its group and its parents.
    Own,
}

/// A client of a container's streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The container.
    pub container: String,
    /// Whether its standard input is wanted.
    pub stdin: AttachStdin,
    /// Whether its standard output, or what its terminal shows, is wanted: then a pipe is among the
    /// request's descriptors.
    pub stdout: bool,
    /// Whether its standard error is wanted.
    pub stderr: bool,
}

/// How a client gets a container's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachStdin {
    /// Not at all.
    None,
    /// As one of any number of ends to write to. The shim keeps one as well, so that standard input
    /// stays open.
    Shared,
    /// As the only end to write to: its close ends standard input. A terminal is shared all the
    /// same.
    Only,
}

/// What a [`Request::Exec`] executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecProcess {
    /// The container's own process, as `config.json` has it, with these arguments: same user,
    /// environment, directory, limits.
    Own {
        /// The command and its arguments.
        args: Vec<String>,
    },
    /// An OCI `process` object in JSON.
    Given(String),
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Create`.
    Created {
        /// The init process, as the host numbers it.
        pid: i32,
    },
    /// To `Start`.
    Started {
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// To `Exec`; beside it, where it was asked for, the terminal: the end that shows and types.
    Executed {
        /// The shim's number for the process.
        exec: u64,
        /// The process, as the host numbers it.
        pid: i32,
    },
    /// To `Attach`. Beside it comes the write end of standard input where it was asked for, or
    /// the container's terminal in any case: to type into and to resize, while what it shows comes
    /// through the pipe.
    Attached,
    /// To `List` and `Subscribe`.
    Containers(Vec<Record>),
    /// To everything else.
    Done,
}

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What was asked, what was found, what to do.
    pub message: String,
}

/// Kinds of [`Failure`], as far as a caller acts on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The shim does not know that container or process.
    NotFound,
    /// The container is not in a state that allows it.
    WrongState,
    /// What was asked for cannot be honoured: a command that is not there, an unknown mount type,
    /// a path that leaves the root file system.
    Invalid,
    /// What was asked for needs something that this node's kernel or file systems do not have.
    Unsupported,
    /// The kernel refused.
    System,
    /// A file system is full, or a quota is used up.
    NoSpace,
}

/// A container, as the shim has it in memory and (in JSON) on disk as `state.json` of its bundle.
/// It is on disk before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The container's id.
    pub container: String,
    /// Its init process, as the host numbers it.
    pub pid: i32,
    /// Where it is in its life.
    pub phase: Phase,
}

/// A container's life, as its shim sees it; times are nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Waiting for `Start`.
    Created,
    /// Executed.
    Running {
        /// When `execve` succeeded.
        started_at: i64,
    },
    /// Over.
    Exited {
        /// When `execve` succeeded; none when it never was executed.
        started_at: Option<i64>,
        /// When the exit was seen.
        finished_at: i64,
        /// How it ended.
        exit: Exit,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 plus the signal where there was one.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for its memory limit.
    pub oom_killed: bool,
}

/// What a shim tells unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container's process was executed.
    Started(Record),
    /// A container's init has ended; its log is complete.
    Exited(Record),
    /// A process started by `Exec` has ended.
    ExecExited {
        /// The shim's number for the process.
        exec: u64,
        /// How it ended.
        exit: Exit,
    },
}

/// The pod that a shim is started for: its standard input carries this in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The pod's id.
    pub id: String,
    /// The pod's directory: the shim listens on `shim.sock` and pins namespaces in `ns/` there.
    pub directory: PathBuf,
    /// A network namespace of its own, with `lo` up; else the node's.
    pub network: bool,
    /// An IPC namespace of its own; else the node's.
    pub ipc: bool,
    /// A UTS namespace of its own with this host name; else the node's.
    pub hostname: Option<String>,
    /// A PID namespace that the pod's containers share, with an init that reaps; pinned as
    /// `ns/pid`.
    pub shared_pid: bool,
    /// Size in bytes of the tmpfs that the shim mounts on `shm/` for the pod's containers; none
    /// where the pod uses the node's `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Kernel parameters (`a.b.c`) of the pod's namespaces, set before anything runs in them.
    pub sysctls: Vec<(String, String)>,
    /// A user namespace that owns the pod's other namespaces, pinned as `ns/user`; none where the
    /// pod's users are the node's. It needs a network and an IPC namespace and a host name of the
    /// pod's own.
    pub user: Option<UserMappings>,
}

/// How the users and groups of a user namespace are numbered on the node
/// (user_namespaces(7)). Each of the two maps number 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMappings {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first one, as the container numbers it.
    pub container: u32,
    /// The first one, as the node numbers it.
    pub host: u32,
    /// How many.
    pub length: u32,
}

impl UserMappings {
    /// The user and the group on the node that are 0 in the namespace; none where 0 is not mapped.
    pub fn root(&self) -> Option<(u32, u32)> {
        self.on_node(0, 0)
    }

    /// A user and a group of the namespace as the node numbers them; none where they are not mapped.
    pub fn on_node(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |mappings: &[IdMapping], id: u32| {
            mappings.iter().find_map(|mapping| {
                let offset = id.checked_sub(mapping.container)?;
                (offset < mapping.length).then(|| mapping.host + offset)
            })
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}
