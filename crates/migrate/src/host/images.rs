//! Docker's images, given to another runtime, one after the other.

use std::path::Path;
use std::time::Duration;

use bollard::models::ImageSummary;
use bollard::query_parameters::ListImagesOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;

use super::engines::{DockerImage, Engines};
use super::{Error, Progress, process};
use crate::plan::Target;

/// How long Docker may take to answer: an older one writes an archive to its disk first.
const ANSWER: Duration = Duration::from_mins(30);

/// How long nothing may move, and how long the last layer may take to be unpacked.
const SILENCE: Duration = Duration::from_mins(15);

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
    /// Whether no registry is known to have it.
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
    engines: &impl Engines,
    progress: Progress<'_>,
) -> Result<(), Error> {
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
    let there = engines.images(endpoint).await?;
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
            Target::Slipway => give_to_slipway(&docker, endpoint, image, engines).await,
            Target::Containerd => give_to_containerd(&docker, endpoint, image).await,
            Target::Crio => give_to_crio(&docker, socket, image).await,
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
            "these are in no registry, and could not be given to {target}: {lost}; repair that, or push them to a registry, or docker rmi those that nobody needs, then go on"
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
            only_here: digests.is_empty(),
            names: [tags, digests].concat(),
            bytes: u64::try_from(image.size).unwrap_or(0),
        })
    }
}

/// A name with what Docker leaves out of it (distribution/reference, "familiar names").
fn full(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_string(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

async fn give_to_slipway(
    docker: &Docker,
    endpoint: &str,
    image: &Wanted,
    engines: &impl Engines,
) -> Result<(), String> {
    let image = DockerImage {
        id: image.id.clone(),
        names: image.names.clone(),
        archive: docker.export_image(&image.id).boxed(),
    };
    let imported = engines.import(endpoint, image).await;
    imported.map_err(|error| error.to_string())
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

async fn give_to_crio(docker: &Docker, socket: &Path, image: &Wanted) -> Result<(), String> {
    for tag in &image.tags {
        let mut command = process::command("skopeo");
        command
            .args(["copy", "--quiet", "--src-daemon-host"])
            .arg(format!("unix://{}", socket.display()))
            .arg(format!("docker-daemon:{tag}"))
            .arg(format!("containers-storage:{}", full(tag)));
        match process::run(&mut command, b"", ANSWER).await {
            Ok(_) => continue,
            Err(failure) if !failure.is_absence() => return Err(failure.to_string()),
            Err(_) => {}
        }
        let mut command = process::command("podman");
        let archive = docker.export_images(&[tag]);
        let fed = process::feed(command.args(["load", "--quiet"]), archive, SILENCE).await;
        fed.map_err(|failure| {
            if failure.is_absence() {
                return "neither skopeo nor podman is here: install one of them".to_string();
            }
            failure.to_string()
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
