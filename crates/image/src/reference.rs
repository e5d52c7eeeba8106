//! Names of images, in the grammar that Docker made and the field uses
//! (the `reference` package of distribution).
//!
//! `name[:tag][@digest]`, where a name without a registry is one of Docker Hub and a name of one
//! word is in its `library`. A reference with neither tag nor digest means the tag `latest`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use oci_spec::image::{Digest, DigestAlgorithm};

use crate::error::Error;

const HUB: &str = "docker.io";
const HUB_LEGACY: &str = "index.docker.io";
const REPOSITORY_LENGTH_MAX: usize = 255;
const TAG_LENGTH_MAX: usize = 128;

/// A parsed and completed reference. Its `Display` is the canonical form, which parses to itself.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and, where given, port of the registry, for example `docker.io` or `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path at the registry, for example `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where the reference has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the reference has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The form under which an image is stored and looked up: as a digest pins the content, a tag
    /// beside it says nothing and is left out (the field's convention).
    #[must_use]
    pub fn resolved(&self) -> Self {
        let mut resolved = self.clone();
        if resolved.digest.is_some() {
            resolved.tag = None;
        }
        resolved
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| Error::InvalidReference {
            reference: shorten(text),
            reason,
        })
    }
}

/// So that an error does not repeat a megabyte of nonsense.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 512;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let last_component = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last_component..].find(':') {
        Some(colon) => {
            let colon = last_component + colon;
            (&rest[..colon], Some(parse_tag(&rest[colon + 1..])?))
        }
        None => (rest, None),
    };
    let (registry, repository) = split_name(name)?;
    check_repository(&repository)?;
    let tag = match (&tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        _ => tag,
    };
    Ok(Reference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// A first component is a registry when it cannot be anything else: it has a dot, a port or an
/// uppercase letter, or it is `localhost`.
fn split_name(name: &str) -> Result<(String, String), String> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|letter: char| letter.is_ascii_uppercase()) =>
        {
            check_registry(first)?;
            (first, rest)
        }
        _ => (HUB, name),
    };
    let registry = if registry == HUB_LEGACY {
        HUB
    } else {
        registry
    };
    if registry == HUB && !repository.contains('/') {
        if is_hex_id(repository) {
            return Err("64 hexadecimal digits are an image id, not a name".into());
        }
        return Ok((registry.to_owned(), format!("library/{repository}")));
    }
    Ok((registry.to_owned(), repository.to_owned()))
}

fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Checks `host[:port]`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or("the IPv6 address of the registry has no closing bracket")?;
        address
            .parse::<Ipv6Addr>()
            .map_err(|_| format!("registry host [{address}] is not an IPv6 address"))?;
        (None, port)
    } else {
        let colon = registry.find(':').unwrap_or(registry.len());
        (Some(&registry[..colon]), &registry[colon..])
    };
    if let Some(host) = host {
        for label in host.split('.') {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if label.is_empty()
                || !label.bytes().all(inner)
                || label.starts_with('-')
                || label.ends_with('-')
            {
                return Err(format!("registry host {host:?} is not a host name"));
            }
        }
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits)
            if !digits.is_empty()
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && digits.parse::<u16>().is_ok() =>
        {
            Ok(())
        }
        _ => Err(format!("registry {registry:?} has a wrong port")),
    }
}

pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    if repository.len() > REPOSITORY_LENGTH_MAX {
        return Err(format!(
            "the repository is longer than {REPOSITORY_LENGTH_MAX} characters"
        ));
    }
    if repository.contains(|letter: char| letter.is_ascii_uppercase()) {
        return Err(format!("repository {repository:?} must be lowercase"));
    }
    match repository
        .split('/')
        .find(|component| !is_path_component(component))
    {
        Some("") => Err(format!("repository {repository:?} has an empty component")),
        Some(component) => Err(format!(
            "repository component {component:?} is not made of a-z and 0-9 with single '.', '_', \
             '__' or '-' between them"
        )),
        None => Ok(()),
    }
}

/// Runs of letters and digits with one separator (`.`, `_`, `__`, or any number of `-`) between.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    bytes
        .split(|&byte| is_word(byte))
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
        })
}

fn parse_tag(tag: &str) -> Result<String, String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= TAG_LENGTH_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-');
    if valid {
        Ok(tag.to_owned())
    } else {
        Err(format!(
            "tag {:?} is not 1 to {TAG_LENGTH_MAX} letters, digits, '_', '.' and '-'",
            shorten(tag)
        ))
    }
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    let digest: Digest = text
        .parse()
        .map_err(|_| format!("digest {:?} is malformed", shorten(text)))?;
    match digest.algorithm() {
        DigestAlgorithm::Sha256 | DigestAlgorithm::Sha512 => Ok(digest),
        other => Err(format!(
            "digest algorithm {other} is not supported (sha256 and sha512 are)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn completes_what_is_left_out() {
        for (given, canonical) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("library/busybox", "docker.io/library/busybox:latest"),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
            ),
            ("team/app", "docker.io/team/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("test.com:5000", "docker.io/library/test.com:5000"),
            ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080"),
            ("registry.k8s.io/a/b/c/d", "registry.k8s.io/a/b/c/d:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("[2001:db8::1]/app:x", "[2001:db8::1]/app:x"),
            ("HOST/app", "HOST/app:latest"),
            ("a--b/c__d.e_f", "docker.io/a--b/c__d.e_f:latest"),
            (
                "lowercase:Uppercase",
                "docker.io/library/lowercase:Uppercase",
            ),
        ] {
            assert_eq!(
                given.parse::<Reference>().unwrap().to_string(),
                canonical,
                "{given}"
            );
        }
    }

    #[test]
    fn keeps_tag_and_digest_and_resolves_to_the_digest() {
        let reference: Reference = format!("busybox:1.36@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.tag(), Some("1.36"));
        assert_eq!(
            reference.digest().unwrap().to_string(),
            format!("sha256:{HEX}")
        );
        assert_eq!(
            reference.resolved().to_string(),
            format!("docker.io/library/busybox@sha256:{HEX}")
        );
        let reference: Reference = format!("busybox@sha256:{HEX}").parse().unwrap();
        assert_eq!(reference.tag(), None);
        assert!(format!("a@sha512:{HEX}{HEX}").parse::<Reference>().is_ok());
    }

    #[test]
    fn refuses_what_is_outside_the_grammar() {
        let long = "a".repeat(256);
        for given in [
            "",
            ":tag",
            "@sha256:aa",
            "Busybox",
            "team/App",
            "a//b",
            "/a",
            "a/",
            "a.-b",
            "a___b",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a:",
            "a:.x",
            "a:b:c",
            "host:99999/a",
            "host:/a",
            "host:port/a",
            "ho_st.com/a",
            "-host.com/a",
            "[::1/a",
            "[::1]x/a",
            "[zz]:5000/a",
            "a\0b",
            "bücher",
            "a@sha256:abc",
            "a@md5:0123456789abcdef0123456789abcdef",
            HEX,
            &long,
            &format!("a@sha256:{}", HEX.to_uppercase()),
            &format!("a:{}", "t".repeat(129)),
            "../a",
            "a/../b",
            "https://registry/a",
        ] {
            let error = given.parse::<Reference>().expect_err(given);
            assert_eq!(error.kind(), crate::Kind::InvalidReference);
        }
    }

    #[test]
    fn lengths_at_the_limit_are_allowed() {
        assert!("a".repeat(247).parse::<Reference>().is_ok());
        assert!(
            "a".repeat(248).parse::<Reference>().is_err(),
            "library/ counts"
        );
        assert!(
            format!("a:{}", "t".repeat(128))
                .parse::<Reference>()
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn canonical_form_parses_to_itself(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(reference, again);
            }
        }

        #[test]
        fn grammatical_references_parse_and_round_trip(
            registry in prop::option::of(
                "([a-z0-9]{1,8}\\.[a-z0-9]{1,8}|localhost|\\[fe80::[0-9a-f]{1,4}\\])(:[1-9][0-9]{0,3})?"
            ),
            path in prop::collection::vec("[a-z0-9]{1,6}([._]|__|-{1,3})[a-z0-9]{1,6}|[a-z0-9]{1,9}", 1..4),
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of("[0-9a-f]{64}"),
        ) {
            let text = [
                registry.as_ref().map(|registry| format!("{registry}/")),
                Some(path.join("/")),
                tag.as_ref().map(|tag| format!(":{tag}")),
                digest.as_ref().map(|digest| format!("@sha256:{digest}")),
            ];
            let text = text.into_iter().flatten().collect::<String>();
            let reference: Reference = text.parse().unwrap();
            if let Some(registry) = &registry {
                prop_assert_eq!(reference.registry(), registry);
                prop_assert_eq!(reference.repository(), path.join("/"));
            }
            let expected = match (&tag, &digest) {
                (None, None) => Some("latest"),
                _ => tag.as_deref(),
            };
            prop_assert_eq!(reference.tag(), expected);
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }
}
