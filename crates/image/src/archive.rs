//! An image in an archive, as `docker save` writes it: layers and a configuration, and a
//! `manifest.json` that says which files these are. Archives of an image index layout have it too.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Deserialize;
use tokio::io::AsyncRead;

use crate::error::{Error, Kind};
use crate::manifest::{self, Compression, Document, Layer, Unusable};
use crate::pull::{self, CONFIG_LENGTH_MAX, Names};
use crate::reference::Reference;
use crate::registry::{Outcome, Sink};
use crate::source::Source;
use crate::{Inner, blocking, digest};

const MANIFEST: &str = "manifest.json";

/// As much of a layer as is read at a time.
const CHUNK_LENGTH: usize = 1024 * 1024;

/// Where a link of a link may lead; Docker makes one step.
const LINKS_MAX: usize = 8;

/// How many indexes may lead to a manifest, and that one.
const DOCUMENTS_MAX: usize = 3;

/// An archive that is being read.
pub type ArchiveReader = Pin<Box<dyn AsyncRead + Send>>;

/// The place of a file in the archive.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    length: u64,
}

impl Place {
    /// All of it. Blocking.
    fn read(self, file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }

    /// Takes the first chunk off it.
    fn chunk(&mut self) -> Self {
        let chunk = Self {
            offset: self.offset,
            length: self.length.min(CHUNK_LENGTH as u64),
        };
        self.offset += chunk.length;
        self.length -= chunk.length;
        chunk
    }
}

/// An archive on this node, and where in it the layers are, by diff id.
pub(crate) struct Archive {
    image: String,
    file: Arc<File>,
    layers: HashMap<String, Place>,
}

/// The files of an archive.
#[derive(Default)]
struct Contents {
    files: HashMap<PathBuf, Place>,
    links: HashMap<PathBuf, PathBuf>,
}

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    #[serde(default)]
    layers: Vec<PathBuf>,
}

/// An image that is in an archive.
struct Found {
    config: Vec<u8>,
    layers: Vec<Layer>,
    places: HashMap<String, Place>,
}

/// What is wrong, of which class.
type Refused = (Kind, String);

/// Takes the image `id` out of an archive; what else is in there is left alone. After a failure
/// nothing of it is stored.
pub(crate) async fn import(
    inner: Arc<Inner>,
    id: String,
    names: Vec<String>,
    mut reader: ArchiveReader,
) -> Result<String, Error> {
    let report = inner.board.start(id.clone());
    // Its manifest may come last, so that all of it has to be there first.
    let storing = Arc::clone(&inner);
    let temporary = blocking(move || storing.store.temporary()).await?;
    let path = temporary.path().join("archive");
    let mut spool = tokio::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .await
        .map_err(|error| Error::store(&path, "cannot make it", &error))?;
    copy(&mut reader, &mut spool, &path)
        .await
        .map_err(|refused| refused.of(&id))?;
    let file = Arc::new(spool.into_std().await);
    let (archived, image) = (Arc::clone(&file), id.clone());
    let found = blocking(move || {
        find(&archived, &image).map_err(|(kind, cause)| Error::Archive { kind, image, cause })
    })
    .await?;
    let names = names
        .iter()
        .filter_map(|name| Some(name.parse::<Reference>().ok()?.resolved().to_string()))
        .collect();
    let source = Source::Archive(Archive {
        image: id,
        file,
        layers: found.places,
    });
    let names = Names::Offered(names);
    let stored = pull::complete(&inner, source, found.layers, found.config, names, &report).await;
    // A file of many gigabytes may take its time to go.
    blocking(move || {
        drop(temporary);
        Ok(())
    })
    .await?;
    stored
}

/// Which side of a copy has failed.
enum Copying {
    Reading(io::Error),
    Writing(Error),
}

impl Copying {
    fn of(self, image: &str) -> Error {
        match self {
            Self::Reading(error) => Error::Archive {
                kind: Kind::Unavailable,
                image: image.to_owned(),
                cause: format!("it ends early: {error}"),
            },
            Self::Writing(error) => error,
        }
    }
}

async fn copy(
    reader: &mut ArchiveReader,
    file: &mut tokio::fs::File,
    path: &Path,
) -> Result<(), Copying> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; CHUNK_LENGTH];
    let writing = |error| Copying::Writing(Error::store(path, "cannot write to it", &error));
    loop {
        match reader.read(&mut buffer).await.map_err(Copying::Reading)? {
            0 => return file.flush().await.map_err(writing),
            length => file.write_all(&buffer[..length]).await.map_err(writing)?,
        }
    }
}

/// Finds the image in the archive, and checks that it is what its id says: the digest of its
/// configuration, or of a manifest or index that leads to one.
fn find(file: &File, id: &str) -> Result<Found, Refused> {
    let contents = Contents::of(file)
        .map_err(|error| (Kind::Corrupt, format!("it cannot be read: {error}")))?;
    let wanted = contents.config_of(file, id)?;
    let saved: Vec<Saved> = serde_json::from_slice(&contents.read(file, MANIFEST.as_ref())?)
        .map_err(|error| {
            (
                Kind::Corrupt,
                format!("its {MANIFEST} is malformed: {error}"),
            )
        })?;
    let mut found = None;
    for image in saved {
        let config = contents.read(file, &image.config)?;
        if digest::sha256(&config) == wanted {
            found = Some((image, config));
        }
    }
    let Some((image, config)) = found else {
        return Err((
            Kind::Corrupt,
            format!("no configuration in it has the digest {wanted}"),
        ));
    };
    let (layers, places) = contents.layers(file, &image, &config)?;
    Ok(Found {
        config,
        layers,
        places,
    })
}

impl Contents {
    fn of(mut file: &File) -> io::Result<Self> {
        let mut contents = Self::default();
        file.rewind()?;
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let path = entry.path()?.into_owned();
            match entry.header().entry_type() {
                kind if kind.is_file() => {
                    let place = Place {
                        offset: entry.raw_file_position(),
                        length: entry.size(),
                    };
                    contents.files.insert(path, place);
                }
                kind if kind.is_symlink() || kind.is_hard_link() => {
                    let target = entry.link_name()?.unwrap_or_default();
                    let from = if kind.is_symlink() {
                        path.parent().unwrap_or(Path::new("")).join(target)
                    } else {
                        target.into_owned()
                    };
                    contents.links.insert(path, plain(&from));
                }
                _ => {}
            }
        }
        Ok(contents)
    }

    fn find(&self, path: &Path) -> Result<Place, Refused> {
        let mut at = path;
        for _ in 0..LINKS_MAX {
            if let Some(place) = self.files.get(at) {
                return Ok(*place);
            }
            match self.links.get(at) {
                Some(target) => at = target,
                None => break,
            }
        }
        Err((Kind::Corrupt, format!("it has no {}", path.display())))
    }

    fn read(&self, file: &File, path: &Path) -> Result<Vec<u8>, Refused> {
        let place = self.find(path)?;
        if place.length > CONFIG_LENGTH_MAX {
            return Err((
                Kind::Corrupt,
                format!(
                    "its {} has {} bytes (at most {CONFIG_LENGTH_MAX} are allowed)",
                    path.display(),
                    place.length
                ),
            ));
        }
        place
            .read(file)
            .map_err(|error| (Kind::Corrupt, format!("its {}: {error}", path.display())))
    }

    /// The digest of the configuration that an id stands for: where Docker keeps its images in
    /// containerd, an id is that of a manifest or of an index.
    fn config_of(&self, file: &File, id: &str) -> Result<String, Refused> {
        let mut at = id.to_owned();
        for _ in 0..DOCUMENTS_MAX {
            let blob = Path::new("blobs").join(at.replace(':', "/"));
            if self.find(&blob).is_err() {
                break;
            }
            let bytes = self.read(file, &blob)?;
            if digest::sha256(&bytes) != at {
                let cause = format!("its {} has another digest", blob.display());
                return Err((Kind::Corrupt, cause));
            }
            at = match Document::parse(&bytes, None) {
                Ok(Document::Index(index)) => {
                    manifest::choose_platform(&index)?.digest().to_string()
                }
                Ok(Document::Manifest(manifest)) => {
                    return Ok(manifest::config_of(&manifest)?.digest().to_string());
                }
                // It is the configuration.
                Err(_) => break,
            };
        }
        Ok(at)
    }

    fn layers(
        &self,
        file: &File,
        image: &Saved,
        config: &[u8],
    ) -> Result<(Vec<Layer>, HashMap<String, Place>), Refused> {
        let config = manifest::configuration(config)?;
        let diff_ids = manifest::diff_ids(&config, image.layers.len())?;
        let mut layers = Vec::new();
        let mut places = HashMap::new();
        for (path, diff_id) in image.layers.iter().zip(diff_ids) {
            let place = self.find(path)?;
            let diff_id = manifest::diff_id(diff_id)?;
            let mut start = [0; 4];
            // One that is shorter is nothing that is compressed.
            let length = file.read_at(&mut start, place.offset).unwrap_or_default();
            places.insert(diff_id.to_string(), place);
            layers.push(Layer {
                blob: Descriptor::new(MediaType::ImageLayer, place.length, diff_id.clone()),
                compression: compression(&start[..length]),
                diff_id,
            });
        }
        Ok((layers, places))
    }
}

/// Archives say nothing about it. Docker's own image store saves layers as they are, and the one
/// that it borrows from containerd as they were pulled.
fn compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

impl From<Unusable> for Refused {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Corrupt(cause) => (Kind::Corrupt, cause),
            Unusable::Unsupported(cause) => (Kind::Unsupported, cause),
        }
    }
}

impl Archive {
    /// Sends a layer to the sink. That it is the right one is seen by its diff id.
    pub(crate) async fn send(
        &self,
        diff_id: &Digest,
        sink: &mut impl Sink,
    ) -> Result<Outcome, Error> {
        let Some(&(mut place)) = self.layers.get(diff_id.as_ref()) else {
            return Err(self.error(Kind::Corrupt, format!("it has no layer {diff_id}")));
        };
        while place.length > 0 {
            let (file, chunk) = (Arc::clone(&self.file), place.chunk());
            let read = tokio::task::spawn_blocking(move || chunk.read(&file));
            let bytes = read
                .await
                .unwrap_or_else(|died| Err(io::Error::other(died)))
                .map_err(|error| self.error(Kind::Corrupt, format!("layer {diff_id}: {error}")))?;
            if !sink.take(Bytes::from(bytes)).await {
                return Ok(Outcome::Declined);
            }
        }
        Ok(Outcome::Complete)
    }

    pub(crate) fn error(&self, kind: Kind, cause: String) -> Error {
        Error::Archive {
            kind,
            image: self.image.clone(),
            cause,
        }
    }
}
