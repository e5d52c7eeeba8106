//! The image layers that a container stands on.

use slipway_image::Images;

/// Layers that are kept for a container; dropping it lets go of them.
pub(crate) struct HeldLayers {
    images: Images,
    chain_ids: Vec<String>,
}

impl HeldLayers {
    /// Takes over what [`Images::hold`] has taken.
    pub(crate) fn taken(images: &Images, chain_ids: Vec<String>) -> Self {
        Self {
            images: images.clone(),
            chain_ids,
        }
    }

    /// Takes over what [`Images::hold`] has taken for one more image, a volume's.
    pub(crate) fn and(&mut self, chain_ids: Vec<String>) {
        self.chain_ids.extend(chain_ids);
    }

    /// Holds the layers of a container that was there before this daemon.
    pub(crate) fn again(
        images: &Images,
        chain_ids: &[String],
    ) -> Result<Self, slipway_image::Error> {
        images.hold_layers(chain_ids)?;
        Ok(Self::taken(images, chain_ids.to_vec()))
    }
}

impl Drop for HeldLayers {
    fn drop(&mut self) {
        self.images.release(&self.chain_ids);
    }
}
