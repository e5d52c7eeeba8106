//! A node's files below a directory.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use crate::document::Source;

/// As many symbolic links as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// No file that people write is longer, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// The directory below which a node's files are: `/`, or that of another node's tree. Symbolic
/// links are followed inside of it, absolute ones too.
#[derive(Debug, Clone)]
pub struct Root {
    directory: PathBuf,
}

impl Root {
    /// `directory` need not be there: all files are missing then.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Whether it is the node that this process runs on.
    pub fn is_live(&self) -> bool {
        self.directory == Path::new("/")
    }

    /// Where a file of the node is here, with every link followed. What is not there is kept as it
    /// is written.
    ///
    /// # Errors
    ///
    /// `ELOOP` where links lead in a circle, and what readlink(2) has against a link.
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let path = path.as_ref();
        if self.is_live() {
            return Ok(path.to_path_buf());
        }
        self.real(path)
    }

    /// Where a file of the node is here, as no link.
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`].
    pub(crate) fn real(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let mut rest: VecDeque<OsString> = parts(path.as_ref()).collect();
        let mut real = self.directory.clone();
        let mut depth = 0_usize;
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                if depth > 0 {
                    real.pop();
                    depth -= 1;
                }
                continue;
            }
            let next = real.join(&part);
            // What is no link, or not there, is for whoever opens it.
            let Ok(target) = fs::read_link(&next) else {
                real = next;
                depth += 1;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            if target.is_absolute() {
                real.clone_from(&self.directory);
                depth = 0;
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(part);
            }
        }
        Ok(real)
    }

    /// Reads a file; nothing where there is none.
    ///
    /// # Errors
    ///
    /// What is there and cannot be read, is no regular file, or has more than 8 MiB.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Option<Source>> {
        self.read_at_most(path, MAX_FILE)
    }

    /// The same of a file that a program may have written, with another limit in bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::read`]; [`io::ErrorKind::FileTooLarge`] for one that has more.
    pub(crate) fn read_at_most(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> io::Result<Option<Source>> {
        let path = path.as_ref();
        match self.bytes(path, limit) {
            Ok(bytes) => Ok(Some(Source::new(path, bytes))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn bytes(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        if file.metadata()?.len() > limit {
            return Err(too_long(limit));
        }
        let mut bytes = Vec::new();
        // Files of /proc say that they are empty.
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(too_long(limit));
        }
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> io::Result<fs::File> {
        // Opening a FIFO would wait for whoever writes to it.
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0))
            .open(self.resolve(path)?)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(file)
    }

    /// The text that a file begins with, up to its first NUL: all of a script, what a script has
    /// before the archive that it unpacks, next to nothing of a program. Nothing where there is no file.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], for one that has more text than that.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> io::Result<Option<Source>> {
        let path = path.as_ref();
        let file = match self.open(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        BufReader::new(file.take(MAX_FILE + 1)).read_until(0, &mut bytes)?;
        if bytes.last() == Some(&0) {
            bytes.pop();
        } else if bytes.len() as u64 > MAX_FILE {
            return Err(too_long(MAX_FILE));
        }
        Ok(Some(Source::new(path, bytes)))
    }

    /// Whether a file says that an interpreter runs it (`#!`, execve(2)).
    ///
    /// # Errors
    ///
    /// What is there and cannot be read.
    pub(crate) fn names_interpreter(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        let mut start = Vec::new();
        match self.open(path.as_ref()) {
            Ok(file) => file.take(2).read_to_end(&mut start)?,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(start == b"#!")
    }

    /// Where a path leads on the node, with every link followed.
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`].
    pub(crate) fn destination(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let real = self.real(path)?;
        let below = real.strip_prefix(&self.directory).unwrap_or(&real);
        Ok(Path::new("/").join(below))
    }

    /// The names in a directory, in order; none where there is no such directory.
    ///
    /// # Errors
    ///
    /// What is there and cannot be listed.
    pub fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
        let entries = match self.resolve(path).and_then(fs::read_dir) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// What is at a path, links followed; nothing where nothing is.
    ///
    /// # Errors
    ///
    /// What cannot be told.
    pub fn stat(&self, path: impl AsRef<Path>) -> io::Result<Option<fs::Metadata>> {
        match self.resolve(path).and_then(fs::metadata) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something is at a path, links followed; what cannot be told is there, so that whoever
    /// reads it says why not.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.stat(path).map_or(true, |metadata| metadata.is_some())
    }

    /// What a symbolic link says, if there is one.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let path = path.as_ref();
        let above = self.resolve(path.parent()?).ok()?;
        fs::read_link(above.join(path.file_name()?)).ok()
    }
}

/// The names in a path, without the root and `.`.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some(OsStr::new("..").to_os_string()),
        _ => None,
    })
}

/// Whether nothing is there, as opposed to something that cannot be read.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn too_long(limit: u64) -> io::Error {
    let why = format!(
        "it has more than {} MiB, which no file of this kind has",
        limit >> 20
    );
    io::Error::new(io::ErrorKind::FileTooLarge, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let tree = tempfile::tempdir().unwrap();
        let at = |path: &str| tree.path().join(path);
        fs::create_dir_all(at("etc/kubelet")).unwrap();
        fs::create_dir_all(at("data")).unwrap();
        fs::write(at("data/file"), "inside").unwrap();
        symlink("/data", at("etc/kubelet/absolute")).unwrap();
        symlink("../../../../../data/file", at("etc/kubelet/relative")).unwrap();
        symlink("loop", at("etc/kubelet/loop")).unwrap();
        let root = Root::new(tree.path());
        for path in ["/etc/kubelet/absolute/file", "/etc/kubelet/relative"] {
            let source = root.read(path).unwrap().unwrap();
            assert_eq!(source.text(), "inside", "{path}");
            assert_eq!(source.path(), Path::new(path));
            assert_eq!(root.destination(path).unwrap(), Path::new("/data/file"));
        }
        assert!(root.read("/etc/kubelet/loop").is_err());
        assert!(root.read("/etc/kubelet/none").unwrap().is_none());
        assert!(root.read("/data/file/below").unwrap().is_none());
        assert_eq!(
            root.link("/etc/kubelet/absolute"),
            Some(PathBuf::from("/data"))
        );
    }

    #[test]
    fn a_file_s_text_ends_where_its_data_begins() {
        let tree = tempfile::tempdir().unwrap();
        let root = Root::new(tree.path());
        let text = |bytes: &[u8]| {
            fs::write(tree.path().join("file"), bytes).unwrap();
            root.text("/file")
        };
        let archive = vec![b'x'; 9 << 20];
        let installer = [b"#!/bin/sh\ndocker ps\n\0".as_slice(), &archive].concat();
        for (bytes, expected) in [
            (b"".as_slice(), ""),
            (b"docker ps", "docker ps"),
            (b"\x7fELF\x02\0docker ps", "\u{7f}ELF\u{2}"),
            (&installer, "#!/bin/sh\ndocker ps\n"),
        ] {
            assert_eq!(text(bytes).unwrap().unwrap().text(), expected);
        }
        assert!(root.names_interpreter("/file").unwrap());
        assert!(text(&vec![b'x'; 8 << 20]).unwrap().is_some());
        let error = text(&vec![b'x'; (8 << 20) + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(!root.names_interpreter("/file").unwrap());
        assert!(root.text("/none").unwrap().is_none());
    }

    #[test]
    fn what_is_no_file_is_an_error_and_nothing_is_waited_for() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("directory")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tree.path().join("fifo"), 0o600.into()).unwrap();
        let root = Root::new(tree.path());
        assert!(root.read("/directory").is_err());
        assert!(root.read("/fifo").is_err());
        assert!(root.list("/none").unwrap().is_empty());
        assert_eq!(root.list("/").unwrap(), ["directory", "fifo"]);
    }
}
