//! `slipway migrate clean`: what a node that has left Docker keeps of it until then.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Root;
use crate::node::{Docker, Facts, Look, Options, is_remapped};

/// Docker's `data-root`, where nobody says otherwise.
const DATA_ROOT: &str = "/var/lib/docker";

/// What those who stood between the kubelet and Docker kept of pods.
const CHECKPOINTS: [&str; 2] = ["/var/lib/dockershim", "/var/lib/cri-dockerd"];

/// What dockerd makes in its data-root.
const DOCKERS: [&str; 22] = [
    "aufs",
    "btrfs",
    "buildkit",
    "builder",
    "containers",
    "devicemapper",
    "engine-id",
    "fuse-overlayfs",
    "image",
    "network",
    "nuke-graph-directory.sh",
    "overlay",
    "overlay2",
    "plugins",
    "rootfs",
    "runtimes",
    "swarm",
    "tmp",
    "trust",
    "vfs",
    "volumes",
    "zfs",
];

/// A directory that Docker has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// What Docker's files in it take on the disk, in bytes.
    pub bytes: u64,
    /// What is in it and not Docker's. It stays.
    pub others: Vec<PathBuf>,
    /// Whether nothing in it shows that dockerd had its data there. All of it stays.
    pub doubtful: bool,
}

/// What dockerd has made in every data-root, whatever its version and its storage driver: its own ID, the
/// store of its networks, the list of its images.
const MARKS: [&str; 3] = ["engine-id", "network", "image"];

/// Whether a directory is a data-root: it has what only dockerd makes, or has it in a directory for
/// userns-remap.
fn has_marks(directory: &Path) -> io::Result<bool> {
    let has = |path: &str| directory.join(path).is_file();
    if has("engine-id") || has("network/files/local-kv.db") {
        return Ok(true);
    }
    let images = match fs::read_dir(directory.join("image")) {
        Ok(images) => images.collect::<io::Result<Vec<_>>>()?,
        Err(_) => Vec::new(),
    };
    if images
        .iter()
        .any(|one| one.path().join("repositories.json").is_file())
    {
        return Ok(true);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_remapped = name.to_str().is_some_and(is_remapped);
        if is_remapped && entry.file_type()?.is_dir() && has_marks(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Why something stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its data is in use.
    #[error(
        "dockerd runs: when slipway engines says that no pods are left in it, stop it and keep it from starting (systemctl disable --now docker.socket docker.service, or snap stop --disable docker), then clean again"
    )]
    Running,
    /// Somebody uses it.
    #[error("{} is mounted: something of Docker's still runs, or was killed; unmount it, or reboot, then clean again", path.display())]
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// What the system says.
    #[error("{}: {source}", path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// What Docker has left on the node. `recorded` is where it had its data while it ran; without that its
/// unit and its `daemon.json` say it. What is there is Docker's by what only dockerd makes, and stays
/// where that is missing.
///
/// # Errors
///
/// [`Error::Running`], and what cannot be looked at.
pub async fn leftovers(root: &Root, recorded: Option<&Path>) -> Result<Vec<Leftover>, Error> {
    let mut look = Look::new(root);
    let facts = Facts::gather(&mut look, &Options::default()).await;
    let docker = facts.runtimes.docker.as_ref();
    if docker.is_some_and(|docker| docker.process.is_some()) {
        return Err(Error::Running);
    }
    let said = || docker.and_then(Docker::data_root).map(PathBuf::from);
    let data = recorded.map(Path::to_path_buf).or_else(said);
    let data = data.unwrap_or_else(|| DATA_ROOT.into());
    let mut found = Vec::new();
    for path in [data].into_iter().chain(CHECKPOINTS.map(PathBuf::from)) {
        let is_checkpoint = CHECKPOINTS.iter().any(|one| path == Path::new(one));
        let look = || -> io::Result<Option<Leftover>> {
            let real = root.real(&path)?;
            if !real.is_dir() {
                return Ok(None);
            }
            let (mut bytes, mut others) = (0, Vec::new());
            let doubtful = !is_checkpoint && !has_marks(&real)?;
            for entry in fs::read_dir(&real)? {
                let entry = entry?;
                // A data-root may be a disk that has other things as well.
                if !doubtful && (is_dockers(&entry) || is_checkpoint) {
                    bytes += size(&entry.path())?;
                } else {
                    others.push(path.join(entry.file_name()));
                }
            }
            others.sort();
            if doubtful && others.is_empty() {
                return Ok(None);
            }
            let path = path.clone();
            Ok(Some(Leftover {
                path,
                bytes,
                others,
                doubtful,
            }))
        };
        let leftover = look().map_err(|source| Error::System {
            path: path.clone(),
            source,
        });
        found.extend(leftover?);
    }
    Ok(found)
}

/// Whether an entry of a data-root is one that dockerd makes there.
fn is_dockers(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let Some(name) = name.to_str() else {
        return false;
    };
    // Of its own containerd; another one's root has other entries.
    if name == "containerd" {
        let mut own = fs::read_dir(entry.path()).into_iter().flatten();
        return own.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "daemon"));
    }
    // With userns-remap everything is in a directory of such a name.
    DOCKERS.contains(&name) || is_remapped(name)
}

/// That nothing is mounted in what is going to be removed.
///
/// # Errors
///
/// [`Error::Mounted`], and what cannot be looked at.
pub fn check(root: &Root, leftover: &Leftover) -> Result<(), Error> {
    let at = |source| Error::System {
        path: leftover.path.clone(),
        source,
    };
    let real = root.real(&leftover.path).map_err(at)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(at)?;
    let points: Vec<_> = mounts.lines().filter_map(mount_point).collect();
    match mounted_in(&points, &real) {
        Some(path) => Err(Error::Mounted {
            path: path.to_path_buf(),
        }),
        None => Ok(()),
    }
}

/// Removes what is Docker's in a directory, and the directory itself where nothing else is in it and
/// it can be removed: a mount point stays.
///
/// # Errors
///
/// As [`check`], before anything is removed; and what cannot be removed.
pub fn remove(root: &Root, leftover: &Leftover) -> Result<(), Error> {
    check(root, leftover)?;
    let remove = || -> io::Result<()> {
        let real = root.real(&leftover.path)?;
        let kept: Vec<_> = leftover
            .others
            .iter()
            .filter_map(|path| path.file_name())
            .collect();
        remove_entries(&real, &kept)?;
        match fs::remove_dir(&real) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    };
    remove().map_err(|source| Error::System {
        path: leftover.path.clone(),
        source,
    })
}

/// Removes what is in a directory; what shows that it is Docker's comes last, so that whoever is cut off
/// can go on.
fn remove_entries(directory: &Path, kept: &[&OsStr]) -> io::Result<()> {
    let entries: io::Result<Vec<_>> = fs::read_dir(directory)?.collect();
    let mut entries = entries?;
    entries.retain(|entry| !kept.contains(&entry.file_name().as_os_str()));
    entries.sort_by_key(|entry| match entry.file_name().to_str() {
        Some(name) if is_remapped(name) => 1,
        Some(name) if MARKS.contains(&name) => 2,
        _ => 0,
    });
    for entry in entries {
        let name = entry.file_name();
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        } else if name.to_str().is_some_and(is_remapped) {
            remove_entries(&entry.path(), &[])?;
            fs::remove_dir(entry.path())?;
        } else {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What is mounted below a directory.
fn mounted_in<'a>(points: &'a [PathBuf], directory: &Path) -> Option<&'a Path> {
    let mut below = points.iter().filter(|point| point.starts_with(directory));
    below
        .find(|point| *point != directory)
        .map(PathBuf::as_path)
}

/// The mount point of a line of proc_pid_mountinfo(5), whose blanks are octal.
fn mount_point(line: &str) -> Option<PathBuf> {
    let written = line.split(' ').nth(4)?;
    let mut path = String::new();
    let mut parts = written.split('\\');
    path.push_str(parts.next()?);
    for part in parts {
        let (code, rest) = part.split_at_checked(3)?;
        path.push(char::from(u8::from_str_radix(code, 8).ok()?));
        path.push_str(rest);
    }
    Some(PathBuf::from(path))
}

/// What the files of a directory take, links not followed.
fn size(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let own = fs::symlink_metadata(directory)?;
    let mut bytes = own.blocks() * 512;
    if !own.is_dir() {
        return Ok(bytes);
    }
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_docker_left_is_found_where_it_was_told_to_be() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        for directory in [
            "etc/docker",
            "data/docker/overlay2",
            "var/lib/dockershim/sandbox",
            "var/lib/docker",
            "usr/bin",
        ] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("usr/bin/dockerd"), "").unwrap();
        fs::write(
            at("etc/docker/daemon.json"),
            "{\"data-root\": \"/data/docker\"}",
        )
        .unwrap();
        fs::write(at("data/docker/engine-id"), "x").unwrap();
        fs::write(at("data/docker/overlay2/layer"), vec![1; 100_000]).unwrap();
        fs::create_dir_all(at("data/docker/containerd/io.containerd.metadata.v1.bolt")).unwrap();
        fs::create_dir_all(at("data/docker/100000.100000")).unwrap();
        fs::write(at("data/docker/mine"), "not Docker's").unwrap();
        let root = Root::new(tree.path());
        fs::create_dir_all(at("proc/7")).unwrap();
        fs::write(at("proc/7/cmdline"), "/usr/bin/dockerd").unwrap();
        let running = leftovers(&root, None).await.unwrap_err();
        assert!(matches!(running, Error::Running), "{running}");
        fs::remove_dir_all(at("proc/7")).unwrap();
        let found = leftovers(&root, None).await.unwrap();
        let others = ["/data/docker/containerd", "/data/docker/mine"];
        assert_eq!(found[0].others, others.map(PathBuf::from));
        let paths: Vec<_> = found.iter().map(|one| one.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/data/docker", "/var/lib/dockershim"]);
        assert!(found[0].bytes >= 100_000, "{found:?}");
        for one in &found {
            remove(&root, one).unwrap();
        }
        assert!(!at("data/docker/overlay2").exists() && !at("data/docker/100000.100000").exists());
        assert!(at("data/docker/containerd/io.containerd.metadata.v1.bolt").exists());
        fs::remove_dir_all(at("data/docker/containerd")).unwrap();
        fs::remove_file(at("data/docker/mine")).unwrap();
        // Whoever was cut off goes on.
        fs::write(at("data/docker/engine-id"), "x").unwrap();
        for one in &leftovers(&root, None).await.unwrap() {
            remove(&root, one).unwrap();
        }
        assert!(!at("data/docker").exists());
        assert!(at("var/lib/docker").exists(), "it was never Docker's here");
        assert!(leftovers(&root, None).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_stopped_dockers_data_is_where_it_said_or_its_unit_does() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        let root = Root::new(tree.path());
        let make = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        let paths = async |recorded: Option<&str>| -> Vec<String> {
            let found = leftovers(&root, recorded.map(Path::new)).await.unwrap();
            let shown = found.iter().map(|one| {
                let doubt = if one.doubtful { " doubtful" } else { "" };
                format!("{}{doubt}", one.path.display())
            });
            shown.collect()
        };
        // Nothing is left that says it, but the journal.
        make("data/a/network/files/local-kv.db", "");
        make("data/a/overlay2/x", "");
        assert_eq!(paths(Some("/data/a")).await, ["/data/a"]);
        assert!(paths(None).await.is_empty());
        // The flags of a unit that is stopped, and a daemon.json that these name.
        let unit = "etc/systemd/system/docker.service";
        make(unit, "[Service]\nExecStart=/usr/bin/dockerd -g /data/b\n");
        make("data/b/100000.100000/image/overlay2/repositories.json", "");
        assert_eq!(paths(None).await, ["/data/b"]);
        make(
            unit,
            "[Service]\nExecStart=/usr/bin/dockerd --config-file /etc/d.json\n",
        );
        make("etc/d.json", "{\"data-root\": \"/data/c\"}");
        make("data/c/engine-id", "");
        assert_eq!(paths(None).await, ["/data/c"]);
        // A snap's unit says nothing of it.
        fs::remove_file(at(unit)).unwrap();
        make(
            "etc/systemd/system/snap.docker.dockerd.service",
            "[Service]\nExecStart=/usr/bin/snap run docker.dockerd\n",
        );
        make("var/snap/docker/common/var-lib-docker/engine-id", "");
        assert_eq!(
            paths(None).await,
            ["/var/snap/docker/common/var-lib-docker"]
        );
        make(
            "var/snap/docker/current/config/daemon.json",
            "{\"data-root\": \"/data/c\"}",
        );
        assert_eq!(paths(None).await, ["/data/c"]);
        // Directories that are called like Docker's are not Docker's by that.
        make("data/d/volumes/mine", "");
        make("data/d/tmp/mine", "");
        assert_eq!(paths(Some("/data/d")).await, ["/data/d doubtful"]);
        let found = leftovers(&root, Some(Path::new("/data/d"))).await.unwrap();
        remove(&root, &found[0]).unwrap();
        assert!(at("data/d/volumes/mine").exists() && at("data/d/tmp/mine").exists());
    }

    #[test]
    fn what_is_mounted_stays() {
        let mount =
            mount_point("36 35 98:0 / /var/lib/docker/a\\040b rw - ext4 /dev/x rw").unwrap();
        assert_eq!(mount, Path::new("/var/lib/docker/a b"));
        let points =
            ["/", "/var/lib/docker", "/var/lib/docker2/x", "/data/a b/c"].map(PathBuf::from);
        assert_eq!(mounted_in(&points, Path::new("/var/lib/docker")), None);
        assert_eq!(
            mounted_in(&points, Path::new("/data/a b")),
            Some(Path::new("/data/a b/c"))
        );
    }
}
