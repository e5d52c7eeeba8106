//! Where an image's layers come from.

use oci_spec::image::Descriptor;

use crate::archive::Archive;
use crate::error::{Error, Kind};
use crate::pull::Places;
use crate::registry::{Outcome, Sink};

/// What has the layers of one image.
pub(crate) enum Source {
    /// The registries that a reference stands for.
    Registry(Places),
    /// A file on this node.
    Archive(Archive),
}

impl Source {
    /// Sends a blob's bytes to the sink.
    pub(crate) async fn download(
        &self,
        blob: &Descriptor,
        sink: &mut impl Sink,
    ) -> Result<Outcome, Error> {
        match self {
            Self::Registry(places) => places.download(blob, sink).await,
            Self::Archive(archive) => archive.send(blob.digest(), sink).await,
        }
    }

    /// An error of what it delivered.
    pub(crate) fn error(&self, kind: Kind, cause: String) -> Error {
        match self {
            Self::Registry(places) => places.error(kind, cause),
            Self::Archive(archive) => archive.error(kind, cause),
        }
    }
}
