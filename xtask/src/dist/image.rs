//! The image for the Jobs of `slipway migrate cluster`: the static program, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::tar;
use super::tree::compress;
use crate::cache::digest;
use crate::program;

/// What it is called by those who load it without giving it a name.
const NAME: &str = "slipway";

/// Writes an archive of the image that is both an OCI image layout (image-spec, image-layout.md) and
/// what `docker load` takes.
pub(super) fn write(slipway: &Path, version: &str, directory: &Path) -> Result<PathBuf> {
    let scratch = tempfile::tempdir()?;
    let layout = scratch.path().join("layout");
    let root = scratch.path().join("root");
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    fs::create_dir_all(root.join("usr/bin"))?;
    fs::copy(slipway, root.join("usr/bin/slipway"))
        .with_context(|| slipway.display().to_string())?;

    let archive = scratch.path().join("layer.tar");
    program::run(tar(&root, &archive)?.arg("usr"))?;
    let unpacked = Blob::of(&fs::read(&archive)?, "");
    compress(&archive)?;
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layer = Blob::put(&layout, &fs::read(archive.with_extension("tar.gz"))?, gzip)?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "Entrypoint": ["slipway"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Labels": { "org.opencontainers.image.version": version },
        },
        "rootfs": { "type": "layers", "diff_ids": [unpacked.digest()] },
    });
    let config = Blob::json(&layout, &config, "application/vnd.oci.image.config.v1+json")?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": config.descriptor(), "layers": [layer.descriptor()],
    });
    let manifest = Blob::json(&layout, &manifest, media_type)?;

    let mut descriptor = manifest.descriptor();
    descriptor["annotations"] = json!({
        "org.opencontainers.image.ref.name": version,
        "io.containerd.image.name": format!("docker.io/library/{NAME}:{version}"),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    let docker = json!([{
        "Config": config.path(), "Layers": [layer.path()],
        "RepoTags": [format!("{NAME}:{version}")],
    }]);
    for (name, value) in [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        ("index.json", index),
        ("manifest.json", docker),
    ] {
        fs::write(layout.join(name), value.to_string())?;
    }
    let file = directory.join(format!("slipway-{version}-image-amd64.tar"));
    let names = ["oci-layout", "index.json", "manifest.json", "blobs"];
    program::run(tar(&layout, &file)?.args(names))?;
    Ok(file)
}

/// What is stored under its digest.
struct Blob {
    hash: String,
    size: usize,
    media_type: String,
}

impl Blob {
    fn of(bytes: &[u8], media_type: &str) -> Self {
        Self {
            hash: digest(bytes),
            size: bytes.len(),
            media_type: media_type.to_owned(),
        }
    }

    fn put(layout: &Path, bytes: &[u8], media_type: &str) -> Result<Self> {
        let blob = Self::of(bytes, media_type);
        fs::write(layout.join(blob.path()), bytes)?;
        Ok(blob)
    }

    fn json(layout: &Path, value: &Value, media_type: &str) -> Result<Self> {
        Self::put(layout, value.to_string().as_bytes(), media_type)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hash)
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.size })
    }
}

#[cfg(test)]
mod tests {
    use slipway_testbed::{Docker, Scratch};

    use super::*;

    #[tokio::test]
    async fn docker_loads_and_runs_it() {
        let scratch = Scratch::new().unwrap();
        let docker = Docker::start(&scratch).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        // It needs nothing of a system either, and says which program it is.
        let archive = write(Path::new("/bin/busybox"), "1.2.3", directory.path()).unwrap();
        let again = directory.path().join("again");
        fs::create_dir(&again).unwrap();
        let again = write(Path::new("/bin/busybox"), "1.2.3", &again).unwrap();
        assert_eq!(fs::read(&archive).unwrap(), fs::read(again).unwrap());
        let archive = archive.display().to_string();
        let loaded = docker.cli(&["load", "--input", &archive]).unwrap();
        assert_eq!(loaded.trim(), "Loaded image: slipway:1.2.3");
        let words = ["run", "--rm", "--network=none", "slipway:1.2.3"];
        let said = docker.cli(&words).unwrap_err().to_string();
        assert!(said.contains("slipway: applet not found"), "{said}");
    }
}
