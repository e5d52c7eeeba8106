//! Docker's images, given to another runtime, one after the other.

use std::collections::HashSet;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bollard::models::ImageSummary;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use slipway_cri_api::slipway::ImportRequest;
use slipway_cri_api::slipway::images_client::ImagesClient;
use slipway_cri_api::v1::ListImagesRequest;
use slipway_cri_api::v1::image_service_client::ImageServiceClient;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::{Error, Progress, process};
use crate::plan::Target;

/// How long Docker may take to answer: an older one writes an archive to its disk first.
const ANSWER: Duration = Duration::from_mins(30);

/// How long the target may take to answer what it knows.
const PATIENCE: Duration = Duration::from_mins(2);

/// A node can have thousands of images.
const LARGEST_MESSAGE: usize = 16 << 20;

/// How long nothing may move, and how long the last layer may take to be unpacked.
const SILENCE: Duration = Duration::from_mins(15);

/// An image that skopeo is to read, beside the journal.
const ARCHIVE: &str = "/var/lib/slipway-migrate/image.tar";

const WHAT: &str = "carry Docker's images over";

/// Where containerd's CRI plugin has its images.
const NAMESPACE: &str = "k8s.io";

/// An image that the target does not have.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    id: String,
    /// Its names that the target does not have.
    tags: Vec<String>,
    /// All its names.
    names: Vec<String>,
    bytes: u64,
    /// Whether no registry is known to have it. A Docker that keeps its images in containerd gives
    /// those that were built a digest, too.
    only_here: bool,
}

/// Gives the images of the Docker at `socket` that have a name which `target`, at `endpoint`, does
/// not know, to it. What cannot be given is said, and is pulled when a pod wants it.
///
/// # Errors
///
/// Docker or the target out of reach; images that cannot be given and are nowhere else.
pub(super) async fn carry(
    socket: &Path,
    target: Target,
    endpoint: &str,
    progress: Progress<'_>,
) -> Result<(), Error> {
    if target == Target::CriDockerd {
        return Ok(());
    }
    let unreachable = |error| {
        let socket = socket.display();
        let todo = "start Docker (systemctl start docker), then go on";
        Error::new(
            WHAT,
            format!("Docker at {socket} does not answer: {error}; {todo}"),
        )
    };
    let path = socket.to_string_lossy();
    let docker = Docker::connect_with_unix(&path, ANSWER.as_secs(), API_DEFAULT_VERSION);
    let docker = docker.map_err(unreachable)?;
    let all = ListImagesOptionsBuilder::default().build();
    let all = docker.list_images(Some(all)).await.map_err(unreachable)?;
    let there = names(endpoint).await.map_err(|why| {
        let todo = format!("see to it that {target} runs, then go on");
        Error::new(WHAT, format!("{target} at {endpoint}: {why}; {todo}"))
    })?;
    let wanted: Vec<_> = all
        .iter()
        .filter_map(|image| Wanted::of(image, &there))
        .collect();
    let mut lost = Vec::new();
    for (number, image) in (1..).zip(&wanted) {
        let name = image.tags.join(", ");
        progress(&format!(
            "image {number} of {}: {name}, {} MB",
            wanted.len(),
            image.bytes.div_ceil(1_000_000)
        ));
        let given = match target {
            Target::Slipway => give_to_slipway(&docker, endpoint, image).await,
            Target::Containerd => give_to_containerd(&docker, endpoint, image).await,
            Target::Crio => give_to_crio(&docker, image).await,
            Target::CriDockerd => return Ok(()),
        };
        match given {
            Ok(()) => {}
            Err(why) if image.only_here => lost.push(format!("{name}: {why}")),
            Err(why) => progress(&format!(
                "{name} is not carried over, and will be pulled when a pod wants it: {why}"
            )),
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let lost = lost.join("; ");
    Err(Error::new(
        WHAT,
        format!(
            "these are in no registry that is known of, and could not be given to {target}: {lost}; repair that, or push them to a registry, or docker rmi those that nobody needs, then go on"
        ),
    ))
}

impl Wanted {
    /// An image, if the target lacks a name of it.
    fn of(image: &ImageSummary, there: &[String]) -> Option<Self> {
        let named = |names: &[String]| -> Vec<String> {
            let names = names.iter().filter(|name| !name.contains("<none>"));
            names.cloned().collect()
        };
        let tags = named(&image.repo_tags);
        let digests = named(&image.repo_digests);
        let lacks = |tag: &&String| !there.contains(&full(tag));
        // Slipway has made it for pods on Docker, and makes it again.
        let own = |tag: &&String| !tag.starts_with("slipway/pause:");
        let missing: Vec<_> = tags.iter().filter(own).filter(lacks).cloned().collect();
        (!missing.is_empty()).then(|| Self {
            id: image.id.clone(),
            tags: missing,
            only_here: digests.is_empty() || image.descriptor.is_some(),
            names: [tags, digests].concat(),
            bytes: u64::try_from(image.size).unwrap_or(0),
        })
    }
}

/// The ids of all containers of a Docker.
pub(super) async fn containers(socket: &Path) -> Result<HashSet<String>, Error> {
    let what = "look which pods are Docker's";
    let path = socket.to_string_lossy();
    let docker = Docker::connect_with_unix(&path, ANSWER.as_secs(), API_DEFAULT_VERSION);
    let docker = docker.map_err(|error| Error::new(what, error))?;
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let listed = docker.list_containers(Some(all)).await;
    let listed = listed.map_err(|error| {
        let socket = socket.display();
        Error::new(
            what,
            format!("Docker at {socket} does not answer: {error}; start it, then go on"),
        )
    })?;
    Ok(listed.into_iter().filter_map(|one| one.id).collect())
}

/// A name with what Docker leaves out of it (distribution/reference, "familiar names").
fn full(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_string(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// The names of all images behind a CRI socket, with their registries.
async fn names(endpoint: &str) -> Result<Vec<String>, String> {
    let channel = channel(endpoint).await?;
    let mut client = ImageServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let listed = timeout(PATIENCE, client.list_images(ListImagesRequest::default()));
    let listed = listed.await.map_err(|_| "it does not answer".to_string())?;
    let listed = listed.map_err(|status| status.message().to_string())?;
    let images = listed.into_inner().images.into_iter();
    Ok(images.flat_map(|image| image.repo_tags).collect())
}

async fn channel(endpoint: &str) -> Result<Channel, String> {
    let channel = Endpoint::from_shared(endpoint.to_string());
    let channel = channel.map_err(|error| error.to_string())?;
    let connected = channel.connect_timeout(PATIENCE).connect().await;
    connected.map_err(|error| {
        // Those around the innermost cause only say that there is one.
        let mut error: &dyn std::error::Error = &error;
        while let Some(source) = error.source() {
            error = source;
        }
        error.to_string()
    })
}

async fn give_to_slipway(docker: &Docker, endpoint: &str, image: &Wanted) -> Result<(), String> {
    let mut client = ImagesClient::new(channel(endpoint).await?);
    let first = ImportRequest {
        id: image.id.clone(),
        names: image.names.clone(),
        ..ImportRequest::default()
    };
    let (sender, pieces) = tokio::sync::mpsc::channel(1);
    let archive = docker.export_image(&image.id);
    let silent = |_| format!("nothing has happened for {} s", SILENCE.as_secs());
    let send = async {
        let mut archive = pin!(archive);
        // Whoever does not want it any more says why.
        let _ = sender.send(first).await;
        while let Some(piece) = timeout(SILENCE, archive.next()).await.map_err(silent)? {
            let piece = piece.map_err(|error| format!("Docker's archive broke off: {error}"))?;
            let archive = piece.into();
            let piece = ImportRequest {
                archive,
                ..ImportRequest::default()
            };
            let sent = timeout(SILENCE, sender.send(piece)).await;
            if sent.map_err(silent)?.is_err() {
                break;
            }
        }
        drop(sender);
        Ok::<(), String>(())
    };
    let import = async {
        match client.import(ReceiverStream::new(pieces)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Err(
                "what listens there takes no images: restart Slipway, if it was upgraded"
                    .to_string(),
            ),
            Err(status) => Err(status.message().to_string()),
        }
    };
    let mut import = pin!(import);
    tokio::select! {
        imported = &mut import => return imported,
        sent = send => sent?,
    }
    timeout(SILENCE, import).await.map_err(silent)?
}

/// Removes what a process that was killed has left on its way.
pub(super) fn forget() -> Result<(), Error> {
    match std::fs::remove_file(ARCHIVE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::new(
            format!("remove {ARCHIVE}"),
            format!("{error}; remove it by hand, then go on"),
        )),
        _ => Ok(()),
    }
}

async fn give_to_containerd(docker: &Docker, endpoint: &str, image: &Wanted) -> Result<(), String> {
    let mut command = process::command("ctr");
    let address = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    command.args(["--address", address, "--namespace", NAMESPACE]);
    command.args(["images", "import", "-"]);
    let names: Vec<_> = image.tags.iter().map(String::as_str).collect();
    let archive = docker.export_images(&names);
    let fed = process::feed(&mut command, archive, SILENCE).await;
    fed.map(drop).map_err(|failure| failure.to_string())
}

/// By way of a file: skopeo reads an archive twice, and can ask no current Docker itself.
async fn give_to_crio(docker: &Docker, image: &Wanted) -> Result<(), String> {
    let archive = Archive::new(Path::new(ARCHIVE));
    let names: Vec<_> = image.tags.iter().map(String::as_str).collect();
    let written = archive.write(docker.export_images(&names)).await;
    written.map_err(|error| format!("{ARCHIVE}: {error}"))?;
    for tag in &image.tags {
        let mut command = process::command("skopeo");
        command
            .args(["copy", "--quiet"])
            .arg(format!("docker-archive:{ARCHIVE}:{}", full(tag)))
            .arg(format!("containers-storage:{}", full(tag)));
        match process::run(&mut command, b"", ANSWER).await {
            Ok(_) => {}
            Err(failure) if failure.is_absence() => return load(ARCHIVE).await,
            Err(failure) => return Err(failure.to_string()),
        }
    }
    Ok(())
}

/// All that is in an archive, where there is no skopeo.
async fn load(archive: &str) -> Result<(), String> {
    let mut command = process::command("podman");
    command.args(["load", "--quiet", "--input", archive]);
    match process::run(&mut command, b"", ANSWER).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_absence() => {
            Err("neither skopeo nor podman is here: install one of them".to_string())
        }
        Err(failure) => Err(failure.to_string()),
    }
}

/// An image on its way. One that was left by a process that was killed is written over.
struct Archive<'a>(&'a Path);

impl<'a> Archive<'a> {
    fn new(path: &'a Path) -> Self {
        Self(path)
    }

    async fn write<E: std::error::Error + Send + Sync + 'static>(
        &self,
        pieces: impl Stream<Item = Result<Bytes, E>>,
    ) -> std::io::Result<()> {
        let mut pieces = pin!(pieces);
        if let Some(above) = self.0.parent() {
            tokio::fs::create_dir_all(above).await?;
        }
        let mut file = tokio::fs::File::create(self.0).await?;
        loop {
            let piece = timeout(SILENCE, pieces.next()).await;
            let piece = piece.map_err(|_| std::io::ErrorKind::TimedOut)?;
            let Some(piece) = piece else {
                return file.flush().await;
            };
            let piece = piece.map_err(std::io::Error::other)?;
            file.write_all(&piece).await?;
        }
    }
}

impl Drop for Archive<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests;
