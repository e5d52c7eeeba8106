//! Images made for a test: blobs by digest, and the documents that name them.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How a layer is packed and which names its documents use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Packing {
    Gzip,
    /// Several gzip members one after the other, as parallel compressors write them.
    GzipMembers,
    Zstd,
    Plain,
    DockerGzip,
}

impl Packing {
    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip | Self::GzipMembers => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::DockerGzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }

    fn pack(self, tar: &[u8]) -> Vec<u8> {
        let gzip = |bytes: &[u8]| {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        match self {
            Self::Gzip | Self::DockerGzip => gzip(tar),
            Self::GzipMembers => tar.chunks(1000).flat_map(gzip).collect(),
            Self::Zstd => zstd::encode_all(tar, 1).unwrap(),
            Self::Plain => tar.to_vec(),
        }
    }
}

/// A manifest with everything that it refers to.
#[derive(Clone, Debug)]
pub(crate) struct TestImage {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
    pub(crate) layers: Vec<String>,
}

impl TestImage {
    pub(crate) fn new(layers: &[(Vec<u8>, Packing)]) -> Self {
        let docker = layers
            .iter()
            .any(|(_, packing)| *packing == Packing::DockerGzip);
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for (tar, packing) in layers {
            let blob = packing.pack(tar);
            diff_ids.push(digest(tar));
            descriptors.push(descriptor(packing.media_type(), &blob));
            blobs.insert(digest(&blob), blob);
        }
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let layers = descriptors
            .iter()
            .map(|descriptor| descriptor["digest"].as_str().unwrap().to_owned())
            .collect();
        let (own, config_type) = if docker {
            (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
            )
        } else {
            (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
            )
        };
        let bytes = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": own, "layers": descriptors,
            "config": descriptor(config_type, &bytes),
        });
        blobs.insert(digest(&bytes), bytes);
        Self {
            blobs,
            manifest,
            config,
            layers,
        }
    }

    /// One layer with one file in it, `name` with `content`.
    pub(crate) fn small(name: &str, content: &str) -> Self {
        Self::new(&[(tar(&[(name, content.as_bytes())]), Packing::Gzip)])
    }

    /// The id that a runtime gives to it.
    pub(crate) fn id(&self) -> String {
        self.manifest["config"]["digest"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn media_type(&self) -> String {
        self.manifest["mediaType"].as_str().unwrap().to_owned()
    }

    pub(crate) fn manifest_bytes(&self) -> Vec<u8> {
        self.manifest.to_string().into_bytes()
    }

    pub(crate) fn manifest_digest(&self) -> String {
        digest(&self.manifest_bytes())
    }

    pub(crate) fn compressed_size(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| self.blobs[layer].len())
            .sum()
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("sha256:{hex}")
}

pub(crate) fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

/// An archive of files; a name that ends with a slash is a directory with mode 1777.
pub(crate) fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o1777);
        }
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
