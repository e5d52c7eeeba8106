//! Credentials for registries, from where `docker login`, `podman login` and `skopeo login` leave
//! them: [containers-auth.json(5)] and Docker's `config.json`, with their credential helpers.
//!
//! [containers-auth.json(5)]: https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md

use std::collections::HashMap;
use std::env;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use slipway_cri_api::v1::AuthConfig;

/// Docker Hub's name in the files, whatever an image's name calls it.
const DOCKER_HUB: &str = "docker.io";

/// What credential helpers know Docker Hub as.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// What a credential helper gives as user where it has a token.
const TOKEN_USER: &str = "<token>";

/// Reads `USER:PASSWORD`.
pub(super) fn parse(text: &str) -> anyhow::Result<AuthConfig> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => Ok(with_password(user, password)),
        _ => bail!("write it as USER:PASSWORD"),
    }
}

/// The credentials for the registry of `image`, if any of the files has some.
///
/// # Errors
///
/// If a file cannot be read or understood, or a credential helper fails.
pub(super) fn for_image(image: &str) -> anyhow::Result<Option<AuthConfig>> {
    let repository = repository(image);
    for path in files() {
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("read credentials from {}", path.display()))?,
        };
        let found = serde_json::from_str::<CredentialFile>(&text)
            .map_err(anyhow::Error::from)
            .and_then(|file| file.find(&repository))
            .with_context(|| format!("credentials in {}", path.display()))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The files in the order in which they are looked into. `REGISTRY_AUTH_FILE` stands for all of
/// them.
fn files() -> Vec<PathBuf> {
    let variable = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(file) = variable("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = variable("HOME");
    let under_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let run = variable("XDG_RUNTIME_DIR");
    let config = variable("XDG_CONFIG_HOME").or_else(|| under_home(".config"));
    let docker = variable("DOCKER_CONFIG").or_else(|| under_home(".docker"));
    [
        run.map(|run| run.join("containers/auth.json")),
        config.map(|config| config.join("containers/auth.json")),
        docker.map(|docker| docker.join("config.json")),
        Some(Path::new("/etc/containers/auth.json").to_path_buf()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// An image's name with its registry, without tag and digest.
fn repository(image: &str) -> String {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some((registry, _)) if registry.contains(['.', ':']) || registry == "localhost" => {
            name.to_string()
        }
        Some(_) => format!("{DOCKER_HUB}/{name}"),
        None => format!("{DOCKER_HUB}/library/{name}"),
    }
}

/// What both kinds of file have in common.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CredentialFile {
    /// By registry, or registry and the beginning of a path.
    auths: HashMap<String, Entry>,
    /// A credential helper for each registry.
    cred_helpers: HashMap<String, String>,
    /// The credential helper for all others.
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    /// Base64 of `user:password`.
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl CredentialFile {
    fn find(&self, repository: &str) -> anyhow::Result<Option<AuthConfig>> {
        let registry = repository
            .split_once('/')
            .map_or(repository, |(registry, _)| registry);
        let is_registry = |key: &&String| normalized(key) == registry;
        if let Some(key) = self.cred_helpers.keys().find(is_registry) {
            return ask_helper(&self.cred_helpers[key], registry);
        }
        // From the whole path down to the registry alone: what is more specific counts.
        let mut scope = Some(repository);
        while let Some(name) = scope {
            if let Some(entry) = self.entry(name)
                && let Some(credentials) = entry.credentials().with_context(|| name.to_string())?
            {
                return Ok(Some(credentials));
            }
            scope = name.rsplit_once('/').map(|(parent, _)| parent);
        }
        match &self.creds_store {
            Some(helper) if !helper.is_empty() => ask_helper(helper, registry),
            _ => Ok(None),
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.auths
            .iter()
            .find(|(key, _)| normalized(key) == name)
            .map(|(_, entry)| entry)
    }
}

/// A key of `auths` as a registry, with the beginning of a path if it has one. Docker writes URLs.
fn normalized(key: &str) -> &str {
    let name = key
        .strip_prefix("https://")
        .or(key.strip_prefix("http://"))
        .unwrap_or(key);
    let name = name.trim_end_matches('/');
    let name = name
        .strip_suffix("/v1")
        .or(name.strip_suffix("/v2"))
        .unwrap_or(name);
    match name {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_HUB,
        name => name,
    }
}

impl Entry {
    /// `None` where an entry only says that its credentials are in the store.
    fn credentials(&self) -> anyhow::Result<Option<AuthConfig>> {
        let tokens = AuthConfig {
            identity_token: self.identitytoken.clone(),
            registry_token: self.registrytoken.clone(),
            ..Default::default()
        };
        let (username, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            // The content of `auth` is a secret and stays out of the error.
            let decoded = STANDARD
                .decode(self.auth.trim())
                .ok()
                .map(String::from_utf8);
            let Some(Ok(pair)) = decoded else {
                bail!("`auth` is not base64 of text")
            };
            let (user, password) = pair
                .split_once(':')
                .ok_or_else(|| anyhow!("`auth` is not USER:PASSWORD"))?;
            (
                user.to_string(),
                password.trim_end_matches('\0').to_string(),
            )
        };
        let credentials = AuthConfig {
            username,
            password,
            ..tokens
        };
        Ok((credentials != AuthConfig::default()).then_some(credentials))
    }
}

fn with_password(user: &str, password: &str) -> AuthConfig {
    AuthConfig {
        username: user.into(),
        password: password.into(),
        ..Default::default()
    }
}

/// Asks `docker-credential-NAME` for the credentials of a registry. `None` if it has none.
fn ask_helper(name: &str, registry: &str) -> anyhow::Result<Option<AuthConfig>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }

    if name.contains('/') {
        bail!("the credential helper {name:?} is not a name");
    }
    let program = format!("docker-credential-{name}");
    let server = if registry == DOCKER_HUB {
        DOCKER_HUB_SERVER
    } else {
        registry
    };
    let mut helper = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run the credential helper {program}"))?;
    // A helper that ends without reading has something to say about it; its answer tells.
    let _ = helper
        .stdin
        .take()
        .map(|mut stdin| writeln!(stdin, "{server}"));
    let output = helper.wait_with_output().with_context(|| program.clone())?;
    if !output.status.success() {
        let message = [output.stdout, output.stderr].concat();
        let message = String::from_utf8_lossy(&message);
        // The protocol has no code for this, only this sentence.
        if message.contains("credentials not found") {
            return Ok(None);
        }
        bail!(
            "{program} has no credentials for {server}: {}",
            message.trim()
        );
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| {
        anyhow!("{program} gave an answer that is not JSON with Username and Secret")
    })?;
    Ok(Some(if answer.username == TOKEN_USER {
        AuthConfig {
            identity_token: answer.secret,
            ..Default::default()
        }
    } else {
        with_password(&answer.username, &answer.secret)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str) -> CredentialFile {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_image_belongs_to_a_repository() {
        for (image, name) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1", "docker.io/library/busybox"),
            ("org/app:1", "docker.io/org/app"),
            ("localhost/a", "localhost/a"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b"),
            ("quay.io/a/b:1@sha256:00", "quay.io/a/b"),
        ] {
            assert_eq!(repository(image), name);
        }
    }

    #[test]
    fn the_most_specific_entry_counts() {
        // u:p, org:p
        let file = file(
            r#"{"auths": {"quay.io": {"auth": "dTpw"}, "quay.io/org": {"auth": "b3JnOnA="},
                "https://index.docker.io/v1/": {"auth": "aHViOnA="}}}"#,
        );
        let user = |repository| file.find(repository).unwrap().map(|found| found.username);
        assert_eq!(user("quay.io/org/app").as_deref(), Some("org"));
        assert_eq!(user("quay.io/organic/app").as_deref(), Some("u"));
        assert_eq!(user("docker.io/library/busybox").as_deref(), Some("hub"));
        assert_eq!(user("example.com/a"), None);
    }

    #[test]
    fn a_broken_entry_is_named_without_its_secret() {
        let file = file(r#"{"auths": {"quay.io": {"auth": "!secret!"}}}"#);
        let error = format!("{:#}", file.find("quay.io/a").unwrap_err());
        assert!(
            error.contains("quay.io") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn a_token_stands_for_a_user() {
        let file = file(r#"{"auths": {"quay.io": {"identitytoken": "t"}, "b.io": {}}}"#);
        assert_eq!(file.find("quay.io/a").unwrap().unwrap().identity_token, "t");
        assert_eq!(file.find("b.io/a").unwrap(), None);
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let file = file(r#"{"credHelpers": {"quay.io": "no-such-helper"}}"#);
        let error = format!("{:#}", file.find("quay.io/a").unwrap_err());
        assert!(
            error.contains("docker-credential-no-such-helper"),
            "{error}"
        );
    }

    #[test]
    fn a_password_may_have_colons() {
        let credentials = parse("u:p:q").unwrap();
        assert_eq!(
            (credentials.username.as_str(), credentials.password.as_str()),
            ("u", "p:q")
        );
        assert!(parse("u").is_err() && parse(":p").is_err());
    }
}
