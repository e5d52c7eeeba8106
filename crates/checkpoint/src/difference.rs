//! What a container has written: its writable layer as a tar file, and the list of what it has
//! deleted.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::Content;
use crate::archive::exactly;

/// The mark of overlayfs on a directory that hides those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Writes the tar file to `path` and answers the paths, from the root, that were deleted.
pub(super) fn write(content: &Content, path: &Path) -> io::Result<Vec<String>> {
    let config = content
        .described
        .iter()
        .find(|(name, _)| *name == "spec.dump");
    let mounts = config.and_then(|(_, config)| config["mounts"].as_array());
    let mounts = mounts.into_iter().flatten();
    let difference = Difference {
        upper: &content.upper,
        layers: &content.layers,
        mounted: mounts
            .filter_map(|mount| mount["destination"].as_str())
            .map(|path| {
                Path::new(path)
                    .strip_prefix("/")
                    .unwrap_or(Path::new(""))
                    .to_owned()
            })
            .collect(),
        archive: tar::Builder::new(BufWriter::with_capacity(1 << 20, File::create(path)?)),
        links: HashMap::new(),
        deleted: Vec::new(),
    };
    difference.finish()
}

struct Difference<'a, W: Write> {
    upper: &'a Path,
    layers: &'a [PathBuf],
    /// What stands at these paths was made to be mounted over.
    mounted: HashSet<PathBuf>,
    archive: tar::Builder<W>,
    /// The first name of each file that has several.
    links: HashMap<u64, PathBuf>,
    deleted: Vec<String>,
}

impl<W: Write> Difference<'_, W> {
    fn finish(mut self) -> io::Result<Vec<String>> {
        self.directory(Path::new(""))?;
        self.archive.into_inner()?.flush()?;
        Ok(self.deleted)
    }

    fn directory(&mut self, relative: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(self.upper.join(relative))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        if self.is_opaque(relative) {
            self.hidden_below(relative, &names.iter().cloned().collect());
        }
        for name in names {
            let path = relative.join(name);
            match self.upper.join(&path).symlink_metadata() {
                // The container goes on: it may have gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => self.entry(&path, &found?)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, found: &fs::Metadata) -> io::Result<()> {
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            self.delete(path);
            return Ok(());
        }
        if self.mounted.contains(path) || kind.is_socket() {
            return Ok(());
        }
        let full = self.upper.join(path);
        let mut header = tar::Header::new_gnu();
        header.set_metadata(found);
        if kind.is_dir() {
            self.attributes(&full)?;
            self.archive.append_data(&mut header, path, io::empty())?;
            return self.directory(path);
        }
        if found.nlink() > 1 {
            if let Some(first) = self.links.get(&found.ino()) {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                return self.archive.append_link(&mut header, path, first);
            }
            self.links.insert(found.ino(), path.to_owned());
        }
        if kind.is_symlink() {
            header.set_size(0);
            let target = fs::read_link(&full)?;
            return self.archive.append_link(&mut header, path, target);
        }
        if kind.is_file() {
            let file = match File::open(&full) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            self.attributes(&full)?;
            let length = found.len();
            return self
                .archive
                .append_data(&mut header, path, exactly(file, length));
        }
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(rustix::fs::major(found.rdev()))?;
            header.set_device_minor(rustix::fs::minor(found.rdev()))?;
        }
        header.set_size(0);
        self.archive.append_data(&mut header, path, io::empty())
    }

    /// The extended attributes of what comes next, without overlayfs' own.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let mut names = vec![0_u8; 4096];
        let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else {
            return Ok(());
        };
        let mut found = Vec::new();
        for name in names[..length].split(|byte| *byte == 0) {
            let Ok(name) = str::from_utf8(name) else {
                continue;
            };
            if name.is_empty() || name.starts_with("trusted.overlay.") {
                continue;
            }
            let mut value = vec![0_u8; 65536];
            if let Ok(length) = rustix::fs::lgetxattr(path, name, &mut value[..]) {
                value.truncate(length);
                found.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let found = found
            .iter()
            .map(|(name, value)| (name.as_str(), &value[..]));
        self.archive.append_pax_extensions(found)
    }

    fn is_opaque(&self, relative: &Path) -> bool {
        let mut value = [0_u8; 1];
        let path = self.upper.join(relative);
        matches!(rustix::fs::lgetxattr(&path, OPAQUE, &mut value[..]), Ok(1) if value == *b"y")
    }

    /// Everything in an image's directory that was deleted and made anew, but what is there again.
    fn hidden_below(&mut self, relative: &Path, again: &HashSet<std::ffi::OsString>) {
        let mut hidden = HashSet::new();
        for layer in self.layers {
            for entry in fs::read_dir(layer.join(relative))
                .into_iter()
                .flatten()
                .flatten()
            {
                hidden.insert(entry.file_name());
            }
        }
        let mut hidden: Vec<_> = hidden.difference(again).collect();
        hidden.sort();
        for name in hidden {
            self.delete(&relative.join(name));
        }
    }

    fn delete(&mut self, path: &Path) {
        self.deleted.push(format!("/{}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

    use super::*;

    #[test]
    fn what_was_written_is_in_the_archive_and_what_was_deleted_in_the_list() {
        let directory = tempfile::tempdir().unwrap();
        let [upper, layer] = ["upper", "layer"].map(|name| directory.path().join(name));
        fs::create_dir_all(upper.join("a/b")).unwrap();
        fs::create_dir_all(upper.join("anew")).unwrap();
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::create_dir_all(layer.join("anew")).unwrap();
        fs::write(layer.join("anew/old"), "").unwrap();
        fs::write(layer.join("anew/both"), "").unwrap();
        fs::write(upper.join("anew/both"), "new").unwrap();
        fs::write(upper.join("a/b/file"), "content").unwrap();
        fs::hard_link(upper.join("a/b/file"), upper.join("a/twin")).unwrap();
        symlink("/a/b", upper.join("link")).unwrap();
        fs::write(upper.join("etc/hosts"), "").unwrap();
        let no_device = makedev(0, 0);
        let gone = upper.join("etc/gone");
        mknodat(
            CWD,
            &gone,
            FileType::CharacterDevice,
            Mode::empty(),
            no_device,
        )
        .unwrap();
        let no_flags = XattrFlags::empty();
        setxattr(upper.join("anew"), OPAQUE, b"y", no_flags).unwrap();
        let tar = directory.path().join("diff.tar");
        let difference = Difference {
            upper: &upper,
            layers: &[layer],
            mounted: [PathBuf::from("etc/hosts")].into(),
            archive: tar::Builder::new(File::create(&tar).unwrap()),
            links: HashMap::new(),
            deleted: Vec::new(),
        };
        assert_eq!(difference.finish().unwrap(), ["/anew/old", "/etc/gone"]);
        let mut archive = tar::Archive::new(File::open(&tar).unwrap());
        let found: BTreeMap<_, _> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry
                    .link_name()
                    .unwrap()
                    .map(|it| it.display().to_string());
                let name = entry.path().unwrap().display().to_string();
                (name, (entry.size(), link))
            })
            .collect();
        let link = |target: &str| (0, Some(target.to_owned()));
        let expected = [
            ("a", (0, None)),
            ("a/b", (0, None)),
            ("a/b/file", (7, None)),
            ("a/twin", link("a/b/file")),
            ("anew", (0, None)),
            ("anew/both", (3, None)),
            ("etc", (0, None)),
            ("link", link("/a/b")),
        ];
        let expected = expected.map(|(name, rest)| (name.to_owned(), rest));
        assert_eq!(found, expected.into());
    }
}
