//! Images that a container mounts as volumes (CRI `Mount.image`).

use std::collections::HashMap;
use std::path::PathBuf;

use slipway_cri_api::v1::Mount;
use slipway_engine::Result;
use slipway_image::Images;

use crate::failure;
use crate::layers::HeldLayers;

/// The images of a container's volumes.
#[derive(Debug, Default)]
pub(crate) struct ImageVolumes {
    /// Directories to lay over each other, the lowest first, by the image as the request names it.
    layers: HashMap<String, Vec<PathBuf>>,
    /// All of their layers; those that images share are in it more than once.
    pub(crate) chain_ids: Vec<String>,
}

impl ImageVolumes {
    /// Finds the images, writes into the mounts which they are (CRI `ImageSpec.image_ref`), and has
    /// their layers kept together with the container's own.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::NotFound`] for an image that is not on the node: whoever wants it
    /// has to pull it first.
    pub(crate) fn hold(
        images: &Images,
        mounts: &mut [Mount],
        layers: &mut HeldLayers,
    ) -> Result<Self> {
        let mut volumes = Self::default();
        let mut references: HashMap<String, String> = HashMap::new();
        for mount in mounts {
            let Some(image) = &mut mount.image else {
                continue;
            };
            if let Some(reference) = references.get(&image.image) {
                image.image_ref.clone_from(reference);
                continue;
            }
            let held = images.hold(&image.image).map_err(|error| {
                failure::of_image(&error)
                    .context(format!("Mount.image of {:?}", mount.container_path))
            })?;
            // The id, as PullImage answers it, is what the conformance tests of CRI compare it with.
            image.image_ref.clone_from(&held.image.id);
            references.insert(image.image.clone(), image.image_ref.clone());
            layers.and(held.chain_ids.clone());
            volumes.chain_ids.extend(held.chain_ids);
            volumes.layers.insert(image.image.clone(), held.layers);
        }
        Ok(volumes)
    }

    /// The layers' directories of an image that a mount names.
    pub(crate) fn layers(&self, image: &str) -> &[PathBuf] {
        self.layers.get(image).map_or(&[], Vec::as_slice)
    }
}
