//! Digests of content: computing, comparing and chaining them.

use std::fmt::Write as _;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha512};

/// Computes a digest with the algorithm of an expected one.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// `None` for an algorithm other than sha256 and sha512.
    pub(crate) fn like(digest: &Digest) -> Option<Self> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Some(Self::Sha256(Sha256::new())),
            DigestAlgorithm::Sha512 => Some(Self::Sha512(Sha512::new())),
            _ => None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest in its usual form, `algorithm:hex`.
    pub(crate) fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => format!("sha256:{}", hex(&hasher.finalize())),
            Self::Sha512(hasher) => format!("sha512:{}", hex(&hasher.finalize())),
        }
    }
}

/// The sha256 digest of `bytes`, as `sha256:hex`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// The chain id of each layer (OCI image-spec, "Layer ChainID"): it names a layer together with
/// everything below it.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain_ids: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain_ids.push(match chain_ids.last() {
            None => diff_id.clone(),
            Some(below) => sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain_ids
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_as_the_specification_does() {
        let diff_ids = ["sha256:a", "sha256:b", "sha256:c"].map(String::from);
        let chain = chain_ids(&diff_ids);
        assert_eq!(chain[0], "sha256:a");
        assert_eq!(chain[1], sha256(b"sha256:a sha256:b"));
        assert_eq!(
            chain[2],
            sha256(format!("{} sha256:c", chain[1]).as_bytes())
        );
    }

    #[test]
    fn hashes_with_the_expected_algorithm() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
        assert_eq!(
            Hasher::like(&empty.parse().unwrap()).unwrap().finish(),
            empty
        );
        let long: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert!(
            Hasher::like(&long)
                .unwrap()
                .finish()
                .starts_with("sha512:cf83e1357eef")
        );
    }
}
