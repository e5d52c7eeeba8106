//! The files at a place of the node and below it. Each is looked at once, whatever names links give
//! it; where there are too many, the report says so.

use std::collections::{HashSet, VecDeque};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::look::Look;

/// As many files and directories as are looked at below one place.
const MAX_ENTRIES: usize = 20_000;

/// What packages, the kernel and runtimes have, and nobody who administers the node.
const OF_THE_SYSTEM: [&str; 15] = [
    "/bin",
    "/boot",
    "/dev",
    "/lib",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/snap",
    "/sys",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
];

/// What has that below it, beside places that are looked at by themselves.
const ABOVE_IT: [&str; 4] = ["/", "/etc", "/var", "/var/lib"];

/// What was looked at already.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// By device and inode.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    /// Whether a file or directory has not been looked at before; it has from now on.
    pub(super) fn is_new(&mut self, metadata: &Metadata) -> bool {
        self.seen.insert((metadata.dev(), metadata.ino()))
    }

    /// The files at `place` and below it that have not been looked at before, those of upper
    /// directories first. `is_left_out` is asked for what is below the place.
    pub(super) fn files(
        &mut self,
        look: &mut Look<'_>,
        place: &Path,
        is_left_out: impl Fn(&Path) -> bool,
    ) -> Vec<(PathBuf, Metadata)> {
        self.at_most(MAX_ENTRIES, look, place, is_left_out)
    }

    fn at_most(
        &mut self,
        limit: usize,
        look: &mut Look<'_>,
        place: &Path,
        is_left_out: impl Fn(&Path) -> bool,
    ) -> Vec<(PathBuf, Metadata)> {
        let mut files = Vec::new();
        let mut waiting = VecDeque::from([place.to_path_buf()]);
        // What is there by a name of its own and by a link is found by its own.
        let mut links = VecDeque::new();
        let mut entries = 0;
        while let Some(path) = waiting.pop_front().or_else(|| links.pop_front()) {
            let is_place = path == place;
            if !is_place && is_left_out(&path) {
                continue;
            }
            if entries == limit {
                look.report.miss(
                    format!("files below {}", place.display()),
                    format!("only the first {limit} files and directories were looked at"),
                    "search the others by hand (grep -rIw docker)",
                );
                break;
            }
            entries += 1;
            let Some(metadata) = look.metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                if !self.is_new(&metadata) {
                    continue;
                }
                for path in look.list(&path) {
                    if look.root.link(&path).is_none() {
                        waiting.push_back(path);
                    } else if !leads_to_the_system(look, &path) {
                        links.push_back(path);
                    }
                }
            } else if metadata.is_file() && self.is_new(&metadata) {
                files.push((path, metadata));
            }
        }
        files
    }
}

/// Whether a directory is the system's, or above what is.
pub(super) fn is_of_the_system(path: &Path) -> bool {
    let below = |above: &&str| path.starts_with(above);
    ABOVE_IT.iter().any(|above| path == Path::new(above))
        || OF_THE_SYSTEM.iter().any(below) && !below(&"/usr/local")
}

/// Whether a link leads to a directory that is the system's.
fn leads_to_the_system(look: &Look<'_>, link: &Path) -> bool {
    let is_directory = look.root.stat(link);
    let is_directory = is_directory.is_ok_and(|one| one.is_some_and(|one| one.is_dir()));
    let destination = look.root.destination(link);
    is_directory && destination.is_ok_and(|path| is_of_the_system(&path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::Root;

    #[test]
    fn links_are_followed_and_nothing_is_twice() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        for path in ["opt/a/b/c/d/e/f/g/deep", "data/app/run", "usr/lib/x/own"] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), "x").unwrap();
        }
        fs::create_dir_all(at("opt/left/out")).unwrap();
        symlink("/data/app", at("opt/app")).unwrap();
        symlink("/opt", at("data/app/back")).unwrap();
        symlink("/opt/a/b", at("opt/again")).unwrap();
        symlink("run", at("data/app/same")).unwrap();
        for (name, target) in [("root", "/"), ("lib", "/usr/lib/x"), ("var", "/var")] {
            symlink(target, at(&format!("opt/{name}"))).unwrap();
        }
        let root = Root::new(tree.path());
        let mut look = Look::new(&root);
        let mut walk = Walk::default();
        let mut names = |place: &str| {
            let files = walk.files(&mut look, Path::new(place), |path| path.ends_with("left"));
            let names = files.into_iter().map(|(path, _)| path);
            names.collect::<Vec<_>>()
        };
        let expected = ["/opt/a/b/c/d/e/f/g/deep", "/opt/app/run"];
        assert_eq!(names("/opt"), expected.map(PathBuf::from));
        assert!(names("/data").is_empty());
        assert_eq!(names("/usr/lib/x"), [PathBuf::from("/usr/lib/x/own")]);
        assert!(look.report.unseen.is_empty(), "{:?}", look.report.unseen);
    }

    #[test]
    fn what_is_too_much_is_told() {
        let tree = tempfile::tempdir().unwrap();
        for name in 0..9 {
            fs::write(tree.path().join(name.to_string()), "x").unwrap();
        }
        let root = Root::new(tree.path());
        for (limit, told) in [(10, false), (9, true)] {
            let mut look = Look::new(&root);
            let files = Walk::default().at_most(limit, &mut look, Path::new("/"), |_| false);
            assert_eq!(files.len(), limit - 1);
            assert_eq!(!look.report.unseen.is_empty(), told, "{limit}");
        }
    }
}
