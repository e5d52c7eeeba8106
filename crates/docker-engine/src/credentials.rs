//! What Docker is to show to a registry.

use bollard::auth::DockerCredentials;
use slipway_cri_api::v1::AuthConfig;
use slipway_engine::Result;

/// Docker Hub, in names of images.
const HUB: &str = "docker.io";

/// Docker Hub, where Docker keeps credentials.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Credentials for the pull of an image; none where they are another registry's, for Docker would
/// show them to any.
///
/// # Errors
/// As [`slipway_engine::credentials`].
pub(crate) fn for_image(image: &str, given: AuthConfig) -> Result<Option<DockerCredentials>> {
    let given = slipway_engine::credentials(given)?;
    let registry = registry(image);
    if !given.server_address.is_empty() && host(&given.server_address) != registry {
        return Ok(None);
    }
    // Containerd's image store takes credentials without an address for Docker Hub's.
    let address = if registry == HUB {
        HUB_SERVER
    } else {
        registry
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(Some(DockerCredentials {
        username: some(given.username),
        password: some(given.password),
        auth: None,
        email: None,
        serveraddress: Some(address.to_owned()),
        identitytoken: some(given.identity_token),
        registrytoken: some(given.registry_token),
    }))
}

/// The registry of an image, as Docker finds it in the name.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => host(first),
        _ => HUB,
    }
}

/// The host of an address that may come with a scheme and a path, under the one name of Docker Hub.
fn host(address: &str) -> &str {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    match address.split('/').next().unwrap_or(address) {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_with_their_server() {
        for (image, server, shown) in [
            ("a.io/b:1", "", Some("a.io")),
            ("a.io/b:1", "a.io", Some("a.io")),
            ("a.io/b:1", "https://a.io/v2/", Some("a.io")),
            ("a.io:5000/b", "a.io:5000", Some("a.io:5000")),
            ("localhost/b", "localhost", Some("localhost")),
            ("busybox", "", Some(HUB_SERVER)),
            (
                "team/app:1",
                "https://index.docker.io/v1/",
                Some(HUB_SERVER),
            ),
            (
                "docker.io/team/app",
                "registry-1.docker.io",
                Some(HUB_SERVER),
            ),
            ("a.io/b:1", "b.io", None),
            ("a.io/b:1", "a.io:5000", None),
            ("busybox", "a.io", None),
        ] {
            let given = AuthConfig {
                username: "u".to_owned(),
                server_address: server.to_owned(),
                ..AuthConfig::default()
            };
            let found = for_image(image, given).unwrap();
            let address = found.and_then(|found| found.serveraddress);
            assert_eq!(address.as_deref(), shown, "{server} for {image}");
        }
    }
}
