//! A directory and a number that nobody else has, and the end of everything that hangs on them.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{cgroup, cni, mount, process, wait};

/// Holds one directory and one lock file for each number. The path is short because the sockets
/// below it, which have 64-digit pod ids in their names, must fit into 107 bytes.
const BASE: &str = "/var/tmp/slw";

/// The numbers there are: each is also the third byte of a subnet.
const NUMBERS: std::ops::RangeInclusive<u16> = 1..=250;

/// Host ports from here on are divided among the numbers, below the ephemeral range.
const FIRST_PORT: u16 = 20_000;
const PORTS_EACH: u16 = 40;

/// A directory of one test's own, and the number from which its other names derive.
///
/// Dropping the last reference kills what still runs for it, unmounts what is mounted below it,
/// removes its cgroups, and removes the directory.
#[derive(Debug)]
pub struct Scratch {
    number: u16,
    path: PathBuf,
    ports: AtomicU16,
    serial: AtomicU16,
    /// Held until everything is gone; the kernel gives it back when this process is killed.
    lock: Lock,
}

impl Scratch {
    /// Takes the lowest free number and makes its directory.
    ///
    /// The first call in a process also sweeps what killed processes left: a directory whose lock
    /// nobody holds has a dead owner. Its processes (recorded with their start times, or marked in
    /// their environment), mounts, bridge, firewall rules and cgroups are removed with it.
    ///
    /// # Errors
    /// Without root, when all numbers are taken, or when the base directory is not root's alone.
    pub fn new() -> Result<Arc<Self>> {
        static SWEPT: Once = Once::new();
        ensure!(
            rustix::process::geteuid().is_root(),
            "a test node needs root (namespaces, mounts, cgroups): run this as root"
        );
        make_base()?;
        SWEPT.call_once(sweep_the_dead);
        for number in NUMBERS {
            if let Some(lock) = Lock::take(number)? {
                return Self::with(number, lock);
            }
        }
        bail!("all of the numbers {NUMBERS:?} of {BASE} are locked: as many tests are running");
    }

    fn with(number: u16, lock: Lock) -> Result<Arc<Self>> {
        let path = directory(number);
        if path.exists() {
            sweep(number, &path);
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let ports = AtomicU16::new(FIRST_PORT + number * PORTS_EACH);
        Ok(Arc::new(Self {
            number,
            path,
            ports,
            serial: AtomicU16::new(0),
            lock,
        }))
    }

    /// The number, unique among the living test nodes of this machine.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The directory; absolute, on the disk of `/var/tmp`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// The parent of all cgroups of this node's pods, as CRI's `cgroup_parent`.
    pub fn cgroup_parent(&self) -> String {
        cgroup_parent(self.number)
    }

    /// The parent of all cgroups of this node's pods with the systemd driver, a slice's name. Its
    /// pods may name any slice below it.
    pub fn slice(&self) -> String {
        slice(self.number)
    }

    /// A host port that no other living test node uses (40 to each).
    ///
    /// # Panics
    /// When the node has used all of its ports.
    pub fn host_port(&self) -> u16 {
        let port = self.ports.fetch_add(1, Ordering::Relaxed);
        assert!(
            port < FIRST_PORT + (self.number + 1) * PORTS_EACH,
            "no host port is left"
        );
        port
    }

    /// A number that this node has not given out before.
    pub(crate) fn serial(&self) -> u16 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        sweep(self.number, &self.path);
        self.lock.release();
    }
}

fn directory(number: u16) -> PathBuf {
    Path::new(BASE).join(number.to_string())
}

fn cgroup_parent(number: u16) -> String {
    format!("/slipway-test-{number}")
}

fn slice(number: u16) -> String {
    format!("slwtest{number}.slice")
}

/// Makes the base directory, or sees to it that the one there is ours: `/var/tmp` is everybody's.
fn make_base() -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(BASE) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {BASE}"));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(BASE)?;
    ensure!(
        found.is_dir() && found.uid() == 0 && found.permissions().mode().trailing_zeros() >= 6,
        "{BASE} is not a directory that only root can enter: remove it"
    );
    Ok(())
}

/// Removes what numbers without a living owner left behind.
fn sweep_the_dead() {
    for number in NUMBERS.filter(|&number| directory(number).exists()) {
        if let Ok(Some(mut lock)) = Lock::take(number) {
            sweep(number, &directory(number));
            lock.release();
        }
    }
}

/// Ends everything that hangs on a number. The caller holds its lock.
fn sweep(number: u16, path: &Path) {
    process::kill_all(path);
    for parent in [cgroup_parent(number), slice(number)] {
        cgroup::kill_and_remove(&parent);
    }
    mount::unmount_below(path);
    cni::remove_traces(number);
    // A process that is just ending may still write a last file into a directory being removed.
    let gone = wait::within(Duration::from_secs(2), || match fs::remove_dir_all(path) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    });
    if !gone && !std::thread::panicking() {
        eprintln!("testbed: {} could not be removed whole", path.display());
    }
}

/// The lock of one number: an advisory lock on a file that exists as long as it is held.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// The lock of `number`, or `None` when somebody holds it.
    fn take(number: u16) -> Result<Option<Self>> {
        let path = directory(number).with_extension("lock");
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error.into()),
                Ok(()) => {}
            }
            // The holder before us may have removed the file between our open and our lock.
            let ours = file.metadata()?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                return Ok(Some(Self { file, path }));
            }
        }
    }

    fn release(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_share_neither_number_nor_directory_nor_ports() {
        let (one, other) = (Scratch::new().unwrap(), Scratch::new().unwrap());
        assert_ne!(one.number(), other.number());
        assert_ne!(one.path(), other.path());
        let ports: Vec<_> = (0..PORTS_EACH).map(|_| one.host_port()).collect();
        assert!(!ports.contains(&other.host_port()));
    }

    #[test]
    fn the_directory_goes_with_what_is_mounted_in_it() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        let target = scratch.join("mounted");
        fs::create_dir(&target).unwrap();
        process::run("mount", &["-t", "tmpfs", "none", target.to_str().unwrap()]).unwrap();
        assert_eq!(mount::below(&path).len(), 1);
        drop(scratch);
        assert!(!path.exists());
        assert!(mount::below(&path).is_empty());
    }

    #[test]
    fn what_a_killed_owner_left_is_swept() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        let parents = [scratch.cgroup_parent(), scratch.slice()];
        for parent in &parents {
            let root = cgroup::hierarchies().remove(0);
            fs::create_dir_all(root.join(parent.trim_start_matches('/')).join("below")).unwrap();
            assert_eq!(cgroup::below(parent).len(), 1);
        }
        let mut command = std::process::Command::new("sleep");
        let child = process::Process::spawn(&scratch, "sleep", command.arg("1000")).unwrap();
        let pid = child.pid();
        std::mem::forget(child);
        assert_eq!(process::recorded(&path), [pid]);
        sweep(scratch.number(), &path);
        assert_eq!(process::start_time(pid), None);
        assert!(!path.exists());
        for parent in &parents {
            assert!(cgroup::roots(parent).is_empty(), "{parent}");
        }
    }
}
