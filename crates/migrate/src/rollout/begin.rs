//! What a Job's pod does: it has the node's own systemd begin the move, outside of the runtime that
//! is going to be exchanged, and ends.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_systemd::{Refusal, Systemd};
use zbus::{OwnedObjectPath, Variant};

use crate::Root;
use crate::apply::DIRECTORY;

/// The unit that moves the node; `journalctl -u slipway-migrate` has what it says.
pub const UNIT: &str = "slipway-migrate.service";

/// No answer of systemd takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The node, as a privileged pod in its PID namespace has it, and what is brought there.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The node's root directory.
    pub root: Root,
    /// The node's system bus, a D-Bus address.
    pub bus: String,
    /// The program that the node is to run. It has to run there: one that is linked statically does.
    pub program: PathBuf,
    /// The credentials that the Job was given.
    pub kubeconfig: PathBuf,
}

/// Whether the node has begun to move now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It has.
    Now,
    /// The unit was there: the Job's pod was evicted and made anew, for instance.
    Before,
}

/// Why the node has not begun to move.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The node's files are not there, or cannot be written.
    #[error("{}: {source}; the Job's pod has to be privileged, with hostPID", path.display())]
    File {
        /// On the node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// systemd does not do it.
    #[error("the node's systemd at {bus} does not begin the move: {why}")]
    Systemd {
        /// Where it was asked.
        bus: String,
        /// Why.
        why: String,
    },
}

impl Pod {
    /// This process, in a pod that a Job has made.
    pub fn of_job(kubeconfig: &Path) -> Self {
        Self {
            root: Root::new("/proc/1/root"),
            bus: "unix:path=/proc/1/root/run/dbus/system_bus_socket".to_string(),
            program: PathBuf::from("/proc/self/exe"),
            kubeconfig: kubeconfig.to_path_buf(),
        }
    }

    /// Has systemd run the program on the node, with these arguments and `--kubeconfig`. Does not wait
    /// until it ends. It is there until the next boot; the program and the credentials stay beside the
    /// journal, for `slipway migrate resume`.
    ///
    /// # Errors
    ///
    /// When the node's files or its systemd are out of reach.
    pub async fn begin(&self, arguments: &[String]) -> Result<Begun, BeginError> {
        let program = self.bring(&self.program, "slipway", 0o755)?;
        let kubeconfig = self.bring(&self.kubeconfig, "kubeconfig", 0o600)?;
        let mut command = vec![program.clone()];
        command.extend_from_slice(arguments);
        command.extend(["--kubeconfig".to_string(), kubeconfig]);
        let started = self.start(program, command).await;
        started.map_err(|refusal| BeginError::Systemd {
            bus: self.bus.clone(),
            why: refusal.to_string(),
        })
    }

    /// Copies a file onto the node; its path there. One that is in use stays what it is to its users.
    fn bring(&self, from: &Path, name: &str, mode: u32) -> Result<String, BeginError> {
        let path = format!("{DIRECTORY}/{name}");
        let failed = |source| BeginError::File {
            path: path.clone().into(),
            source,
        };
        let to = self.root.resolve(&path).map_err(failed)?;
        let directory = to.parent().unwrap_or(&to);
        let mut made = DirBuilder::new();
        let made = made.recursive(true).mode(0o700).create(directory);
        made.map_err(failed)?;
        let new = to.with_extension("new");
        let mut source = fs::File::open(from).map_err(|source| BeginError::File {
            path: from.to_path_buf(),
            source,
        })?;
        let copied = (|| {
            // One of an earlier attempt may have other permissions.
            if let Err(error) = fs::remove_file(&new)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut options = OpenOptions::new();
            let mut target = options.write(true).create_new(true).mode(mode).open(&new)?;
            io::copy(&mut source, &mut target)?;
            target.sync_all()?;
            fs::rename(&new, &to)
        })();
        copied.map_err(failed)?;
        Ok(path)
    }

    async fn start(&self, program: String, command: Vec<String>) -> Result<Begun, Refusal> {
        let systemd = Systemd::at(self.bus.clone(), PATIENCE);
        // A unit that has failed keeps its name until this.
        let _: Result<(), _> = systemd.call("ResetFailedUnit", &(UNIT,)).await;
        let text = |text: &str| Variant::from(text.to_string());
        let properties = vec![
            ("Description", text("Moves this node away from dockershim")),
            ("Type", text("simple")),
            // A package manager that it has started is not ended with it.
            ("KillMode", text("process")),
            ("ExecStart", Variant::from(vec![(program, command, false)])),
        ];
        let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
        let body = (UNIT, "fail", properties, others);
        let job: Result<OwnedObjectPath, _> = systemd.call("StartTransientUnit", &body).await;
        match job {
            Ok(_) => Ok(Begun::Now),
            Err(Refusal::Named { name, .. }) if name.ends_with(".UnitExists") => Ok(Begun::Before),
            Err(refusal) => Err(refusal),
        }
    }
}
