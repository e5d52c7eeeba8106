//! Creating a container: what its first process does from its birth as a copy of the shim until
//! it executes the container's command.
//!
//! Everything that reads what a user wrote happens here, in a process of its own. Its mounts
//! exist only in its own mount namespace, so that they end with it.

mod capabilities;
mod clone;
mod command;
mod confinement;
mod devices;
pub(crate) mod hooks;
mod inside;
mod mounts;
mod namespaces;
mod options;
mod overlay;
mod process;
mod rootfs;
mod seccomp;
pub(crate) mod terminal;
mod user;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::net::RecvFlags;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

pub(crate) use self::clone::{Birth, Offspring, spawn, succeed};
pub(crate) use self::command::{Command, Identity};
use self::hooks::{Point, Subject};
use self::mounts::Planned;
pub(crate) use self::mounts::attach;
pub(crate) use self::namespaces::birth;
use self::process::refuse;
pub(crate) use self::process::{
    assume, detach, limit, refuse_unsupported, set_oom_score, set_streams, write_oom_score,
};
pub(crate) use self::rootfs::{mount as mount_rootfs, turn_away_from_node};
pub(crate) use self::seccomp::Filter;
pub(crate) use self::terminal::Terminal;
pub(crate) use self::user::UserNamespace;
use crate::cgroup::Cgroup;
use crate::config::{Capabilities, NamespaceKind, Spec};
use crate::failure::{Explain, Outcome};
use crate::packet::send_packet;
use crate::protocol::{Create, Failure};
use crate::supervisor::sync_pair;
use crate::{syscall, sysctl};

/// What a child tells the shim on the socket between them. That it has been executed shows by the
/// socket's end.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// It waits for its start. With a terminal, the master comes beside it.
    Ready,
    /// The container has hooks that are to be run later.
    Hooks {
        /// Once it runs.
        poststart: bool,
        /// After its end.
        poststop: bool,
    },
    /// It waits until the hooks of the node that belong to the creation have been run; how that
    /// went is to be told on the socket that comes beside it.
    RunHooks,
    /// It has made the process that goes on in its place, and ends.
    Succeeded {
        /// That process, as the node numbers it.
        pid: i32,
    },
    /// It has made its terminal. The end that shows and types comes beside it.
    Terminal,
    /// It has come to its end.
    Failed(Failure),
}

/// What the shim sends to have a waiting child executed.
pub(crate) const START: &[u8] = b"start";

/// The exit code of a child that was never executed; what the other runtimes use.
pub(crate) const NOT_EXECUTED: i32 = 128;

/// What the child is given by the shim.
#[derive(Debug)]
pub(crate) struct Child<'a> {
    pub(crate) create: &'a Create,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) birth: &'a Birth,
    /// The socket to the shim.
    pub(crate) sync: BorrowedFd<'a>,
    /// Standard input, output and error.
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// The shim's oom_score_adj before it changed it.
    pub(crate) oom_score: i32,
}

impl Offspring for Child<'_> {
    fn run(&self) -> ! {
        let failure = match self.prepare() {
            Ok((command, master, spec)) => {
                report(self.sync, &Progress::Ready, master.as_ref());
                drop(master);
                self.wait_for_start();
                match self.run_hooks(Point::StartContainer, &spec) {
                    Ok(()) => command.execute(),
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        report(self.sync, &Progress::Failed(failure), None);
        syscall::exit(NOT_EXECUTED)
    }
}

impl Child<'_> {
    fn wait_for_start(&self) {
        let mut buffer = [0; 16];
        match rustix::net::recv(self.sync, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) if &buffer[..length] == START => {}
            // The shim is gone, and with it everybody who could want this container.
            _ => syscall::exit(NOT_EXECUTED),
        }
    }

    fn prepare(&self) -> Outcome<(Command, Option<OwnedFd>, Spec)> {
        set_streams(self.streams)?;
        self.close_descriptors()?;
        detach()?;
        let shim = Identity::of_shim()?;
        rustix::process::umask(Mode::empty());
        self.cgroup.join_hierarchies()?;

        let spec = read(&self.create.bundle.join("config.json"))?;
        let process = &spec.process;
        refuse_unsupported(process)?;
        refuse_unsupported_container(&spec)?;
        let filter = Filter::read(&spec, &self.create.bundle)?;
        self.announce_hooks(&spec);
        set_oom_score(process, self.oom_score)?;
        let (planned, root) = self.enter(&spec)?;
        set_sysctls(&spec)?;

        let proc_of = self.proc_of(&spec);
        if proc_of.is_none() {
            self.go_inside()?;
        }
        let terminal = self.furnish(&spec, planned, root.as_fd(), proc_of)?;
        self.run_node_hooks(&spec)?;
        self.run_hooks(Point::CreateContainer, &spec)?;
        rootfs::move_into(root.as_fd(), &spec.linux.rootfs_propagation)?;
        drop(root);
        if proc_of.is_some() {
            self.go_inside()?;
        }
        let master = if let Some(Terminal { master, slave }) = terminal {
            terminal::take(slave.as_fd())?;
            Some(master)
        } else {
            if !self.create.stdin {
                read_own_null()?;
            }
            None
        };
        Ok((assume(process, shim, filter)?, master, spec))
    }

    fn announce_hooks(&self, spec: &Spec) {
        let hooks = Progress::Hooks {
            poststart: !spec.hooks.poststart.is_empty(),
            poststop: !spec.hooks.poststop.is_empty(),
        };
        let none = Progress::Hooks {
            poststart: false,
            poststop: false,
        };
        if hooks != none {
            report(self.sync, &hooks, None);
        }
    }

    /// Has the shim run the hooks that belong to the node's namespaces.
    fn run_node_hooks(&self, spec: &Spec) -> Outcome<()> {
        if spec.hooks.prestart.is_empty() && spec.hooks.create_runtime.is_empty() {
            return Ok(());
        }
        let (own, theirs) = sync_pair()?;
        report(self.sync, &Progress::RunHooks, Some(&theirs));
        drop(theirs);
        hooks::wait_for_runner(own.as_fd())
    }

    /// Runs hooks here, in the container's namespaces.
    fn run_hooks(&self, point: Point, spec: &Spec) -> Outcome<()> {
        let subject = Subject {
            id: &self.create.container,
            bundle: &self.create.bundle,
            spec,
        };
        subject.run(point, rustix::process::getpid(), Some(self.sync))
    }

    fn close_descriptors(&self) -> Outcome<()> {
        let mut kept = vec![self.sync.as_raw_fd()];
        if let Birth::Outside(Some(namespace)) = self.birth {
            kept.push(namespace.as_raw_fd());
        }
        syscall::close_all_but(&mut kept).system(|| "close descriptors")
    }

    /// Enters the container's namespaces, but for the PID namespace. What the node has to give, the
    /// sources of the mounts and the layers of the root file system, is opened before, as the
    /// node's root.
    fn enter<'s>(&self, spec: &'s Spec) -> Outcome<(Vec<Planned<'s>>, OwnedFd)> {
        let bundle = &self.create.bundle;
        let user = UserNamespace::of(spec)?;
        if let Some(user) = &user {
            user.own_streams();
            // Raising a limit takes the node's root.
            limit(&spec.process)?;
        }
        let label = &spec.linux.mount_label;
        let mut planned = mounts::plan(&spec.mounts, bundle, self.cgroup, label, user.as_ref())?;
        namespaces::leave_mounts(spec)?;
        rootfs::turn_away_from_node()?;
        let path = bundle.join(&spec.root.path);
        let Some(user) = user else {
            namespaces::enter(spec, None)?;
            return Ok((planned, rootfs::mount(&self.create.rootfs, &path)?));
        };
        let root = rootfs::make(&self.create.rootfs, &path, Some(&user))?;
        for mount in &mut planned {
            mount.lay(&user)?;
        }
        namespaces::enter(spec, Some(&user))?;
        // Its root cannot go to the bundle.
        rootfs::attach_root(root.as_fd())?;
        Ok((planned, root))
    }

    /// The PID namespace whose `/proc` can be mounted from outside of it, by a process that nobody
    /// in there can look into. Before Linux 6.17 there is none.
    fn proc_of(&self, spec: &Spec) -> Option<BorrowedFd<'_>> {
        let hooks = &spec.hooks;
        // They are told of the process that goes on inside.
        let hooked = !(hooks.prestart.is_empty()
            && hooks.create_runtime.is_empty()
            && hooks.create_container.is_empty());
        match self.birth {
            Birth::Outside(Some(namespace))
                if !hooked && mounts::can_mount_proc_of(namespace.as_fd()) =>
            {
                Some(namespace.as_fd())
            }
            _ => None,
        }
    }

    /// Goes on inside the container's PID namespace, if it is not there yet.
    fn go_inside(&self) -> Outcome<()> {
        match self.birth {
            Birth::Inside(_) => Ok(()),
            Birth::Outside(namespace) => {
                namespaces::choose_pid_namespace(namespace.as_ref())?;
                succeed(self.sync)
            }
        }
    }

    /// Mounts everything in the root file system.
    fn furnish(
        &self,
        spec: &Spec,
        planned: Vec<Planned<'_>>,
        root: BorrowedFd<'_>,
        proc_of: Option<BorrowedFd<'_>>,
    ) -> Outcome<Option<Terminal>> {
        let process = &spec.process;
        let own_devices = !planned.iter().any(|mount| mount.binds("/dev"));
        let mut unsealed = Vec::new();
        for mount in planned {
            unsealed.extend(mount.mount(root, proc_of)?);
        }
        if own_devices {
            devices::populate(root, &spec.linux.devices)?;
        }
        let terminal = if process.terminal || self.create.terminal {
            let terminal = Terminal::open(root, process)?;
            terminal.show_as_console(root)?;
            Some(terminal)
        } else {
            None
        };
        inside::ensure(root, &process.cwd, inside::Kind::Directory)
            .invalid(|| format!("the working directory {}", process.cwd.display()))?;
        for path in &spec.linux.readonly_paths {
            rootfs::protect(root, path)?;
        }
        for path in &spec.linux.masked_paths {
            rootfs::mask(root, path)?;
        }
        if spec.root.readonly {
            rootfs::seal(root, false).system(|| "make the root file system read-only")?;
        }
        for mount in &unsealed {
            rootfs::seal(mount.as_fd(), false).system(|| "make a tmpfs read-only")?;
        }
        Ok(terminal)
    }
}

/// Takes the container's own `/dev/null` for standard input instead of the node's, which it was
/// given: no file of the node stays open, and CRIU knows where it is.
fn read_own_null() -> Outcome<()> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    // It may have none, or something else under that name.
    let Ok(null) = rustix::fs::open("/dev/null", flags | OFlags::NONBLOCK, Mode::empty()) else {
        return Ok(());
    };
    let found = rustix::fs::fstat(&null).system(|| "look at /dev/null")?;
    let is_null = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
        && found.st_rdev == rustix::fs::makedev(1, 3);
    if is_null {
        rustix::stdio::dup2_stdin(&null).system(|| "open /dev/null as standard input")?;
    }
    Ok(())
}

/// Tells the shim. Whether it hears it is its affair: without the shim the child ends anyway.
pub(crate) fn report(sync: BorrowedFd<'_>, progress: &Progress, master: Option<&OwnedFd>) {
    let bytes = postcard::to_stdvec(progress).unwrap_or_default();
    let descriptors: Vec<BorrowedFd<'_>> = master.iter().map(|master| master.as_fd()).collect();
    let _ = send_packet(sync, &bytes, &descriptors);
}

/// A door for fuzzing: whether the shim can read a `config.json` and knows all that is in it.
///
/// # Errors
///
/// What it would answer to a request to create the container.
#[doc(hidden)]
pub fn check_config(json: &[u8]) -> Result<(), String> {
    let check = || {
        let spec: Spec = serde_json::from_slice(json).invalid(|| "read config.json")?;
        refuse_unsupported(&spec.process)?;
        refuse_unsupported_container(&spec)
    };
    check().map_err(|failure: Failure| failure.message)
}

/// Has the calling process give up every capability, for good.
pub(crate) fn give_up_capabilities() -> Outcome<()> {
    let none = capabilities::Wanted::new(&Capabilities::default())?;
    none.bound()?;
    none.assume()
}

/// Gives the calling process an empty root directory, and no other mount.
pub(crate) fn leave_root() -> Outcome<()> {
    syscall::unshare(UnshareFlags::NEWNS).system(|| "unshare the mount namespace")?;
    rootfs::turn_away_from_node()?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let empty = mounts::new_file_system("tmpfs", "none", ["size=0k", "mode=555"], read_only)?;
    rootfs::attach_root(empty.as_fd())?;
    rootfs::move_into(empty.as_fd(), "")
}

/// A detached copy of the mount at an open place, without those below it.
pub(crate) fn clone_mount_at(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    mounts::clone_tree_at(place, options::Reach::One)
}

/// Reads a `config.json`.
pub(crate) fn read(config: &Path) -> Outcome<Spec> {
    let doing = || format!("read {}", config.display());
    let text = fs::read(config).system(doing)?;
    serde_json::from_slice(&text).invalid(doing)
}

fn refuse_unsupported_container(spec: &Spec) -> Outcome<()> {
    let linux = &spec.linux;
    refuse(&[
        ("linux.intelRdt", linux.intel_rdt.is_some()),
        ("linux.personality", linux.personality.is_some()),
        ("linux.memoryPolicy", linux.memory_policy.is_some()),
        ("linux.timeOffsets", linux.time_offsets.is_some()),
        ("linux.netDevices", linux.net_devices.is_some()),
    ])
}

/// Sets the kernel parameters that the specification lists; the process is in the namespaces that
/// they belong to.
fn set_sysctls(spec: &Spec) -> Outcome<()> {
    for (name, value) in &spec.linux.sysctl {
        let own = |path: &String| {
            let kind = match sysctl::namespace(path) {
                Some(sysctl::Namespace::Network) => NamespaceKind::Network,
                Some(sysctl::Namespace::Ipc) => NamespaceKind::Ipc,
                Some(sysctl::Namespace::Uts) => NamespaceKind::Uts,
                None => return false,
            };
            let namespaces = &spec.linux.namespaces;
            namespaces.iter().any(|namespace| namespace.kind == kind)
        };
        let path = sysctl::path(name).filter(own).ok_or_else(|| {
            Failure::invalid(format!(
                "sysctl {name:?} does not belong to a namespace that the container has apart from \
                 the node's"
            ))
        })?;
        fs::write(Path::new("/proc/sys").join(path), value)
            .invalid(|| format!("set sysctl {name} to {value:?}"))?;
    }
    Ok(())
}
