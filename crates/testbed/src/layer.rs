//! Layers built in memory.

use std::fs;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};

/// A layer: a tar archive that is written entry by entry, with a fixed modification time.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    pub(crate) archive: Arc<Vec<u8>>,
    extensions: Vec<(String, Vec<u8>)>,
    owner: (u64, u64),
}

/// What a tar header says beside the name.
struct Attributes<'a> {
    kind: tar::EntryType,
    mode: u32,
    link: &'a str,
    device: (u32, u32),
    data: &'a [u8],
}

impl Layer {
    /// The modification time of every entry, in seconds since 1970.
    pub const MODIFIED: u64 = 1_700_000_000;

    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer from a whole archive, which need not be a good one.
    pub fn from_tar(archive: impl Into<Vec<u8>>) -> Self {
        Self {
            archive: Arc::new(archive.into()),
            ..Self::default()
        }
    }

    /// The Debian package's static busybox with links for all of its applets, and the few files
    /// and directories that make a system of it. Users: root (0), daemon (1), nobody (65534) and
    /// `app` (1000, group `app` 1000, also in group `extra` 2000).
    ///
    /// # Errors
    /// When `/bin/busybox` is not there or not static.
    pub fn busybox() -> Result<Self> {
        static LAYER: OnceLock<Layer> = OnceLock::new();
        if let Some(layer) = LAYER.get() {
            return Ok(layer.clone());
        }
        let program = fs::read("/bin/busybox").context("is busybox-static installed?")?;
        ensure!(
            has_no_interpreter(&program),
            "/bin/busybox is not static: install the package busybox-static"
        );
        let list = Command::new("/bin/busybox").arg("--list").output()?.stdout;
        let mut layer = Self::new()
            .directory("bin", 0o755)
            .directory("etc", 0o755)
            .directory("root", 0o700)
            .directory("tmp", 0o1777)
            .directory("var", 0o755)
            .file("bin/busybox", 0o755, program)
            .file("etc/passwd", 0o644, PASSWD)
            .file("etc/group", 0o644, GROUP);
        for applet in String::from_utf8_lossy(&list)
            .lines()
            .filter(|name| *name != "busybox")
        {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        Ok(LAYER.get_or_init(|| layer).clone())
    }

    /// The owner of the entries that follow; root if never called.
    #[must_use]
    pub fn owned_by(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// A PAX record for the next entry, such as `SCHILY.xattr.user.color`.
    #[must_use]
    pub fn pax(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.extensions.push((key.to_owned(), value.into()));
        self
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, data: impl AsRef<[u8]>) -> Self {
        self.put(name, tar::EntryType::Regular, mode, "", data.as_ref())
    }

    /// A directory.
    #[must_use]
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.put(name, tar::EntryType::Directory, mode, "", &[])
    }

    /// A symbolic link to any text.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.put(name, tar::EntryType::Symlink, 0o777, target, &[])
    }

    /// A hard link to an entry's name.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.put(name, tar::EntryType::Link, 0o644, target, &[])
    }

    /// A FIFO.
    #[must_use]
    pub fn fifo(self, name: &str, mode: u32) -> Self {
        self.put(name, tar::EntryType::Fifo, mode, "", &[])
    }

    /// A character device.
    #[must_use]
    pub fn character_device(self, name: &str, mode: u32, major: u32, minor: u32) -> Self {
        let kind = tar::EntryType::Char;
        self.write(
            name,
            &Attributes {
                kind,
                mode,
                link: "",
                device: (major, minor),
                data: &[],
            },
        )
    }

    /// The mark that removes `name` of the layers below.
    #[must_use]
    pub fn whiteout(self, name: &str) -> Self {
        let (directory, base) = name
            .rsplit_once('/')
            .map_or((None, name), |(d, b)| (Some(d), b));
        let mark = format!(".wh.{base}");
        let mark = directory.map_or(mark.clone(), |directory| format!("{directory}/{mark}"));
        self.file(&mark, 0o644, [])
    }

    /// The mark that hides what the layers below have in `directory`.
    #[must_use]
    pub fn opaque(self, directory: &str) -> Self {
        self.file(&format!("{directory}/.wh..wh..opq"), 0o644, [])
    }

    fn put(self, name: &str, kind: tar::EntryType, mode: u32, link: &str, data: &[u8]) -> Self {
        self.write(
            name,
            &Attributes {
                kind,
                mode,
                link,
                device: (0, 0),
                data,
            },
        )
    }

    /// Names are written as they are, also those that no archiver would write (`../x`); one that
    /// does not fit into the header becomes a PAX record.
    fn write(mut self, name: &str, attributes: &Attributes<'_>) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(attributes.kind);
        header.set_mode(attributes.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(Self::MODIFIED);
        header.set_size(attributes.data.len() as u64);
        if attributes.kind == tar::EntryType::Char {
            let (major, minor) = attributes.device;
            header
                .set_device_major(major)
                .expect("a ustar header has devices");
            header
                .set_device_minor(minor)
                .expect("a ustar header has devices");
        }
        let fields = header.as_old_mut();
        let mut extensions = std::mem::take(&mut self.extensions);
        for (key, field, text) in [
            ("path", &mut fields.name, name),
            ("linkpath", &mut fields.linkname, attributes.link),
        ] {
            let fitting = &text.as_bytes()[..text.len().min(field.len())];
            field[..fitting.len()].copy_from_slice(fitting);
            if fitting.len() < text.len() {
                extensions.push((key.to_owned(), text.as_bytes().to_vec()));
            }
        }
        header.set_cksum();
        let archive = Arc::unwrap_or_clone(std::mem::take(&mut self.archive));
        let mut builder = tar::Builder::new(archive);
        if !extensions.is_empty() {
            let records = extensions
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()));
            builder
                .append_pax_extensions(records)
                .expect("memory takes every write");
        }
        builder
            .append(&header, attributes.data)
            .expect("memory takes every write");
        let mut archive = builder.into_inner().expect("memory takes every write");
        archive.truncate(archive.len() - END_OF_ARCHIVE);
        self.archive = Arc::new(archive);
        self
    }

    /// The whole archive.
    pub(crate) fn to_tar(&self) -> Vec<u8> {
        let mut archive = self.archive.to_vec();
        archive.resize(archive.len() + END_OF_ARCHIVE, 0);
        archive
    }
}

/// Whether a 64-bit little-endian ELF file names no dynamic linker: it has no program header of
/// type `PT_INTERP`; see elf(5).
fn has_no_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: &[u8] = &[3, 0, 0, 0];
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum: usize, &byte| sum << 8 | usize::from(byte)),
        )
    };
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    elf.starts_with(b"\x7fELF\x02\x01")
        && (0..count).all(|index| {
            let at = table.saturating_add(index * size);
            elf.get(at..at.saturating_add(4))
                .is_some_and(|kind| kind != PT_INTERP)
        })
}

/// Two empty blocks.
const END_OF_ARCHIVE: usize = 1024;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";

const GROUP: &str = "root:x:0:
daemon:x:1:
app:x:1000:
extra:x:2000:app
nogroup:x:65534:
";

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn entries_keep_hostile_and_long_names() {
        let long = "d/".repeat(80) + "f";
        let layer = Layer::new()
            .file("../escape", 0o644, "x")
            .pax("SCHILY.xattr.user.color", "red")
            .file(&long, 0o600, "y")
            .symlink("link", "../../etc")
            .whiteout("dir/gone")
            .opaque("dir");
        let archive = layer.to_tar();
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            if name == long {
                let color = entry
                    .pax_extensions()
                    .unwrap()
                    .unwrap()
                    .next()
                    .unwrap()
                    .unwrap();
                assert_eq!(
                    (color.key().unwrap(), color.value_bytes()),
                    ("SCHILY.xattr.user.color", &b"red"[..])
                );
                let mut data = String::new();
                entry.read_to_string(&mut data).unwrap();
                assert_eq!(data, "y");
            }
            names.push(name);
        }
        assert_eq!(
            names,
            [
                "../escape",
                &long,
                "link",
                "dir/.wh.gone",
                "dir/.wh..wh..opq"
            ]
        );
    }

    #[test]
    fn this_test_has_a_dynamic_linker_and_busybox_has_none() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!has_no_interpreter(&own));
        assert!(has_no_interpreter(&fs::read("/bin/busybox").unwrap()));
        assert!(!has_no_interpreter(b"#!/bin/sh"));
    }
}
