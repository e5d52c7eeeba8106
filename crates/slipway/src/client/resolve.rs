//! From what people type, a name or the first characters of an ID, to an ID.

use std::fmt::Write;

use anyhow::{Context, bail};
use slipway_cri_api::v1::{
    Container, Image, ListContainersRequest, ListImagesRequest, ListPodSandboxRequest, PodSandbox,
};

use super::connection::Client;
use super::output::short_id;

/// Something that can be meant.
pub(super) trait Named {
    /// What it is, in a sentence.
    const KIND: &'static str;

    fn id(&self) -> &str;

    /// Whether `query` is a whole name of it.
    fn is_named(&self, query: &str) -> bool;

    /// What tells it from others with the same name.
    fn describe(&self) -> String;
}

impl Named for Container {
    const KIND: &'static str = "container";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_named(&self, query: &str) -> bool {
        self.metadata
            .as_ref()
            .is_some_and(|metadata| metadata.name == query)
    }

    fn describe(&self) -> String {
        let metadata = self.metadata.clone().unwrap_or_default();
        let state = super::containers::state_name(self.state());
        let pod = short_id(&self.pod_sandbox_id);
        format!(
            "{} attempt {}, {state}, pod {pod}",
            metadata.name, metadata.attempt
        )
    }
}

impl Named for PodSandbox {
    const KIND: &'static str = "pod";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_named(&self, query: &str) -> bool {
        self.metadata
            .as_ref()
            .is_some_and(|metadata| match query.split_once('/') {
                Some((namespace, name)) => metadata.namespace == namespace && metadata.name == name,
                None => metadata.name == query,
            })
    }

    fn describe(&self) -> String {
        let metadata = self.metadata.clone().unwrap_or_default();
        let state = super::pods::state_name(self.state());
        format!(
            "{}/{} attempt {}, {state}",
            metadata.namespace, metadata.name, metadata.attempt
        )
    }
}

impl Named for Image {
    const KIND: &'static str = "image";

    fn id(&self) -> &str {
        &self.id
    }

    fn is_named(&self, query: &str) -> bool {
        self.repo_digests.iter().any(|digest| digest == query)
            || self.repo_tags.iter().any(|tag| is_short_for(query, tag))
    }

    fn describe(&self) -> String {
        self.repo_tags
            .first()
            .or(self.repo_digests.first())
            .cloned()
            .unwrap_or_default()
    }
}

/// Whether a runtime makes `full` of the reference `short`: it fills in the registry
/// `docker.io/library` and the tag `latest`.
fn is_short_for(short: &str, full: &str) -> bool {
    let Some(registry) = full.strip_suffix(short).or_else(|| {
        full.strip_suffix(":latest")
            .and_then(|untagged| untagged.strip_suffix(short))
    }) else {
        return false;
    };
    matches!(registry, "" | "docker.io/" | "docker.io/library/")
}

/// The one of `all` that `query` means: by its whole ID, its name, or the beginning of its ID.
///
/// # Errors
///
/// If there is none, or more than one; then the error lists them.
pub(super) fn find<'a, T: Named>(query: &str, all: &'a [T]) -> anyhow::Result<&'a T> {
    match matches(query, all)[..] {
        [one] => Ok(one),
        [] => bail!("there is no such {}", T::KIND),
        ref several => Err(ambiguous(several.iter().map(|one| candidate(*one)))),
    }
}

/// All of `all` that `query` can mean.
pub(super) fn matches<'a, T: Named>(query: &str, all: &'a [T]) -> Vec<&'a T> {
    if let Some(one) = all.iter().find(|one| one.id() == query) {
        return vec![one];
    }
    if query.is_empty() {
        return Vec::new();
    }
    let is_meant = |one: &&T| {
        let id = one.id();
        let hex = id.strip_prefix("sha256:").unwrap_or(id);
        id.starts_with(query) || hex.starts_with(query) || one.is_named(query)
    };
    all.iter().filter(is_meant).collect()
}

/// A line about something that can be meant.
pub(super) fn candidate<T: Named>(one: &T) -> String {
    format!("{}  {} {}", short_id(one.id()), T::KIND, one.describe())
}

/// The error that asks which of `candidates` is meant.
pub(super) fn ambiguous(candidates: impl Iterator<Item = String>) -> anyhow::Error {
    let mut text = "this can mean any of these; give more of the ID:".to_string();
    for candidate in candidates {
        let _ = write!(text, "\n  {candidate}");
    }
    anyhow::Error::msg(text)
}

impl Client {
    /// All containers.
    pub(super) async fn all_containers(&self) -> anyhow::Result<Vec<Container>> {
        let request = self.request(ListContainersRequest::default());
        let response = self
            .runtime()
            .list_containers(request)
            .await
            .context("list containers")?;
        Ok(response.into_inner().containers)
    }

    /// All pods.
    pub(super) async fn all_pods(&self) -> anyhow::Result<Vec<PodSandbox>> {
        let request = self.request(ListPodSandboxRequest::default());
        let response = self
            .runtime()
            .list_pod_sandbox(request)
            .await
            .context("list pods")?;
        Ok(response.into_inner().items)
    }

    /// All images.
    pub(super) async fn all_images(&self) -> anyhow::Result<Vec<Image>> {
        let request = self.request(ListImagesRequest::default());
        let response = self
            .images()
            .list_images(request)
            .await
            .context("list images")?;
        Ok(response.into_inner().images)
    }

    /// The ID of the container that `query` means.
    pub(super) async fn container_id(&self, query: &str) -> anyhow::Result<String> {
        Ok(find(query, &self.all_containers().await?)?.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::ContainerMetadata;

    use super::*;

    fn container(id: &str, name: &str) -> Container {
        let metadata = Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        });
        Container {
            id: id.into(),
            metadata,
            ..Default::default()
        }
    }

    #[test]
    fn an_id_may_be_cut_and_a_name_may_not() {
        let all = [
            container("abc1", "web"),
            container("abd2", "db"),
            container("ab", "x"),
        ];
        assert_eq!(find("abc", &all).unwrap().id, "abc1");
        assert_eq!(find("db", &all).unwrap().id, "abd2");
        assert_eq!(
            find("ab", &all).unwrap().id,
            "ab",
            "a whole ID is not ambiguous"
        );
        let none = find("we", &all).unwrap_err().to_string();
        assert_eq!(none, "there is no such container");
        assert!(find("", &all).is_err());
    }

    #[test]
    fn what_is_ambiguous_is_listed() {
        let all = [
            container("abc1", "web"),
            container("abd2", "web"),
            container("fff", "db"),
        ];
        for query in ["ab", "web"] {
            let error = find(query, &all).unwrap_err().to_string();
            assert!(error.contains("abc1") && error.contains("abd2"), "{error}");
            assert!(!error.contains("fff"), "{error}");
        }
    }

    #[test]
    fn a_pod_may_be_named_with_its_namespace() {
        let pod = |id: &str, namespace: &str| PodSandbox {
            id: id.into(),
            metadata: Some(slipway_cri_api::v1::PodSandboxMetadata {
                name: "web".into(),
                namespace: namespace.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let all = [pod("1", "blue"), pod("2", "green")];
        assert_eq!(find("green/web", &all).unwrap().id, "2");
        assert!(find("web", &all).is_err());
    }

    #[test]
    fn an_image_goes_by_the_names_that_were_typed_to_pull_it() {
        let image = Image {
            id: "sha256:0123456789abcdef".into(),
            repo_tags: vec!["docker.io/library/busybox:latest".into()],
            ..Default::default()
        };
        let all = [image];
        for query in [
            "busybox",
            "busybox:latest",
            "library/busybox",
            "docker.io/library/busybox",
            "012345",
            "sha256:0123",
        ] {
            assert!(find(query, &all).is_ok(), "{query}");
        }
        for query in ["box", "box:latest", "busybox:1", "latest"] {
            assert!(find(query, &all).is_err(), "{query}");
        }
    }
}
