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

/// A directory that Docker has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// What its files take on the disk, in bytes.
    pub bytes: u64,
}

/// Why something stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
/// What cannot be looked at.
pub async fn leftovers(root: &Root) -> Result<Vec<Leftover>, Error> {
    let mut look = Look::new(root);
    let facts = Facts::gather(&mut look, &Options::default()).await;
    let docker = facts.runtimes.docker.as_ref();
    let said = |key: &str| docker.and_then(|docker| docker.says(key));
    let data = said("data-root").or_else(|| said("graph"));
    let data = data.unwrap_or_else(|| DATA_ROOT.to_string());
    let mut found = Vec::new();
    for path in [data.as_str()].iter().chain(&CHECKPOINTS) {
        let path = PathBuf::from(path);
        let at = |source| Error::System {
            path: path.clone(),
            source,
        };
        let real = root.real(&path).map_err(at)?;
        // Docker makes its directory again where it is asked for its version alone.
        if real.is_dir() {
            let bytes = size(&real).map_err(at)?;
            found.push(Leftover { path, bytes });
        }
    }
    Ok(found)
}

/// Removes a directory with all that is in it. One that is a mount point of its own is emptied.
///
/// # Errors
///
/// [`Error::Mounted`] before anything is removed, where something is mounted in it.
pub fn remove(root: &Root, leftover: &Leftover) -> Result<(), Error> {
    let path = &leftover.path;
    let at = |source| Error::System {
        path: path.clone(),
        source,
    };
    let real = root.real(path).map_err(at)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(at)?;
    let points: Vec<_> = mounts.lines().filter_map(mount_point).collect();
    if let Some(path) = mounted_in(&points, &real) {
        let path = path.to_path_buf();
        return Err(Error::Mounted { path });
    }
    if points.contains(&real) {
        for entry in fs::read_dir(&real).map_err(at)? {
            let path = entry.map_err(at)?.path();
            let is_directory = fs::symlink_metadata(&path).map_err(at)?.is_dir();
            let removed = if is_directory {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(at)?;
        }
        return Ok(());
    }
    fs::remove_dir_all(&real).map_err(at)
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
    let mut bytes = 0;
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
        let root = Root::new(tree.path());
        let found = leftovers(&root).await.unwrap();
        let paths: Vec<_> = found.iter().map(|one| one.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/data/docker", "/var/lib/dockershim"]);
        assert!(found[0].bytes >= 100_000, "{found:?}");
        for one in &found {
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
