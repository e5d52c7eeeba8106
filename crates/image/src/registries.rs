//! Where an image is fetched from: `registries.conf` in its second version
//! (containers-registries.conf(5)) and the drop-ins in `registries.conf.d` beside it.
//!
//! Read: `prefix`, `location`, `insecure`, `blocked`, `mirror-by-digest-only` and the mirrors with
//! `location`, `insecure` and `pull-from-mirror`. Accepted and without effect, because an
//! unqualified name is one of Docker Hub here and credentials come with the pull:
//! `unqualified-search-registries`, `short-name-mode`, `aliases`, `credential-helpers` and
//! `additional-layer-store-auth-helper`. Anything else is an error that names file and line.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use std::{fs, io};

use serde::Deserialize;
use toml::Spanned;

use crate::error::Error;
use crate::reference::{Reference, check_registry, check_repository};

/// How far a registry's transport is trusted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    /// HTTPS with a certificate that the system trusts.
    Verified,
    /// `insecure = true`: HTTPS with any certificate, then plain HTTP.
    Insecure,
    /// A loopback address: plain HTTP, then HTTPS.
    Loopback,
}

/// One place that may have the image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    /// Host and port to connect to.
    pub(crate) host: String,
    pub(crate) repository: String,
    pub(crate) transport: Transport,
    /// A mirror is not shown the credentials of the registry that it mirrors.
    pub(crate) is_mirror: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    registry: Vec<Spanned<RegistryTable>>,
    #[serde(rename = "unqualified-search-registries")]
    _unqualified_search_registries: Option<Vec<String>>,
    #[serde(rename = "short-name-mode")]
    _short_name_mode: Option<String>,
    #[serde(rename = "credential-helpers")]
    _credential_helpers: Option<Vec<String>>,
    #[serde(rename = "additional-layer-store-auth-helper")]
    _additional_layer_store_auth_helper: Option<String>,
    #[serde(rename = "aliases")]
    _aliases: Option<BTreeMap<String, String>>,
    /// The table of the first version of the format, so that it can be told apart.
    registries: Option<Spanned<toml::Value>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RegistryTable {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Spanned<MirrorTable>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFromMirror>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Clone, Debug)]
struct Registry {
    prefix: String,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
    path: PathBuf,
}

#[derive(Clone, Debug)]
struct Mirror {
    location: String,
    insecure: bool,
    used_for: PullFromMirror,
}

/// The configured registries, in force for one pull.
#[derive(Debug, Default)]
pub(crate) struct Registries {
    by_prefix: Vec<Registry>,
}

impl Registries {
    /// Reads `path` and the `*.conf` files of `path` + `.d` in lexical order. An entry replaces an
    /// earlier one with the same prefix. Files that are not there are no error.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let mut registries = Self::default();
        for file in files(path)? {
            match fs::read_to_string(&file) {
                Ok(text) => registries.merge(&file, &text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&file, &error)),
            }
        }
        Ok(registries)
    }

    fn merge(&mut self, path: &Path, text: &str) -> Result<(), Error> {
        let wrong = |start: Option<usize>, reason: String| Error::Configuration {
            path: path.to_owned(),
            line: start.map(|start| line_of(text, start)),
            reason,
        };
        let document: Document = toml::from_str(text).map_err(|error| {
            wrong(
                error.span().map(|span| span.start),
                error.message().to_owned(),
            )
        })?;
        if let Some(table) = document.registries {
            return Err(wrong(
                Some(table.span().start),
                "[registries] is version 1 of this format, which is no longer read; use \
                 [[registry]] entries with prefix and location (containers-registries.conf(5))"
                    .into(),
            ));
        }
        for table in document.registry {
            let start = table.span().start;
            let registry =
                Registry::new(path, &table).map_err(|reason| wrong(Some(start), reason))?;
            self.by_prefix
                .retain(|earlier| earlier.prefix != registry.prefix);
            self.by_prefix.push(registry);
        }
        Ok(())
    }

    /// The places to try for this reference, in order.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, Error> {
        let name = reference.name();
        let matching = self
            .by_prefix
            .iter()
            .filter_map(|registry| Some((registry, registry.matched_length(reference, &name)?)))
            .max_by_key(|(registry, _)| registry.prefix.len());
        let Some((registry, matched)) = matching else {
            return Ok(vec![endpoint(&name, false, false).map_err(|reason| {
                Error::InvalidReference {
                    reference: reference.to_string(),
                    reason,
                }
            })?]);
        };
        if registry.blocked {
            return Err(Error::Blocked {
                reference: reference.to_string(),
                prefix: registry.prefix.clone(),
                path: registry.path.clone(),
            });
        }
        let rewrite = |location: &str| format!("{location}{}", &name[matched..]);
        let by_digest = reference.digest().is_some();
        let mirrors = registry
            .mirrors
            .iter()
            .filter(|mirror| match mirror.used_for {
                PullFromMirror::All => true,
                PullFromMirror::DigestOnly => by_digest,
                PullFromMirror::TagOnly => !by_digest,
            })
            .map(|mirror| endpoint(&rewrite(&mirror.location), mirror.insecure, true));
        let location = registry
            .location
            .as_deref()
            .map_or_else(|| name.clone(), rewrite);
        mirrors
            .chain([endpoint(&location, registry.insecure, false)])
            .collect::<Result<_, _>>()
            .map_err(|reason| Error::Configuration {
                path: registry.path.clone(),
                line: None,
                reason: format!(
                    "the entry for prefix {:?} turns {reference} into an invalid name: {reason}",
                    registry.prefix
                ),
            })
    }
}

impl Registry {
    fn new(path: &Path, table: &Spanned<RegistryTable>) -> Result<Self, String> {
        let table = table.get_ref();
        let trim = |text: &Option<String>| {
            text.as_deref()
                .map(|text| text.trim_end_matches('/').to_owned())
                .filter(|t| !t.is_empty())
        };
        let location = trim(&table.location);
        let prefix = trim(&table.prefix)
            .or_else(|| location.clone())
            .ok_or("a [[registry]] needs a prefix or a location")?;
        if let Some(rest) = prefix.strip_prefix("*.") {
            if rest.is_empty() || rest.contains('/') {
                return Err(format!(
                    "prefix {prefix:?}: a wildcard stands for hosts only"
                ));
            }
        } else if prefix.contains('*') {
            return Err(format!(
                "prefix {prefix:?}: a wildcard is only allowed as leading \"*.\""
            ));
        }
        for text in [location.as_ref(), Some(&prefix)].into_iter().flatten() {
            if text.contains("://") {
                return Err(format!(
                    "{text:?} must be host[:port][/path] without a scheme"
                ));
            }
        }
        let mirrors = table.mirror.iter().map(|mirror| {
            let mirror = mirror.get_ref();
            if table.mirror_by_digest_only && mirror.pull_from_mirror.is_some() {
                return Err(
                    "pull-from-mirror cannot be set beside mirror-by-digest-only".to_owned(),
                );
            }
            if mirror.location.is_empty() || mirror.location.contains("://") {
                return Err(format!(
                    "mirror location {:?} must be host[:port][/path] without a scheme",
                    mirror.location
                ));
            }
            Ok(Mirror {
                location: mirror.location.trim_end_matches('/').to_owned(),
                insecure: mirror.insecure,
                used_for: match mirror.pull_from_mirror {
                    Some(used_for) => used_for,
                    None if table.mirror_by_digest_only => PullFromMirror::DigestOnly,
                    None => PullFromMirror::All,
                },
            })
        });
        Ok(Self {
            insecure: table.insecure,
            blocked: table.blocked,
            mirrors: mirrors.collect::<Result<_, _>>()?,
            path: path.to_owned(),
            prefix,
            location,
        })
    }

    /// How much of `name` (registry and repository) the prefix covers, if it matches. A prefix may
    /// go as far as one tag or digest of a repository.
    fn matched_length(&self, reference: &Reference, name: &str) -> Option<usize> {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = reference.registry();
            return (host.ends_with(domain) && host.len() > domain.len()).then_some(host.len());
        }
        let whole = reference.to_string();
        let rest = whole.strip_prefix(&self.prefix)?;
        (rest.is_empty() || rest.starts_with(['/', ':', '@']))
            .then(|| self.prefix.len().min(name.len()))
    }
}

fn endpoint(name: &str, insecure: bool, is_mirror: bool) -> Result<Endpoint, String> {
    let (host, repository) = name
        .split_once('/')
        .ok_or_else(|| format!("{name:?} has no repository"))?;
    check_registry(host)?;
    check_repository(repository)?;
    let transport = match (insecure, is_loopback(host)) {
        (true, _) => Transport::Insecure,
        (false, true) => Transport::Loopback,
        (false, false) => Transport::Verified,
    };
    // Docker Hub answers under another name than the one in references.
    let host = if host == "docker.io" {
        "registry-1.docker.io"
    } else {
        host
    };
    Ok(Endpoint {
        host: host.to_owned(),
        repository: repository.to_owned(),
        transport,
        is_mirror,
    })
}

fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost"
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
        || host
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.is_loopback())
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .as_bytes()
        .iter()
        .take(offset)
        .filter(|&&byte| byte == b'\n')
        .count()
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::Configuration {
        path: path.to_owned(),
        line: None,
        reason: format!("cannot read it: {error}"),
    }
}

/// The main file and the drop-ins, in the order in which they are read.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let mut files = vec![path.to_owned()];
    match fs::read_dir(&directory) {
        Ok(entries) => {
            let mut drop_ins = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .filter(|path| {
                    path.as_ref().map_or(true, |path| {
                        path.extension()
                            .is_some_and(|extension| extension == "conf")
                    })
                })
                .collect::<io::Result<Vec<_>>>()
                .map_err(|error| unreadable(&directory, &error))?;
            drop_ins.sort();
            files.append(&mut drop_ins);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&directory, &error)),
    }
    Ok(files)
}

/// The configuration as it is on disk now; parsed again only when a file has changed.
#[derive(Debug)]
pub(crate) struct RegistriesFile {
    path: PathBuf,
    parsed: Mutex<Option<(Fingerprint, Arc<Registries>)>>,
}

type Fingerprint = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

impl RegistriesFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            parsed: Mutex::new(None),
        }
    }

    /// Blocking: looks at the files' times and sizes, and reads them where these have changed.
    pub(crate) fn current(&self) -> Result<Arc<Registries>, Error> {
        let fingerprint: Fingerprint = files(&self.path)?
            .into_iter()
            .map(|file| {
                let seen = fs::metadata(&file)
                    .and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
                    .ok();
                (file, seen)
            })
            .collect();
        let parsed = self
            .parsed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((seen, registries)) = parsed
            && seen == fingerprint
        {
            return Ok(registries);
        }
        let registries = Arc::new(Registries::read(&self.path)?);
        *self.parsed.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((fingerprint, Arc::clone(&registries)));
        Ok(registries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn parse(text: &str) -> Result<Registries, Error> {
        let mut registries = Registries::default();
        registries.merge(Path::new("/etc/registries.conf"), text)?;
        Ok(registries)
    }

    fn places(text: &str, reference: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .endpoints(&reference.parse().unwrap())
            .unwrap()
            .iter()
            .map(|place| format!("{}/{} {:?}", place.host, place.repository, place.transport))
            .collect()
    }

    #[test]
    fn defaults_know_the_hub_and_loopback() {
        assert_eq!(
            places("", "busybox"),
            ["registry-1.docker.io/library/busybox Verified"]
        );
        assert_eq!(places("", "quay.io/a/b"), ["quay.io/a/b Verified"]);
        for host in ["127.0.0.1:5000", "127.9.9.9", "localhost:1", "[::1]:5000"] {
            assert_eq!(
                places("", &format!("{host}/a")),
                [format!("{host}/a Loopback")]
            );
        }
    }

    #[test]
    fn location_and_mirrors_in_order_then_the_location() {
        let text = r#"
            unqualified-search-registries = ["quay.io"]
            [[registry]]
            prefix = "docker.io"
            location = "hub.example:5000/proxy"
            insecure = true
            [[registry.mirror]]
            location = "mirror.one/hub"
            [[registry.mirror]]
            location = "mirror.two"
            insecure = true
            [aliases]
            "busybox" = "quay.io/busybox"
        "#;
        assert_eq!(
            places(text, "busybox"),
            [
                "mirror.one/hub/library/busybox Verified",
                "mirror.two/library/busybox Insecure",
                "hub.example:5000/proxy/library/busybox Insecure",
            ]
        );
        assert_eq!(places(text, "quay.io/a"), ["quay.io/a Verified"]);
    }

    #[test]
    fn mirrors_for_digests_or_tags_only() {
        let text = r#"
            [[registry]]
            location = "a.io"
            [[registry.mirror]]
            location = "digests.io"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.io"
            pull-from-mirror = "tag-only"
        "#;
        assert_eq!(
            places(text, "a.io/x"),
            ["tags.io/x Verified", "a.io/x Verified"]
        );
        let pinned = format!("a.io/x@sha256:{}", "0".repeat(64));
        assert_eq!(
            places(text, &pinned),
            ["digests.io/x Verified", "a.io/x Verified"]
        );
    }

    #[test]
    fn the_longest_prefix_wins_at_component_borders() {
        let text = r#"
            [[registry]]
            location = "a.io"
            [[registry]]
            prefix = "a.io/team"
            location = "team.io/x"
            [[registry]]
            prefix = "*.wild.io"
            location = "proxy.io"
            [[registry]]
            prefix = "a.io/team/app:bad"
            blocked = true
        "#;
        assert_eq!(places(text, "a.io/team/app"), ["team.io/x/app Verified"]);
        assert_eq!(
            places(text, "a.io/teamwork/app"),
            ["a.io/teamwork/app Verified"]
        );
        assert_eq!(
            places(text, "b.c.wild.io/y/app"),
            ["proxy.io/y/app Verified"]
        );
        assert_eq!(places(text, "wild.io/y"), ["wild.io/y Verified"]);
        let error = parse(text)
            .unwrap()
            .endpoints(&"a.io/team/app:bad".parse().unwrap());
        assert_eq!(error.unwrap_err().kind(), Kind::Blocked);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, line, word) in [
            (
                "\n[registries.search]\nregistries = ['docker.io']\n",
                2,
                "version 1",
            ),
            ("\n\nunknown-key = 1\n", 3, "unknown-key"),
            ("[[registry]]\nlocation = 'a'\nbloked = true\n", 3, "bloked"),
            (
                "\n[[registry]]\ninsecure = true\n",
                2,
                "prefix or a location",
            ),
            ("[[registry]]\nprefix = 'a.*.io'\n", 1, "wildcard"),
            ("[[registry]]\nlocation = 'https://a.io'\n", 1, "scheme"),
            ("[[registry]]\nlocation = 7\n", 2, "string"),
            ("a = = b", 1, ""),
        ] {
            let error = parse(text).expect_err(text);
            let Error::Configuration {
                path,
                line: found,
                reason,
            } = &error
            else {
                panic!("{error:?}")
            };
            assert_eq!(path, Path::new("/etc/registries.conf"));
            assert_eq!(*found, Some(line), "{text}: {reason}");
            assert!(reason.contains(word), "{reason}");
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("/etc/registries.conf:{line}: "))
            );
        }
    }

    #[test]
    fn drop_ins_override_in_lexical_order_and_changes_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("registries.conf");
        let file = RegistriesFile::new(main.clone());
        let place = |file: &RegistriesFile| {
            file.current()
                .unwrap()
                .endpoints(&"a.io/x".parse().unwrap())
                .unwrap()[0]
                .host
                .clone()
        };
        assert_eq!(place(&file), "a.io", "no file at all");
        let entry = |host: &str| format!("[[registry]]\nprefix = 'a.io'\nlocation = '{host}'\n");
        fs::write(&main, entry("main.io")).unwrap();
        assert_eq!(place(&file), "main.io");
        let drop_ins = directory.path().join("registries.conf.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join("20-b.conf"), entry("second.io")).unwrap();
        fs::write(drop_ins.join("10-a.conf"), entry("first.io")).unwrap();
        fs::write(drop_ins.join("30-c.txt"), "not toml [").unwrap();
        assert_eq!(place(&file), "second.io");
        fs::write(drop_ins.join("30-c.conf"), "broken [").unwrap();
        let error = file.current().unwrap_err();
        assert!(error.to_string().contains("30-c.conf:1"), "{error}");
    }
}
