//! `slipway migrate clean`: what a node that has left Docker keeps of it until then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Root;
use crate::node::{Facts, Look, Options};

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

/// What Docker has left on the node.
///
/// # Errors
///
/// [`Error::Running`], and what cannot be looked at.
pub async fn leftovers(root: &Root) -> Result<Vec<Leftover>, Error> {
    let mut look = Look::new(root);
    let facts = Facts::gather(&mut look, &Options::default()).await;
    let docker = facts.runtimes.docker.as_ref();
    if docker.is_some_and(|docker| docker.process.is_some()) {
        return Err(Error::Running);
    }
    let said = |key: &str| docker.and_then(|docker| docker.says(key));
    let data = said("data-root").or_else(|| said("graph"));
    let data = data.unwrap_or_else(|| DATA_ROOT.to_string());
    let mut found = Vec::new();
    for path in [data.as_str()].iter().chain(&CHECKPOINTS) {
        let path = PathBuf::from(path);
        let look = || -> io::Result<Option<Leftover>> {
            let real = root.real(&path)?;
            if !real.is_dir() {
                return Ok(None);
            }
            let (mut bytes, mut others) = (0, Vec::new());
            for entry in fs::read_dir(&real)? {
                let entry = entry?;
                // A data-root may be a disk that has other things as well.
                if is_dockers(&entry) || CHECKPOINTS.iter().any(|one| path == Path::new(one)) {
                    bytes += size(&entry.path())?;
                } else {
                    others.push(path.join(entry.file_name()));
                }
            }
            others.sort();
            let path = path.clone();
            Ok(Some(Leftover {
                path,
                bytes,
                others,
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
    // With userns-remap everything is in a directory of this name.
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let is_remapped = || {
        name.split_once('.')
            .is_some_and(|(uid, gid)| is_number(uid) && is_number(gid))
    };
    DOCKERS.contains(&name) || is_remapped()
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
        for entry in fs::read_dir(&real)? {
            let entry = entry?;
            if leftover
                .others
                .contains(&leftover.path.join(entry.file_name()))
            {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
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
        fs::write(at("data/docker/overlay2/layer"), vec![1; 100_000]).unwrap();
        fs::create_dir_all(at("data/docker/containerd/io.containerd.metadata.v1.bolt")).unwrap();
        fs::create_dir_all(at("data/docker/100000.100000")).unwrap();
        fs::write(at("data/docker/mine"), "not Docker's").unwrap();
        let root = Root::new(tree.path());
        fs::create_dir_all(at("proc/7")).unwrap();
        fs::write(at("proc/7/cmdline"), "/usr/bin/dockerd").unwrap();
        let running = leftovers(&root).await.unwrap_err();
        assert!(matches!(running, Error::Running), "{running}");
        fs::remove_dir_all(at("proc/7")).unwrap();
        let found = leftovers(&root).await.unwrap();
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
        for one in &leftovers(&root).await.unwrap() {
            remove(&root, one).unwrap();
        }
        assert!(!at("data/docker").exists());
        assert!(at("var/lib/docker").exists(), "it was never Docker's here");
        assert!(leftovers(&root).await.unwrap().is_empty());
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
