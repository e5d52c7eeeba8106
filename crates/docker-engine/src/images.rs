//! Docker's images in CRI's words.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect, ImageSummary};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use slipway_cri_api::v1::{AuthConfig, Image, ImageSpec, ImageStatusResponse, Int64Value};
use slipway_engine::{Error, Kind, PullProgressStream, Result, Verbosity};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::dockerd::{Dockerd, Up};
use crate::node::Node;
use crate::{credentials, failure, pause};

/// How long Docker may say nothing of a pull, of which it tells every piece that it has fetched or
/// unpacked, and of an export, which it gathers on its disk before the first byte.
const SILENCE: Duration = Duration::from_mins(5);

/// What Docker calls an image without a name.
const NONE: &str = "<none>";

/// What the images of containers are called, by their ids.
#[derive(Debug, Default)]
pub(crate) struct ImageNames {
    asked: Mutex<HashMap<String, Names>>,
    /// What a daemon before this one has asked.
    remembered: OnceLock<HashMap<String, Names>>,
}

/// What one image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// By what a kubelet is to know it: a digest, where it has one.
    pub(crate) reference: String,
    /// What people call it, where it has a name.
    pub(crate) tag: Option<String>,
}

impl Names {
    /// Of an image by its id, of which nothing else is known.
    fn none(id: &str) -> Self {
        Self {
            reference: id.to_owned(),
            tag: None,
        }
    }
}

impl ImageNames {
    /// Of an image by its id.
    pub(crate) fn of(&self, id: &str) -> Names {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = || self.remembered.get()?.get(id);
        let known = asked.get(id).or_else(remembered).cloned();
        known.unwrap_or_else(|| Names::none(id))
    }

    /// Knows names by the images' ids until Docker is asked.
    pub(crate) fn remember(&self, names: HashMap<String, Names>) {
        self.remembered.get_or_init(|| names);
    }

    /// Asks Docker, if it is not known yet. The image of a container may be gone.
    pub(crate) async fn learn(
        &self,
        dockerd: &Dockerd,
        limit: Duration,
        docker: &Docker,
        id: &str,
    ) {
        let known = |names: &Self| {
            let asked = names.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.contains_key(id)
        };
        if id.is_empty() || known(self) {
            return;
        }
        let asked = docker.inspect_image(id);
        if let Ok(image) = dockerd.answer(limit, "inspect image", asked).await {
            let first =
                |names: Option<Vec<String>>| real(&names.unwrap_or_default()).into_iter().next();
            let names = Names {
                reference: first(image.repo_digests).unwrap_or_else(|| id.to_owned()),
                tag: first(image.repo_tags),
            };
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.insert(id.to_owned(), names);
        }
    }
}

pub(crate) async fn pull(
    node: &Node,
    image: &ImageSpec,
    auth: Option<AuthConfig>,
) -> Result<String> {
    let name = named(image)?;
    let auth = auth.map(|given| credentials::for_image(name, given));
    fetch(node, name, auth.transpose()?.flatten()).await?;
    let what = format!("inspect image {name}");
    let pulled = node
        .dockerd
        .call(
            &what,
            |docker| async move { docker.inspect_image(name).await },
        )
        .await?;
    pulled
        .id
        .ok_or_else(|| Error::internal(format!("Docker gives no id for image {name}")))
}

async fn fetch(node: &Node, name: &str, auth: Option<DockerCredentials>) -> Result<()> {
    let what = format!("pull image {name}");
    let docker = node.dockerd.up()?.docker;
    let name = tagged(name);
    let options = CreateImageOptionsBuilder::default()
        .from_image(&name)
        .build();
    let pull = node.pulls.begin(&name);
    let asked = docker.create_image(Some(options), None, auth);
    follow(node, SILENCE, &what, asked, |told| pull.take(told)).await
}

/// Follows what Docker tells of an image that it makes, to its end; for so long it may say nothing.
/// Also of one that fails something may be left on the disk.
async fn follow(
    node: &Node,
    silence: Duration,
    what: &str,
    progress: impl Stream<Item = std::result::Result<CreateImageInfo, bollard::errors::Error>>,
    take: impl Fn(&CreateImageInfo),
) -> Result<()> {
    let followed = to_its_end(node, silence, what, progress, take).await;
    node.image_space.changes();
    followed
}

async fn to_its_end(
    node: &Node,
    silence: Duration,
    what: &str,
    progress: impl Stream<Item = std::result::Result<CreateImageInfo, bollard::errors::Error>>,
    take: impl Fn(&CreateImageInfo),
) -> Result<()> {
    let mut progress = Box::pin(progress);
    let endpoint = node.dockerd.endpoint();
    loop {
        let next = tokio::time::timeout(silence, progress.next()).await;
        match next.map_err(|_| failure::late(what, endpoint))? {
            None => return Ok(()),
            Some(Err(error)) => return Err(failure::of_docker(what, endpoint, &error)),
            Some(Ok(told)) => {
                take(&told);
                if let Some(message) = told.error_detail.and_then(|detail| detail.message) {
                    let error = bollard::errors::Error::DockerStreamError { error: message };
                    return Err(failure::of_docker(what, endpoint, &error));
                }
            }
        }
    }
}

/// The states of a pull.
pub(crate) fn watch(node: &Node, name: &str) -> PullProgressStream {
    node.pulls.watch(&tagged(name))
}

/// What `docker save` writes of an image; an end that comes too early is an error, and so is silence.
pub(crate) fn export(node: &Node, id: &str) -> Result<impl AsyncRead + Send + use<>> {
    let docker = node.dockerd.up()?.docker;
    let bytes = docker.export_image(id).map_err(io::Error::other);
    Ok(StreamReader::new(Box::pin(unless_silent(bytes, SILENCE))))
}

/// A stream that ends with an error when nothing comes for so long.
fn unless_silent<T>(
    stream: impl Stream<Item = io::Result<T>>,
    limit: Duration,
) -> impl Stream<Item = io::Result<T>> {
    stream::unfold(Some(Box::pin(stream)), move |stream| async move {
        let mut stream = stream?;
        if let Ok(next) = tokio::time::timeout(limit, stream.next()).await {
            return Some((next?, Some(stream)));
        }
        let message = format!("nothing has come for {} s", limit.as_secs());
        Some((Err(io::Error::new(io::ErrorKind::TimedOut, message)), None))
    })
}

/// A name with a tag: of one without a tag Docker would pull all of them.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

fn named(image: &ImageSpec) -> Result<&str> {
    match image.image.as_str() {
        "" => Err(Error::invalid("ImageSpec.image is empty")),
        name => Ok(name),
    }
}

/// The image for pods' pause containers.
pub(crate) fn pause_name(node: &Node) -> &str {
    node.config.pause_image.as_deref().unwrap_or(pause::IMAGE)
}

/// Gives Docker the image for pods' pause containers, if it has it not. Of several pods that need it
/// at a time one fetches it, and all fail together where it cannot be had.
pub(crate) async fn provide_pause(node: &Arc<Node>) -> Result<()> {
    let providing = Arc::clone(node);
    let attempt = async move { provide(&providing, &providing.dockerd.up()?).await };
    node.providing.join(attempt).await
}

async fn provide(node: &Node, up: &Up) -> Result<()> {
    let name = pause_name(node);
    if find(node, name).await?.is_some() {
        return Ok(());
    }
    if node.config.pause_image.is_some() {
        return fetch(node, name, None).await;
    }
    let archive = pause::archive(&up.facts.architecture)?;
    let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(repository)
        .tag(tag)
        .changes(vec![format!("ENTRYPOINT [{:?}]", pause::PATH)])
        .build();
    let what = format!("import the pause image {name}");
    let archive = bollard::body_full(archive);
    let asked = up.docker.create_image(Some(options), Some(archive), None);
    follow(node, node.config.timeout(), &what, asked, |_| ()).await?;
    tracing::info!(image = name, "the pause image was given to Docker");
    Ok(())
}

async fn find(node: &Node, name: &str) -> Result<Option<ImageInspect>> {
    let what = format!("inspect image {name}");
    let asked = node
        .dockerd
        .call(
            &what,
            |docker| async move { docker.inspect_image(name).await },
        )
        .await;
    match asked {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The id of the image for pods' pause containers, where Docker has it: its name may be written in
/// other ways than Docker lists it.
async fn pinned(node: &Node) -> Result<Option<String>> {
    let found = find(node, pause_name(node)).await?;
    Ok(found.and_then(|image| image.id))
}

pub(crate) async fn list(node: &Node, wanted: Option<&ImageSpec>) -> Result<Vec<Image>> {
    if let Some(name) = wanted
        .map(|image| image.image.as_str())
        .filter(|name| !name.is_empty())
    {
        let (found, pinned) = future::try_join(find(node, name), pinned(node)).await?;
        let found = found
            .iter()
            .map(|image| inspected(image, pinned.as_deref()));
        return Ok(found.collect());
    }
    let options = ListImagesOptionsBuilder::default().all(false).build();
    let images = node.dockerd.call("list images", |docker| async move {
        docker.list_images(Some(options)).await
    });
    let (images, pinned) = future::try_join(images, pinned(node)).await?;
    let images = images.iter().map(|image| listed(image, pinned.as_deref()));
    Ok(images.collect())
}

pub(crate) async fn status(
    node: &Node,
    image: &ImageSpec,
    verbosity: Verbosity,
) -> Result<ImageStatusResponse> {
    let (found, pinned) = future::try_join(find(node, named(image)?), pinned(node)).await?;
    let info = match (&found, verbosity) {
        (Some(image), Verbosity::Verbose) => {
            let info = serde_json::json!({ "docker": image });
            HashMap::from([("info".to_owned(), info.to_string())])
        }
        _ => HashMap::new(),
    };
    Ok(ImageStatusResponse {
        image: found
            .as_ref()
            .map(|image| inspected(image, pinned.as_deref())),
        info,
    })
}

/// Removes an image with all its names: Docker removes it with the last of them.
pub(crate) async fn remove(node: &Node, image: &ImageSpec) -> Result<()> {
    let name = named(image)?;
    let Some(found) = find(node, name).await? else {
        return Ok(());
    };
    let id = found.id.clone().unwrap_or_default();
    let names = real(found.repo_tags.as_deref().unwrap_or_default());
    let digests = real(found.repo_digests.as_deref().unwrap_or_default());
    let what = format!("remove image {name}");
    for name in names.into_iter().chain(digests).chain([id]) {
        let name = name.as_str();
        let removed = node
            .dockerd
            .call(&what, |docker| async move {
                docker
                    .remove_image(name, None::<RemoveImageOptions>, None)
                    .await
            })
            .await;
        node.image_space.changes();
        match removed {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Names without Docker's word for none.
fn real(names: &[String]) -> Vec<String> {
    let names = names.iter().filter(|name| !name.contains(NONE));
    names.cloned().collect()
}

fn listed(image: &ImageSummary, pinned: Option<&str>) -> Image {
    Image {
        id: image.id.clone(),
        repo_tags: real(&image.repo_tags),
        repo_digests: real(&image.repo_digests),
        size: image.size.try_into().unwrap_or_default(),
        pinned: pinned == Some(image.id.as_str()),
        ..Image::default()
    }
}

fn inspected(image: &ImageInspect, pinned: Option<&str>) -> Image {
    let tags = image.repo_tags.as_deref().unwrap_or_default();
    let config = image.config.clone().unwrap_or_default();
    let user = config.user.unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() {
        Some(0)
    } else {
        user.parse().ok()
    };
    Image {
        id: image.id.clone().unwrap_or_default(),
        repo_tags: real(tags),
        repo_digests: real(image.repo_digests.as_deref().unwrap_or_default()),
        size: image
            .size
            .and_then(|size| size.try_into().ok())
            .unwrap_or_default(),
        username: if uid.is_none() {
            user.to_owned()
        } else {
            String::new()
        },
        uid: uid.map(|value| Int64Value { value }),
        spec: None,
        pinned: pinned.is_some() && pinned == image.id.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_ends_a_stream_with_an_error() {
        let some = || stream::iter([Ok(1), Ok(2)]);
        let silent = some().chain(stream::pending());
        let got: Vec<_> = unless_silent(silent, Duration::from_millis(10))
            .collect()
            .await;
        assert!(matches!(got[..2], [Ok(1), Ok(2)]), "{got:?}");
        let [_, _, Err(error)] = &got[..] else {
            panic!("{got:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let got: Vec<_> = unless_silent(some(), Duration::from_mins(1))
            .collect()
            .await;
        assert_eq!(got.len(), 2);
    }

    #[test]
    fn one_tag_is_pulled_and_never_all_of_them() {
        for (name, pulled) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("127.0.0.1:5000/busybox", "127.0.0.1:5000/busybox:latest"),
            ("127.0.0.1:5000/busybox:1", "127.0.0.1:5000/busybox:1"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ] {
            assert_eq!(tagged(name), pulled);
        }
    }

    #[test]
    fn dockers_word_for_none_is_no_name() {
        let names = ["<none>:<none>", "a:1", "<none>@<none>"].map(ToOwned::to_owned);
        assert_eq!(real(&names), ["a:1"]);
    }
}
