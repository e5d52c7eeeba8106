//! Container images of a node: pulled from registries, verified, unpacked into the layer
//! directories that containers' root file systems are stacked from.
//!
//! [`Images`] is the whole interface. An image is stored when its record is in the metadata file;
//! a layer is a directory under its chain id that is complete or absent. Compressed blobs are not
//! kept: a layer goes from the network through its digests and the decompressor into its directory
//! in one pass, and all layers of an image do so at the same time.
//!
//! Pulls run as tasks of their own. A caller that goes away changes nothing about what is left
//! behind, and any number of callers of one image share one download; so do images with a layer in
//! common. Credentials keep them apart: what one caller may see is not handed to another.
#![forbid(unsafe_code)]

mod archive;
mod catalogue;
mod digest;
mod error;
mod fetch;
mod flight;
mod layer;
mod manifest;
mod metadata;
mod metrics;
mod progress;
mod pull;
mod reference;
mod registries;
mod registry;
mod source;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use oci_spec::image::ImageConfiguration;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tracing::{Instrument as _, trace_span};

pub use archive::ArchiveReader;
pub use error::{Error, Kind};
pub use progress::{LayerProgress, LayerState, PullProgress};
pub use reference::Reference;
pub use registry::Credentials;

use catalogue::{Catalogue, Found};
use flight::{Abandoned, Flights};
use metadata::Changes;
use metrics::Metrics;
use progress::{Board, Step};
use registries::RegistriesFile;
use registry::Clients;
use store::Store;

/// Images.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// containers-registries.conf(5), with drop-ins in the directory of the same name + `.d`. It
    /// may be missing. Changes count from the next pull on.
    pub registries_conf: PathBuf,
    /// Layers that are fetched and unpacked at the same time, over all pulls; 1 to 1024. Layers
    /// that wait already when it is changed do so by the old number.
    pub max_parallel_downloads: usize,
    /// How long a pull waits without receiving a byte before it is given up, in seconds.
    #[serde(rename = "stall_timeout_seconds", with = "seconds")]
    #[schemars(with = "u64")]
    pub stall_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            registries_conf: "/etc/containers/registries.conf".into(),
            max_parallel_downloads: 6,
            stall_timeout: Duration::from_mins(1),
        }
    }
}

impl Config {
    /// Looks for values that cannot be used. Each is told to `complain`, by its key in this table
    /// and in a sentence.
    pub fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        if !self.registries_conf.is_absolute() {
            let path = self.registries_conf.display().to_string();
            complain(
                "registries_conf",
                format!("{path:?} is not an absolute path"),
            );
        }
        if !(1..=1024).contains(&self.max_parallel_downloads) {
            let given = self.max_parallel_downloads;
            complain(
                "max_parallel_downloads",
                format!("{given} is not between 1 and 1024"),
            );
        }
    }
}

/// What a new configuration replaces. A pull has the same one to its end.
struct Reloaded {
    config: Config,
    registries: RegistriesFile,
    downloads: Arc<Semaphore>,
}

impl Reloaded {
    fn new(config: Config) -> Self {
        Self {
            registries: RegistriesFile::new(config.registries_conf.clone()),
            downloads: Arc::new(Semaphore::new(config.max_parallel_downloads.clamp(1, 1024))),
            config,
        }
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        match u64::deserialize(from)? {
            0 => Err(serde::de::Error::custom("must be at least 1 second")),
            seconds => Ok(Duration::from_secs(seconds)),
        }
    }
}

/// A stored image (CRI `Image`).
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the configuration, `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// The tags under which it was pulled, complete (`docker.io/library/busybox:latest`), sorted.
    pub repo_tags: Vec<String>,
    /// The manifest or index digests under which it was pulled, complete, sorted.
    pub repo_digests: Vec<String>,
    /// Space of its layers on disk in bytes, those included that it shares with other images.
    pub size: u64,
    /// Never to be removed to gain space. No image is, as there is no pause image.
    pub pinned: bool,
    /// The OCI configuration.
    pub config: Arc<ImageConfiguration>,
}

impl Image {
    /// The digested reference under which a container is told to run it (CRI `image_ref`): a
    /// repository's, or the id where it came from none.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.repo_digests.first().unwrap_or(&self.id)
    }
}

/// The layers of an image, kept from removal until [`Images::release`] is called with `chain_ids`.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Directories to stack as overlayfs lower layers, lowest first. There may be fewer than chain
    /// ids, where a layer hides all below it, and none for an image without layers.
    pub layers: Vec<PathBuf>,
    /// What is held, lowest first; to be recorded with the container.
    pub chain_ids: Vec<String>,
    /// The OCI configuration.
    pub config: ImageConfiguration,
    /// The image itself.
    pub image: Image,
}

/// Space that the store takes (CRI `FilesystemUsage`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Usage {
    /// The store's directory, to find its file system by.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The metadata file in the root of the store.
const METADATA: &str = "metadata.redb";

/// The image store of a node. Clones are handles to the same store.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    root: PathBuf,
    reloaded: watch::Sender<Arc<Reloaded>>,
    catalogue: Catalogue,
    store: Store,
    /// The HTTP clients, for as long as a pull uses them.
    clients: Mutex<Weak<Clients>>,
    layers: Flights<String, Step, Result<(), Error>>,
    pulls: Flights<(String, Option<Credentials>), (), Result<String, Error>>,
    board: Board,
    metrics: Metrics,
    /// Identity of the running kernel's boot.
    boot: String,
    /// Lets one collection end before the next begins, so that what either was asked to remove is
    /// gone when it returns.
    collecting: tokio::sync::Mutex<()>,
    /// Whether a thread brings layers to the disk.
    settling: AtomicBool,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images")
            .field("root", &self.0.root)
            .finish_non_exhaustive()
    }
}

impl Images {
    /// Opens the store in `root`, which is created if it is missing, and removes what a crash left
    /// half done: unfinished layers, and after a power failure those that may not have reached the
    /// disk together with their images. Layers without an image stay until
    /// [`collect`](Self::collect), as containers may still use them.
    ///
    /// Blocking. Fails with [`Kind::Store`] when another process has the store open.
    pub fn open(root: &Path, config: Config) -> Result<Self, Error> {
        store::create_directory(root)?;
        // The metadata file is also the lock, so it comes before anything is removed.
        let catalogue = Catalogue::open(&root.join(METADATA))?;
        let store = Store::open(root)?;
        let boot = boot_id()?;
        let images = Self(Arc::new(Inner {
            root: root.to_owned(),
            catalogue,
            store,
            clients: Mutex::default(),
            layers: Flights::new(Abandoned::IsCancelled),
            pulls: Flights::new(Abandoned::GoesOn),
            board: Board::default(),
            metrics: Metrics::default(),
            boot,
            collecting: tokio::sync::Mutex::default(),
            settling: AtomicBool::new(false),
            reloaded: watch::Sender::new(Arc::new(Reloaded::new(config))),
        }));
        images.0.recover()?;
        Ok(images)
    }

    /// Offers the store's own metrics, `slipway_image_…`, under a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// Puts another configuration into force for pulls that begin from now on.
    pub fn reload(&self, config: Config) {
        self.0.reloaded.send_modify(|reloaded| {
            let mut new = Reloaded::new(config);
            if new.config.max_parallel_downloads == reloaded.config.max_parallel_downloads {
                new.downloads = Arc::clone(&reloaded.downloads);
            }
            *reloaded = Arc::new(new);
        });
    }

    /// Pulls an image and returns its id. One download serves all who ask for the same reference
    /// with the same credentials at the same time, and all get its outcome. Dropping the future
    /// does not stop the pull.
    ///
    /// Must be called in a tokio runtime.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<String, Error> {
        let reference = reference.parse::<Reference>()?.resolved();
        let key = (reference.to_string(), credentials.clone());
        let inner = &self.0;
        let ticket = inner.pulls.join(key, |_, _| {
            let inner = Arc::clone(inner);
            async move {
                let span = trace_span!(target: "otel", "pull image", image = %reference);
                let pull = pull::pull(Arc::clone(&inner), reference, credentials);
                inner.metrics.measure(pull.instrument(span)).await
            }
        });
        let outcome = ticket.outcome().await;
        outcome.unwrap_or_else(|| Err(inner.store_error("the task of the pull died")))
    }

    /// Takes an image from an archive as `docker save` writes it, in which there may be others, under
    /// those of the names that no other image here has. `id` is the digest of its configuration,
    /// or of its manifest or index; that and all diff ids are verified. The archive is on disk meanwhile, unpacked layers not
    /// counted. Nothing is read when the image is here or is being taken already.
    ///
    /// Must be called in a tokio runtime. Dropping the future does not stop the import.
    pub async fn import(
        &self,
        id: &str,
        names: Vec<String>,
        archive: ArchiveReader,
    ) -> Result<(), Error> {
        if self.0.find(id)?.is_some() {
            return Ok(());
        }
        let inner = &self.0;
        let ticket = inner.pulls.join((id.to_owned(), None), |_, _| {
            archive::import(Arc::clone(inner), id.to_owned(), names, archive)
        });
        let outcome = ticket.outcome().await;
        outcome.unwrap_or_else(|| Err(inner.store_error("the task of the import died")))?;
        Ok(())
    }

    /// The progress of the pull of `reference` that is under way, or of the next one. The receiver
    /// is closed when the pull has ended; for a malformed reference it is so at once.
    pub fn watch(&self, reference: &str) -> watch::Receiver<PullProgress> {
        match reference.parse::<Reference>() {
            Ok(reference) => self.0.board.watch(&reference.resolved().to_string()),
            Err(_) => watch::Sender::default().subscribe(),
        }
    }

    /// All images, in no particular order.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.0.catalogue.index().images())
    }

    /// The image that a name or id stands for: a tag, `name@digest`, an id with or without
    /// `sha256:`, or at least the first four digits of one. A name is preferred to the beginning
    /// of an id.
    ///
    /// Fails with [`Kind::InvalidReference`] for what is neither, and for the beginning of several
    /// ids.
    pub fn find(&self, name_or_id: &str) -> Result<Option<Image>, Error> {
        Ok(self
            .0
            .find(name_or_id)?
            .and_then(|id| self.0.catalogue.index().image(&id)))
    }

    /// Removes an image with all its names, and its layers as far as no other image and no hold
    /// needs them (CRI `RemoveImage`). That it is not there is no error.
    pub async fn remove(&self, name_or_id: &str) -> Result<(), Error> {
        let Some(id) = self.0.find(name_or_id)? else {
            return Ok(());
        };
        let inner = Arc::clone(&self.0);
        detached(async move {
            let changing = Arc::clone(&inner);
            blocking(move || changing.catalogue.change(|index| index.removal_of(&id))).await?;
            inner.collect().await
        })
        .await
    }

    /// What the store takes on disk: the sums that are kept with its layers, and the metadata.
    pub async fn usage(&self) -> Result<Usage, Error> {
        let metadata = self.0.root.join(METADATA);
        let blocks = tokio::fs::metadata(&metadata)
            .await
            .map_err(|error| Error::store(&metadata, "cannot look at it", &error))?
            .blocks();
        let (bytes, inodes) = self.0.catalogue.index().usage();
        Ok(Usage {
            path: self.0.root.clone(),
            // A block of stat(2) has 512 bytes.
            bytes: bytes + blocks * 512,
            inodes: inodes + 1,
        })
    }

    /// Keeps the layers of an image from removal. `image_id` is anything that
    /// [`find`](Self::find) takes.
    pub fn hold(&self, image_id: &str) -> Result<Hold, Error> {
        let unknown = || Error::UnknownImage {
            name: image_id.to_owned(),
        };
        let id = self.0.find(image_id)?.ok_or_else(unknown)?;
        let (image, chain_ids) = {
            let mut index = self.0.catalogue.index();
            let image = index.image(&id).ok_or_else(unknown)?;
            let chain_ids = index.chain_ids(&id).ok_or_else(unknown)?.to_vec();
            index.hold(&chain_ids);
            (image, chain_ids)
        };
        let mut layers = self.0.visible_layers(chain_ids.iter().rev());
        layers.reverse();
        Ok(Hold {
            layers,
            chain_ids,
            config: ImageConfiguration::clone(&image.config),
            image,
        })
    }

    /// Keeps these layers from removal, for a container that was there before this process, and
    /// returns the directories as in [`Hold::layers`]. Fails with [`Kind::NotFound`] and holds
    /// nothing if one is missing.
    pub fn hold_layers(&self, chain_ids: &[String]) -> Result<Vec<PathBuf>, Error> {
        {
            let mut index = self.0.catalogue.index();
            if let Some(missing) = chain_ids.iter().find(|id| index.layer(id).is_none()) {
                return Err(Error::UnknownLayer {
                    chain_id: missing.clone(),
                });
            }
            index.hold(chain_ids);
        }
        let mut layers = self.0.visible_layers(chain_ids.iter().rev());
        layers.reverse();
        Ok(layers)
    }

    /// Gives up what [`hold`](Self::hold) or [`hold_layers`](Self::hold_layers) has kept. Layers
    /// that nobody needs any more are removed in the background when this is called in a tokio
    /// runtime, else by the next [`collect`](Self::collect).
    pub fn release(&self, chain_ids: &[String]) {
        let unneeded = self.0.catalogue.index().release(chain_ids);
        if let (true, Ok(runtime)) = (unneeded, tokio::runtime::Handle::try_current()) {
            let inner = Arc::clone(&self.0);
            runtime.spawn(async move {
                if let Err(error) = inner.collect().await {
                    tracing::warn!(%error, "layers that nobody needs stay for now");
                }
            });
        }
    }

    /// Removes the layers that no image and no hold needs. To be called once after a start, when
    /// the layers of all containers are held.
    pub async fn collect(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        detached(async move { inner.collect().await }).await
    }
}

impl Inner {
    fn reloaded(&self) -> Arc<Reloaded> {
        Arc::clone(&self.reloaded.borrow())
    }

    fn find(&self, name_or_id: &str) -> Result<Option<String>, Error> {
        let index = self.catalogue.index();
        let named = name_or_id.parse::<Reference>();
        if let Ok(reference) = &named
            && let Some(id) = index.by_name(&reference.resolved().to_string())
        {
            return Ok(Some(id.clone()));
        }
        let hex = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        let is_id = !hex.is_empty()
            && hex.len() <= 64
            && hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id {
            return named.map(|_| None);
        }
        match index.by_id(hex) {
            Found::Image(id) => Ok(Some(id)),
            Found::Nothing => Ok(None),
            Found::Ambiguous => Err(Error::InvalidReference {
                reference: name_or_id.to_owned(),
                reason: "the ids of several images begin so; give more digits".into(),
            }),
        }
    }

    /// Brings directories and records together after a start. Blocking.
    fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let present: BTreeSet<String> = self.store.chain_ids()?.into_iter().collect();
        let incomplete = self.catalogue.index().incomplete(&present, &self.boot);
        for chain_id in &incomplete {
            tracing::warn!(%chain_id, "layer did not survive; its images have to be pulled again");
        }
        self.catalogue
            .change(|index| index.without_layers(&incomplete))?;
        for chain_id in present {
            let recorded = self.catalogue.index().layer(&chain_id).is_some();
            if !recorded {
                self.store.remove(&chain_id)?;
            }
        }
        self.settle();
        Ok(())
    }

    /// The HTTP clients that the pulls under way share.
    fn clients(&self) -> Arc<Clients> {
        let mut shared = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let clients = Arc::new(Clients::default());
            *shared = Arc::downgrade(&clients);
            clients
        })
    }

    /// The directories of these layers, given and returned with the topmost first, down to the one
    /// that hides all below it.
    fn visible_layers<'a>(&self, chain_ids: impl Iterator<Item = &'a String>) -> Vec<PathBuf> {
        let index = self.catalogue.index();
        fetch::until_hidden(chain_ids, |chain_id| {
            Some((
                self.store.layer(chain_id),
                index.layer(chain_id)?.hides_lower,
            ))
        })
    }

    /// Brings what was unpacked to the disk, on a thread of its own: that takes as long as the disk
    /// needs for everything that anybody has written, and nothing waits for it, not even the end of
    /// this process.
    fn settle(self: &Arc<Self>) {
        if self.catalogue.index().unsynced().is_empty() || self.settling.swap(true, SeqCst) {
            return;
        }
        let store = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("image-sync".into());
        if let Err(error) = thread.spawn(move || while let Some(true) = sync(&store) {}) {
            self.settling.store(false, SeqCst);
            tracing::warn!(%error, "cannot start the thread that writes layers to the disk");
        }
    }

    async fn collect(self: &Arc<Self>) -> Result<(), Error> {
        let _turn = self.collecting.lock().await;
        let candidates = self.catalogue.index().unneeded();
        let mut turns = Vec::new();
        let mut doomed = Vec::new();
        for chain_id in candidates {
            // Whoever wants the layer now waits until it is gone, and fetches it.
            let turn = self.layers.exclusive(chain_id.clone()).await;
            if self.catalogue.index().forget_unneeded(&chain_id) {
                turns.push(turn);
                doomed.push(chain_id);
            }
        }
        if doomed.is_empty() {
            return Ok(());
        }
        let inner = Arc::clone(self);
        // The directories first: that gives space, which the record of the removal may need. A
        // record without a directory is dropped at the next start.
        let removed = blocking(move || {
            let removed: Vec<_> = doomed.iter().map(|id| inner.store.remove(id)).collect();
            inner.catalogue.change(|_| Changes {
                remove_layers: doomed,
                ..Changes::default()
            })?;
            removed.into_iter().collect::<Result<(), _>>()
        })
        .await;
        drop(turns);
        removed
    }

    fn store_error(&self, cause: &str) -> Error {
        Error::Store {
            kind: Kind::Store,
            path: self.root.clone(),
            cause: cause.to_owned(),
        }
    }
}

/// Writes the layers that are not on the disk yet. True if there may be more of them by now. The
/// store is not kept open meanwhile.
fn sync(store: &Weak<Inner>) -> Option<bool> {
    let inner = store.upgrade()?;
    let unsynced = inner.catalogue.index().unsynced();
    if unsynced.is_empty() {
        inner.settling.store(false, SeqCst);
        // Another layer may have come after the look and before the flag.
        let missed = !inner.catalogue.index().unsynced().is_empty();
        return Some(missed && !inner.settling.swap(true, SeqCst));
    }
    let root = inner.root.clone();
    drop(inner);
    let synced = store::sync(&root);
    let inner = store.upgrade()?;
    let synced = synced.and_then(|()| inner.catalogue.change(|index| index.settled(&unsynced)));
    if let Err(error) = synced {
        inner.settling.store(false, SeqCst);
        tracing::warn!(%error, "layers may not survive a power failure");
        return None;
    }
    Some(true)
}

/// Runs `work` to its end even if the caller goes away.
async fn detached(
    work: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> Result<(), Error> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|died| Err(task_died(&died)))
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|died| Err(task_died(&died)))
}

fn task_died(died: &tokio::task::JoinError) -> Error {
    Error::Store {
        kind: Kind::Store,
        path: PathBuf::new(),
        cause: died.to_string(),
    }
}

fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(|error| Error::store(path, "cannot read the identity of this boot", &error))
}
