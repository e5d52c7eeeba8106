//! A real registry on a loopback port, and pushes to it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::image::{Blob, Built, Image};
use crate::process::Process;
use crate::{Scratch, http, wait};

/// Who may pull from a registry [`behind a password`](Registry::behind_password).
pub const USER: &str = "user";

/// The password of [`USER`].
pub const PASSWORD: &str = "pass:word";

/// [`PASSWORD`] in bcrypt, as htpasswd(1) writes it.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuDIEddBSuRWBBEY6g5zv60IAP5bSSfki";

/// Debian's `docker-registry`, with its storage in the scratch directory.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    process: Process,
    storage: PathBuf,
    scratch: Arc<Scratch>,
}

/// An image, or an index of several, as it lies in a registry.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `127.0.0.1:<port>/<repository>:<tag>`
    pub reference: String,
    /// `127.0.0.1:<port>/<repository>@<digest>`
    pub by_digest: String,
    /// The digest of the manifest, or of the index.
    pub digest: String,
    /// The digest of the (first) image's configuration, which is the image's id.
    pub id: String,
    /// The digests of the (first) image's layers as transferred, lowest layer first.
    pub layers: Vec<String>,
}

impl Registry {
    /// Starts a registry on a port that the kernel chooses, and waits until it listens.
    ///
    /// # Errors
    /// When `docker-registry` is not installed or does not come up; with its own words.
    pub async fn start(scratch: &Arc<Scratch>) -> Result<Self> {
        Self::start_with(scratch, "").await
    }

    /// As [`start`](Self::start), with more sections of the registry's YAML configuration, such as
    /// `auth`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(scratch: &Arc<Scratch>, sections: &str) -> Result<Self> {
        let storage = scratch.join(format!("registry-{}", scratch.serial()));
        Self::start_on(scratch, storage, sections).await
    }

    /// One more registry with all that this one has, for who shows [`USER`] and [`PASSWORD`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn behind_password(&self) -> Result<Self> {
        let users = self
            .scratch
            .join(format!("htpasswd-{}", self.scratch.serial()));
        std::fs::write(&users, format!("{USER}:{HASH}\n"))?;
        let section = format!(
            "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
            users.display()
        );
        Self::start_on(&self.scratch, self.storage.clone(), &section).await
    }

    async fn start_on(scratch: &Arc<Scratch>, storage: PathBuf, sections: &str) -> Result<Self> {
        let name = format!("registry-{}", scratch.serial());
        let mut text = String::from("version: 0.1\nlog: {accesslog: {disabled: true}}\n");
        writeln!(
            text,
            "storage:\n  filesystem: {{rootdirectory: {}}}",
            storage.display()
        )?;
        writeln!(
            text,
            "  delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:0'}}\n{sections}"
        )?;
        let file = scratch.join(format!("{name}.yml"));
        std::fs::write(&file, text)?;
        let mut command = std::process::Command::new("docker-registry");
        let mut process = Process::spawn(scratch, &name, command.arg("serve").arg(&file))
            .context("is the package docker-registry installed?")?;
        let mut address = None;
        wait::eventually(
            "docker-registry to listen",
            Duration::from_secs(20),
            async || {
                if let Some(status) = process.exited() {
                    bail!(
                        "docker-registry ended ({status}):\n{}",
                        process.log_tail(20)
                    );
                }
                address = listening_on(&process.log());
                Ok(address.is_some())
            },
        )
        .await?;
        let address = address.context("docker-registry names no address")?;
        Ok(Self {
            address,
            process,
            storage,
            scratch: Arc::clone(scratch),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the registry as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Builds `image` and pushes it as `name`, which is `repository` or `repository:tag`.
    ///
    /// # Errors
    /// When the registry refuses; with its answer.
    pub async fn push(&self, name: &str, image: &Image) -> Result<Pushed> {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let built = image.build()?;
        self.push_blobs(repository, &built).await?;
        let digest = self
            .push_manifest(
                repository,
                tag,
                built.format.manifest_type(),
                built.manifest.clone(),
            )
            .await?;
        Ok(self.pushed(repository, tag, digest, &built))
    }

    /// Pushes one image for each platform and an index (or Docker manifest list, after the first
    /// image's format) of them as `name`.
    ///
    /// # Errors
    /// Without images, and when the registry refuses; with its answer.
    pub async fn push_index(&self, name: &str, images: &[Image]) -> Result<Pushed> {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let mut entries = Vec::new();
        let mut first = None;
        for image in images {
            let built = image.build()?;
            self.push_blobs(repository, &built).await?;
            let media_type = built.format.manifest_type();
            let blob = Blob::new(built.manifest.clone());
            self.push_manifest(repository, &blob.digest, media_type, blob.data.clone())
                .await?;
            entries.push(json!({
                "mediaType": media_type,
                "digest": blob.digest,
                "size": blob.data.len(),
                "platform": built.platform,
            }));
            first.get_or_insert(built);
        }
        let first = first.context("an index needs an image")?;
        let media_type = first.format.index_type();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries });
        let digest = self
            .push_manifest(
                repository,
                tag,
                media_type,
                serde_json::to_vec(&index)?.into(),
            )
            .await?;
        Ok(self.pushed(repository, tag, digest, &first))
    }

    /// Stores any bytes as a blob of a repository, and returns their digest.
    ///
    /// # Errors
    /// When the registry refuses; with its answer.
    pub async fn push_blob(&self, repository: &str, data: impl Into<Bytes>) -> Result<String> {
        let blob = Blob::new(data.into());
        self.upload(repository, &blob).await?;
        Ok(blob.digest)
    }

    /// Stores a manifest as it is, by tag or digest, and returns its digest.
    ///
    /// # Errors
    /// When the registry refuses; with its answer. It checks that the blobs exist.
    pub async fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        manifest: Bytes,
    ) -> Result<String> {
        let digest = Blob::new(manifest.clone()).digest;
        let target = format!("/v2/{repository}/manifests/{tag}");
        let answer =
            http::request(self.address, Method::PUT, &target, media_type, manifest).await?;
        ensure!(
            answer.status() == StatusCode::CREATED,
            "the registry refused {repository}:{tag}: {}, {}",
            answer.status(),
            String::from_utf8_lossy(answer.body())
        );
        Ok(digest)
    }

    /// The reference of a `repository`, `repository:tag` or `repository@digest` on this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    fn pushed(&self, repository: &str, tag: &str, digest: String, built: &Built) -> Pushed {
        Pushed {
            reference: self.reference(&format!("{repository}:{tag}")),
            by_digest: self.reference(&format!("{repository}@{digest}")),
            digest,
            id: built.config.digest.clone(),
            layers: built
                .layers
                .iter()
                .map(|layer| layer.digest.clone())
                .collect(),
        }
    }

    async fn push_blobs(&self, repository: &str, built: &Built) -> Result<()> {
        for blob in built.layers.iter().chain([&built.config]) {
            self.upload(repository, blob).await?;
        }
        Ok(())
    }

    async fn upload(&self, repository: &str, blob: &Blob) -> Result<()> {
        const KIND: &str = "application/octet-stream";
        let present = format!("/v2/{repository}/blobs/{}", blob.digest);
        let answer =
            http::request(self.address, Method::HEAD, &present, KIND, Bytes::new()).await?;
        if answer.status() == StatusCode::OK {
            return Ok(());
        }
        let begin = format!("/v2/{repository}/blobs/uploads/");
        let answer = http::request(self.address, Method::POST, &begin, KIND, Bytes::new()).await?;
        let location = answer
            .headers()
            .get("location")
            .and_then(|location| location.to_str().ok())
            .with_context(|| format!("the registry begins no upload: {}", answer.status()))?;
        let join = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{join}digest={}", blob.digest);
        let answer =
            http::request(self.address, Method::PUT, &target, KIND, blob.data.clone()).await?;
        ensure!(
            answer.status() == StatusCode::CREATED,
            "the registry refused blob {}: {}, {}",
            blob.digest,
            answer.status(),
            String::from_utf8_lossy(answer.body())
        );
        Ok(())
    }
}

/// The address in the registry's line `listening on 127.0.0.1:43353`, once it is whole.
fn listening_on(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    let (address, _) = rest.split_once('"')?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, Format, Layer};

    #[test]
    fn the_address_is_taken_from_a_whole_line_only() {
        let line = r#"level=info msg="listening on 127.0.0.1:43353" go.version=go1.19.8"#;
        assert_eq!(listening_on(line), "127.0.0.1:43353".parse().ok());
        assert_eq!(listening_on(&line[..40]), None);
    }

    #[tokio::test]
    async fn an_index_of_both_formats_can_be_fetched_again() -> Result<()> {
        let scratch = Scratch::new()?;
        let registry = Registry::start(&scratch).await?;
        for format in [Format::Oci, Format::Docker] {
            let small = Image::empty()
                .format(format)
                .layer(Layer::new().file("a", 0o644, "a"));
            let images = [
                small
                    .clone()
                    .compression(Compression::Zstd)
                    .platform("linux", "amd64", None),
                small
                    .compression(Compression::Plain)
                    .platform("linux", "arm", Some("v7")),
            ];
            let images = if format == Format::Docker {
                images.map(|image| image.compression(Compression::Gzip))
            } else {
                images
            };
            let pushed = registry.push_index("many/platforms:1", &images).await?;
            let target = format!("/v2/many/platforms/manifests/{}", pushed.digest);
            let answer = http::request(
                registry.address(),
                Method::GET,
                &target,
                format.index_type(),
                Bytes::new(),
            )
            .await?;
            assert_eq!(Blob::new(answer.into_body()).digest, pushed.digest);
        }
        Ok(())
    }
}
