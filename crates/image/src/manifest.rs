//! Image indexes, manifests and configurations: choosing the platform and checking that a document
//! is what it says (OCI image-spec; Docker image manifest, version 2, schema 2).

use oci_spec::image::{
    Arch, Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest, Os,
};
use serde::Deserialize;

use crate::digest;

/// What a manifest request accepts.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Overlayfs takes at most 500 lower layers (fs/overlayfs/params.h).
const LAYERS_MAX: usize = 500;

/// How a layer's archive is compressed. Where there is a media type, that alone says so, and the
/// content is not guessed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Why a document cannot be used.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Unusable {
    /// It is malformed or contradicts itself.
    Corrupt(String),
    /// It is meant for something else.
    Unsupported(String),
}

/// A parsed document of the manifest endpoint.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// One layer to fetch.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) compression: Compression,
    pub(crate) diff_id: Digest,
}

/// The members that tell the documents apart, whatever their type says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses what a registry answered. `content_type` counts where the document itself does not
    /// say its type.
    pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, Unusable> {
        let outline: Outline = parse_json(bytes, "manifest")?;
        if outline.schema_version != 2 {
            return Err(Unusable::Unsupported(format!(
                "the manifest has schema version {}; version 2 is needed, so the image must be \
                 pushed again with a current tool",
                outline.schema_version
            )));
        }
        // A document that is both could mean one image to one reader and another to the next
        // (CVE-2021-41190).
        let is_manifest = outline.layers.is_some() || outline.config.is_some();
        if outline.manifests.is_some() == is_manifest {
            return Err(Unusable::Corrupt(
                "the document is neither an image index nor an image manifest, or both".into(),
            ));
        }
        let content_type = content_type
            .and_then(|text| text.split(';').next())
            .map(str::trim);
        let media_type = outline.media_type.as_deref().or(content_type);
        match media_type {
            Some(
                "application/vnd.oci.image.index.v1+json"
                | "application/vnd.docker.distribution.manifest.list.v2+json",
            ) if !is_manifest => {}
            Some(
                "application/vnd.oci.image.manifest.v1+json"
                | "application/vnd.docker.distribution.manifest.v2+json",
            ) if is_manifest => {}
            // Plain file servers do not know the types.
            None | Some("application/json" | "application/octet-stream" | "text/plain") => {}
            Some(other) => {
                return Err(Unusable::Unsupported(format!(
                    "the manifest has media type {other:?}, which does not fit its content or is \
                     not an image's"
                )));
            }
        }
        if is_manifest {
            parse_json(bytes, "manifest")
                .map(Box::new)
                .map(Self::Manifest)
        } else {
            parse_json(bytes, "index").map(Box::new).map(Self::Index)
        }
    }
}

/// The manifest of an index for this machine: Linux on the same architecture, the best variant
/// that surely runs here.
pub(crate) fn choose_platform(index: &ImageIndex) -> Result<&Descriptor, Unusable> {
    let machine = machine();
    index
        .manifests()
        .iter()
        .filter_map(|descriptor| {
            let platform = descriptor.platform().as_ref()?;
            let fits = *platform.os() == Os::Linux && *platform.architecture() == machine;
            let rank = variant_rank(&machine, platform.variant().as_deref())?;
            fits.then_some((rank, descriptor))
        })
        // The first of the best: an index is ordered by preference.
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, descriptor)| descriptor)
        .ok_or_else(|| {
            let mut offered: Vec<String> = index
                .manifests()
                .iter()
                .filter_map(|descriptor| descriptor.platform().as_ref())
                .filter(|platform| *platform.os() != Os::Other("unknown".into()))
                .map(|platform| match platform.variant() {
                    Some(variant) => {
                        format!("{}/{}/{variant}", platform.os(), platform.architecture())
                    }
                    None => format!("{}/{}", platform.os(), platform.architecture()),
                })
                .collect();
            offered.dedup();
            Unusable::Unsupported(format!(
                "the image index has nothing for linux/{machine}; it offers: {}",
                if offered.is_empty() {
                    "nothing".into()
                } else {
                    offered.join(", ")
                }
            ))
        })
}

/// Smaller is better; `None` does not run here for sure.
fn variant_rank(machine: &Arch, variant: Option<&str>) -> Option<u8> {
    match (machine, variant) {
        (Arch::ARM, Some("v7")) | (Arch::ARM64, Some("v8")) | (Arch::Amd64, Some("v1")) => Some(0),
        (_, None | Some("")) => Some(1),
        (Arch::ARM, Some("v6")) => Some(2),
        (Arch::ARM, Some("v5")) => Some(3),
        _ => None,
    }
}

fn machine() -> Arch {
    match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "x86" => Arch::i386,
        "aarch64" => Arch::ARM64,
        "arm" => Arch::ARM,
        "riscv64" => Arch::RISCV64,
        "powerpc64" if cfg!(target_endian = "little") => Arch::PowerPC64le,
        "s390x" => Arch::s390x,
        "loongarch64" => Arch::LoongArch64,
        other => Arch::Other(other.to_owned()),
    }
}

/// The descriptor of the configuration, if the manifest is one of a container image.
pub(crate) fn config_of(manifest: &ImageManifest) -> Result<&Descriptor, Unusable> {
    match manifest.config().media_type().to_string().as_str() {
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json" => Ok(manifest.config()),
        other => Err(Unusable::Unsupported(format!(
            "it is not a container image: its configuration has media type {other:?}"
        ))),
    }
}

/// The configuration, after checking that the image can be run here.
pub(crate) fn configuration(bytes: &[u8]) -> Result<ImageConfiguration, Unusable> {
    let config: ImageConfiguration = parse_json(bytes, "configuration")?;
    if *config.os() != Os::Linux {
        return Err(Unusable::Unsupported(format!(
            "the image is for {}, not Linux",
            config.os()
        )));
    }
    if *config.architecture() != machine() {
        // An emulator may be registered for it; the field runs such images when asked to.
        tracing::warn!(architecture = %config.architecture(), "image of another architecture");
    }
    Ok(config)
}

/// The diff ids of a configuration, one for each of so many layers.
pub(crate) fn diff_ids(config: &ImageConfiguration, layers: usize) -> Result<&[String], Unusable> {
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        return Err(Unusable::Corrupt(format!(
            "the manifest has {layers} layers, the configuration {} diff ids",
            diff_ids.len()
        )));
    }
    if layers > LAYERS_MAX {
        return Err(Unusable::Unsupported(format!(
            "the image has {layers} layers; overlayfs takes at most {LAYERS_MAX}"
        )));
    }
    Ok(diff_ids)
}

/// A diff id that can be computed here.
pub(crate) fn diff_id(text: &str) -> Result<Digest, Unusable> {
    let diff_id: Digest = text
        .parse()
        .map_err(|_| Unusable::Corrupt(format!("diff id {text:?} is malformed")))?;
    check_algorithm(&diff_id)?;
    Ok(diff_id)
}

/// The layers of a manifest, paired with the diff ids of its configuration.
pub(crate) fn layers(
    manifest: &ImageManifest,
    config: &ImageConfiguration,
) -> Result<Vec<Layer>, Unusable> {
    let blobs = manifest.layers();
    let diff_ids = diff_ids(config, blobs.len())?;
    blobs
        .iter()
        .zip(diff_ids)
        .map(|(blob, diff_id)| layer(blob, diff_id))
        .collect()
}

fn layer(blob: &Descriptor, diff_id: &str) -> Result<Layer, Unusable> {
    check_algorithm(blob.digest())?;
    let diff_id = self::diff_id(diff_id)?;
    // Foreign layers, which Windows images have, are fetched from the registry like others: what a
    // manifest says about other places is not followed (CVE-2020-15157).
    let compression = match blob.media_type().to_string().as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        other => {
            return Err(Unusable::Unsupported(format!(
                "layer {} has media type {other:?}",
                blob.digest()
            )));
        }
    };
    Ok(Layer {
        blob: blob.clone(),
        compression,
        diff_id,
    })
}

/// Refuses digests that cannot be computed here.
pub(crate) fn check_algorithm(digest: &Digest) -> Result<(), Unusable> {
    digest::Hasher::like(digest)
        .map(|_| ())
        .ok_or_else(|| Unusable::Unsupported(format!("digest {digest} has an unknown algorithm")))
}

fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Unusable> {
    serde_json::from_slice(bytes)
        .map_err(|error| Unusable::Corrupt(format!("the {what} is malformed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(manifest: &ImageManifest, config: &str) -> Result<Vec<Layer>, Unusable> {
        layers(manifest, &configuration(config.as_bytes())?)
    }

    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn descriptor(media_type: &str, extra: &str) -> String {
        let hex = "0".repeat(64);
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{hex}","size":2{extra}}}"#)
    }

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifests: Vec<String> = platforms
            .iter()
            .enumerate()
            .map(|(number, platform)| {
                let mut parts = platform.split('/');
                let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
                let variant =
                    parts.next().map(|v| format!(r#","variant":"{v}""#)).unwrap_or_default();
                descriptor(OCI_MANIFEST, "").replace("\"size\":2", &format!(
                    r#""size":{number},"platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}"#
                ))
            })
            .collect();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            manifests.join(",")
        );
        match Document::parse(text.as_bytes(), None).unwrap() {
            Document::Index(index) => *index,
            Document::Manifest(_) => panic!("not an index"),
        }
    }

    fn manifest(layer_type: &str) -> ImageManifest {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json", ""),
            descriptor(layer_type, ""),
        );
        match Document::parse(text.as_bytes(), Some(OCI_MANIFEST)).unwrap() {
            Document::Manifest(manifest) => *manifest,
            Document::Index(_) => panic!("not a manifest"),
        }
    }

    #[test]
    fn chooses_linux_on_this_architecture() {
        let here = machine().to_string();
        let own = format!("linux/{here}");
        let windows = format!("windows/{here}");
        let future = format!("linux/{here}/v99");
        let index = index(&[
            "unknown/unknown",
            &windows,
            "linux/mips",
            &future,
            &own,
            &own,
        ]);
        assert_eq!(choose_platform(&index).unwrap().size(), 4);
    }

    #[test]
    fn says_what_an_index_offers_instead() {
        let index = index(&["linux/mips", "unknown/unknown", "windows/amd64"]);
        let Err(Unusable::Unsupported(message)) = choose_platform(&index) else {
            panic!()
        };
        assert!(
            message.ends_with("it offers: linux/mips, windows/amd64"),
            "{message}"
        );
    }

    #[test]
    fn refuses_ambiguous_old_and_foreign_documents() {
        for (text, content_type) in [
            (r#"{"schemaVersion":2}"#.to_owned(), OCI_MANIFEST),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), ""),
            (
                r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.to_owned(),
                OCI_INDEX,
            ),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
                OCI_MANIFEST,
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"text/html","manifests":[]}"#.to_owned(),
                OCI_INDEX,
            ),
            ("[".repeat(1 << 20), OCI_MANIFEST),
            (
                format!("{}{}", "[".repeat(1 << 19), "]".repeat(1 << 19)),
                OCI_MANIFEST,
            ),
            (
                format!(r#"{{"schemaVersion":2,"x":{}"#, "[".repeat(1 << 20)),
                OCI_MANIFEST,
            ),
            ("<html>".to_owned(), "text/html"),
            (String::new(), OCI_MANIFEST),
        ] {
            assert!(Document::parse(text.as_bytes(), Some(content_type)).is_err());
        }
    }

    #[test]
    fn pairs_layers_with_diff_ids() {
        let gzip = manifest("application/vnd.docker.image.rootfs.diff.tar.gzip");
        let config = |diff_ids: &str, os: &str| {
            format!(
                r#"{{"architecture":"{}","os":"{os}","config":{{"Env":null,"Cmd":null,
                "Volumes":null,"ExposedPorts":{{"80/tcp":{{}}}}}},
                "rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#,
                machine()
            )
        };
        let diff_id = format!("\"sha256:{}\"", "1".repeat(64));
        let found = paired(&gzip, &config(&diff_id, "linux")).unwrap();
        assert_eq!(found[0].compression, Compression::Gzip);
        for (diff_ids, os) in [
            ("", "linux"),
            ("\"nonsense\"", "linux"),
            (&*diff_id, "windows"),
        ] {
            assert!(paired(&gzip, &config(diff_ids, os)).is_err());
        }
        let other = manifest("application/vnd.example.layer");
        assert!(matches!(
            paired(&other, &config(&diff_id, "linux")),
            Err(Unusable::Unsupported(_))
        ));
    }
}
