//! Images built in memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Layer;

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
    /// The media type of a manifest.
    pub fn manifest_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// The media type of an index, which Docker calls a manifest list.
    pub fn index_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

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
