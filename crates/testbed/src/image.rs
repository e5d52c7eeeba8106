//! Images built in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The media types that an image is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OCI image specification, version 1.
    Oci,
    /// Docker image manifest, version 2, schema 2.
    Docker,
}

/// How the layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878; there is no Docker media type for it.
    Zstd,
    /// A plain tar archive.
    Plain,
}

/// A layer: a tar archive that is written entry by entry, with a fixed modification time.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    archive: Arc<Vec<u8>>,
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

    fn to_tar(&self) -> Vec<u8> {
        let mut archive = self.archive.to_vec();
        archive.resize(archive.len() + END_OF_ARCHIVE, 0);
        archive
    }
}

/// Whether a 64-bit little-endian ELF file names no dynamic linker: it has no program header of
/// type `PT_INTERP`; see elf(5).
pub(crate) fn has_no_interpreter(elf: &[u8]) -> bool {
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

/// An image for a registry.
#[derive(Clone, Debug)]
pub struct Image {
    layers: Vec<Layer>,
    format: Format,
    compression: Compression,
    platform: Value,
    settings: BTreeMap<&'static str, Value>,
}

impl Image {
    /// An image without layers, in OCI format, with gzip, for this machine's platform.
    pub fn empty() -> Self {
        let environment =
            json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        Self {
            layers: Vec::new(),
            format: Format::Oci,
            compression: Compression::Gzip,
            platform: json!({ "os": "linux", "architecture": architecture() }),
            settings: BTreeMap::from([("Env", environment)]),
        }
    }

    /// An image of [`Layer::busybox`] whose command is a shell.
    ///
    /// # Panics
    /// When the package busybox-static is not installed.
    pub fn busybox() -> Self {
        let layer = Layer::busybox().unwrap_or_else(|error| panic!("{error:#}"));
        Self::empty().layer(layer).command(["/bin/sh"])
    }

    /// Puts a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// The media types to write.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// The compression of all layers.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The platform that the image says it is for.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str, variant: Option<&str>) -> Self {
        self.platform = json!({ "os": os, "architecture": architecture });
        if let Some(variant) = variant {
            self.platform["variant"] = json!(variant);
        }
        self
    }

    /// `Entrypoint` of the configuration.
    #[must_use]
    pub fn entrypoint<const N: usize>(self, words: [&str; N]) -> Self {
        self.set("Entrypoint", json!(words.as_slice()))
    }

    /// `Cmd` of the configuration.
    #[must_use]
    pub fn command<const N: usize>(self, words: [&str; N]) -> Self {
        self.set("Cmd", json!(words.as_slice()))
    }

    /// Adds `NAME=value` to `Env` of the configuration.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let list = self.settings.entry("Env").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(format!("{name}={value}")));
        }
        self
    }

    /// `User` of the configuration: `user[:group]`, by name or number.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    /// `WorkingDir` of the configuration.
    #[must_use]
    pub fn working_dir(self, directory: &str) -> Self {
        self.set("WorkingDir", json!(directory))
    }

    /// `StopSignal` of the configuration.
    #[must_use]
    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", json!(signal))
    }

    /// Adds to `Labels` of the configuration.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.settings.entry("Labels").or_insert_with(|| json!({}))[key] = json!(value);
        self
    }

    /// Any other field of the configuration's `config` object.
    #[must_use]
    pub fn set(mut self, field: &'static str, value: Value) -> Self {
        self.settings.insert(field, value);
        self
    }

    /// Compresses the layers and writes configuration and manifest.
    pub(crate) fn build(&self) -> Result<Built> {
        ensure!(
            self.format == Format::Oci || self.compression != Compression::Zstd,
            "Docker's schema 2 has no media type for zstd layers"
        );
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let (diff_id, blob) = compress(layer, self.compression)?;
            diff_ids.push(diff_id);
            layers.push(blob);
        }
        let mut config = self.platform.clone();
        config["config"] = json!(self.settings);
        config["created"] = json!("2024-01-01T00:00:00Z");
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = Blob::new(serde_json::to_vec(&config)?.into());
        let layer_type = self.layer_type();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| layer.descriptor(layer_type))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest_type(),
            "config": config.descriptor(self.format.config_type()),
            "layers": descriptors,
        });
        Ok(Built {
            manifest: serde_json::to_vec(&manifest)?.into(),
            config,
            layers,
            format: self.format,
            platform: self.platform.clone(),
        })
    }

    fn layer_type(&self) -> &'static str {
        match (self.format, self.compression) {
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Format::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

impl Format {
    fn config_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }
}

/// What goes to the registry.
pub(crate) struct Built {
    pub(crate) manifest: Bytes,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
    pub(crate) format: Format,
    pub(crate) platform: Value,
}

/// Content and the digest that names it.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) data: Bytes,
    pub(crate) digest: String,
}

impl Blob {
    pub(crate) fn new(data: Bytes) -> Self {
        let digest = digest_of(&data);
        Self { data, digest }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.data.len() })
    }
}

fn digest_of(data: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(data)
        .iter()
        .fold(String::from("sha256:"), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The diff id and the compressed blob of a layer. They are kept for the life of the process, for
/// many tests push the same busybox layer.
fn compress(layer: &Layer, compression: Compression) -> Result<(String, Blob)> {
    type Cache = Mutex<BTreeMap<(usize, Compression), (Arc<Vec<u8>>, String, Blob)>>;
    static CACHE: Cache = Mutex::new(BTreeMap::new());
    // The cache keeps the archive alive, so its address cannot come to mean another one.
    let key = (Arc::as_ptr(&layer.archive).addr(), compression);
    let lock = || {
        CACHE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    if let Some((_, diff_id, blob)) = lock().get(&key) {
        return Ok((diff_id.clone(), blob.clone()));
    }
    let archive = layer.to_tar();
    let diff_id = digest_of(&archive);
    let data = match compression {
        Compression::Plain => archive,
        Compression::Zstd => zstd::bulk::compress(&archive, 1)?,
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&archive)?;
            encoder.finish()?
        }
    };
    let blob = Blob::new(data.into());
    lock().insert(
        key,
        (Arc::clone(&layer.archive), diff_id.clone(), blob.clone()),
    );
    Ok((diff_id, blob))
}

/// This machine's architecture in Go's words, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

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
    fn every_compression_has_the_same_diff_id() {
        let image = Image::empty().layer(Layer::new().file("a", 0o644, [7; 5000]));
        let diff_id = |compression| {
            let built = image.clone().compression(compression).build().unwrap();
            let config: Value = serde_json::from_slice(&built.config.data).unwrap();
            config["rootfs"]["diff_ids"][0].clone()
        };
        assert_eq!(diff_id(Compression::Gzip), diff_id(Compression::Plain));
        assert_eq!(diff_id(Compression::Gzip), diff_id(Compression::Zstd));
    }

    #[test]
    fn this_test_has_a_dynamic_linker_and_busybox_has_none() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!has_no_interpreter(&own));
        assert!(has_no_interpreter(&fs::read("/bin/busybox").unwrap()));
        assert!(!has_no_interpreter(b"#!/bin/sh"));
    }

    #[test]
    fn settings_are_in_the_configuration() {
        let image = Image::empty()
            .env("A", "b")
            .user("app")
            .label("k", "v")
            .stop_signal("SIGINT");
        let built = image.build().unwrap();
        let config: Value = serde_json::from_slice(&built.config.data).unwrap();
        assert_eq!(config["config"]["Env"][1], "A=b");
        assert_eq!(config["config"]["User"], "app");
        assert_eq!(config["config"]["Labels"]["k"], "v");
        assert_eq!(config["config"]["StopSignal"], "SIGINT");
    }
}
