//! Images in CRI's words.

use std::collections::HashMap;

use futures_util::stream;
use slipway_cri_api::slipway::{LayerProgress, LayerState, PullProgress};
use slipway_cri_api::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoResponse, ImageSpec,
    ImageStatusResponse, Int64Value, UInt64Value,
};
use slipway_engine::{Error, PullProgressStream, Result, Verbosity};
use slipway_image::{Credentials, Images};

use crate::failure;
use crate::node::now;

pub(crate) async fn pull(
    images: &Images,
    image: &ImageSpec,
    auth: Option<AuthConfig>,
) -> Result<String> {
    let auth = auth.map(slipway_engine::credentials).transpose()?;
    let credentials = auth.map(|auth| Credentials {
        username: auth.username,
        password: auth.password,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    });
    images
        .pull(named(image)?, credentials)
        .await
        .map_err(|error| failure::of_image(&error))
}

fn named(image: &ImageSpec) -> Result<&str> {
    match image.image.as_str() {
        "" => Err(Error::invalid("ImageSpec.image is empty")),
        name => Ok(name),
    }
}

pub(crate) fn list(images: &Images, wanted: Option<&ImageSpec>) -> Result<Vec<Image>> {
    let found = match wanted
        .map(|image| image.image.as_str())
        .filter(|name| !name.is_empty())
    {
        Some(name) => images.find(name).map(|image| image.into_iter().collect()),
        None => images.list(),
    };
    Ok(found
        .map_err(|error| failure::of_image(&error))?
        .iter()
        .map(message)
        .collect())
}

pub(crate) fn status(
    images: &Images,
    image: &ImageSpec,
    verbosity: Verbosity,
) -> Result<ImageStatusResponse> {
    let found = images
        .find(named(image)?)
        .map_err(|error| failure::of_image(&error))?;
    let info = match (&found, verbosity) {
        (Some(image), Verbosity::Verbose) => {
            let info = serde_json::json!({ "imageSpec": *image.config });
            HashMap::from([("info".to_owned(), info.to_string())])
        }
        _ => HashMap::new(),
    };
    Ok(ImageStatusResponse {
        image: found.as_ref().map(message),
        info,
    })
}

pub(crate) async fn remove(images: &Images, image: &ImageSpec) -> Result<()> {
    images
        .remove(named(image)?)
        .await
        .map_err(|error| failure::of_image(&error))
}

pub(crate) async fn file_systems(images: &Images) -> Result<ImageFsInfoResponse> {
    let usage = images
        .usage()
        .await
        .map_err(|error| failure::of_image(&error))?;
    let usage = FilesystemUsage {
        timestamp: now(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: usage.path.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value {
            value: usage.inodes,
        }),
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        // Writable layers are on the same file system, which a kubelet wants to be told.
        container_filesystems: vec![usage],
    })
}

fn message(image: &slipway_image::Image) -> Image {
    let user = image
        .config
        .config()
        .as_ref()
        .and_then(|config| config.user().clone());
    let user = user.unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() {
        Some(0)
    } else {
        user.parse().ok()
    };
    Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_none() {
            user.to_owned()
        } else {
            String::new()
        },
        spec: None,
        pinned: image.pinned,
    }
}

/// The states of a pull, each one once, until the pull has ended.
pub(crate) fn watch(images: &Images, image: &str) -> PullProgressStream {
    let receiver = images.watch(image);
    Box::pin(stream::unfold(receiver, |mut receiver| async move {
        receiver.changed().await.ok()?;
        let progress = receiver.borrow_and_update().clone();
        Some((progress_message(&progress), receiver))
    }))
}

fn progress_message(progress: &slipway_image::PullProgress) -> PullProgress {
    use slipway_image::LayerState as State;
    let layers = progress
        .layers
        .iter()
        .map(|layer| LayerProgress {
            digest: layer.digest.clone(),
            total: layer.total,
            done: layer.done,
            state: match layer.state {
                State::Waiting => LayerState::LayerWaiting,
                State::Downloading => LayerState::LayerDownloading,
                State::Unpacking => LayerState::LayerUnpacking,
                State::Done => LayerState::LayerDone,
                State::Present => LayerState::LayerPresent,
            } as i32,
        })
        .collect();
    PullProgress { layers }
}
