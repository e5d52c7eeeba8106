//! One layer: from a registry or an archive through the decompressor into its directory, in one pass.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Inner;
use crate::error::{Error, Kind};
use crate::flight::Ticket;
use crate::layer::{self, Chunk, ChunkReader, Failure, Unpacked, inherit_attributes};
use crate::manifest::Layer;
use crate::metadata::LayerRecord;
use crate::metrics::Metrics;
use crate::progress::{LayerState, Step};
use crate::registry::{Outcome, Sink};
use crate::source::Source;
use crate::store::Temporary;

/// Chunks between network and decompressor: some MiB, which bridge a file's creation but do not
/// add up when many layers arrive at once.
const CHUNKS_MAX: usize = 16;

pub(crate) type LayerTicket = Ticket<String, Step, Result<(), Error>>;

/// A layer to fetch and the one below it, which may be under way itself.
pub(crate) struct LayerFetch {
    pub(crate) inner: Arc<Inner>,
    pub(crate) source: Arc<Source>,
    pub(crate) layer: Layer,
    pub(crate) chain_id: String,
    /// Chain ids of the layers below, topmost first.
    pub(crate) lower: Vec<String>,
    pub(crate) below: Option<LayerTicket>,
}

struct LayerSink<'a> {
    /// Of what comes from registries.
    metrics: Option<&'a Metrics>,
    chunks: mpsc::Sender<Chunk>,
    progress: watch::Sender<Step>,
}

impl Sink for LayerSink<'_> {
    async fn take(&mut self, bytes: Bytes) -> bool {
        let length = bytes.len() as u64;
        if let Some(metrics) = self.metrics {
            metrics.arrived(length);
        }
        let wanted = self.chunks.send(Chunk::Data(bytes)).await.is_ok();
        self.progress.send_modify(|step| step.done += length);
        wanted
    }
}

impl LayerFetch {
    /// Fetches the layer unless it is there. Nothing is left behind by a failure.
    pub(crate) async fn run(
        mut self,
        cancel: CancellationToken,
        progress: watch::Sender<Step>,
    ) -> Result<(), Error> {
        let state = |state| progress.send_modify(|step| step.state = state);
        if self.inner.catalogue.index().layer(&self.chain_id).is_some() {
            state(LayerState::Present);
            return Ok(());
        }
        let (temporary, unpacked) = {
            let downloads = Arc::clone(&self.inner.reloaded().downloads);
            let permit = tokio::select! {
                permit = downloads.acquire() => permit,
                () = cancel.cancelled() => return Err(self.abandoned()),
            };
            let _permit = permit.map_err(|_| self.abandoned())?;
            state(LayerState::Downloading);
            self.download(&cancel, progress.clone()).await?
        };
        state(LayerState::Unpacking);
        let below = match self.below.take() {
            None => Ok(()),
            Some(below) => tokio::select! {
                outcome = below.outcome() => outcome.unwrap_or_else(|| Err(self.abandoned())),
                () = cancel.cancelled() => Err(self.abandoned()),
            },
        };
        self.complete(below, temporary, unpacked).await?;
        state(LayerState::Done);
        Ok(())
    }

    async fn download(
        &self,
        cancel: &CancellationToken,
        progress: watch::Sender<Step>,
    ) -> Result<(Temporary, Unpacked), Error> {
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        let unpacking = self.unpack(ChunkReader::new(receiver));
        let mut sink = LayerSink {
            metrics: match &*self.source {
                Source::Registry(_) => Some(&self.inner.metrics),
                Source::Archive(_) => None,
            },
            chunks,
            progress,
        };
        let downloaded = tokio::select! {
            downloaded = self.source.download(&self.layer.blob, &mut sink) => downloaded,
            () = cancel.cancelled() => Err(self.abandoned()),
        };
        if let Ok(Outcome::Complete) = downloaded {
            // If nobody takes it, the unpacker has its own reason.
            let _ = sink.chunks.send(Chunk::End).await;
        }
        drop(sink);
        let unpacked = unpacking.await.unwrap_or_else(|died| {
            Err(UnpackError::Store(
                self.inner.store_error(&died.to_string()),
            ))
        });
        match (downloaded, unpacked) {
            (Ok(_), Ok(unpacked)) => Ok(unpacked),
            (Err(error), Ok(_) | Err(UnpackError::Layer(Failure::Abandoned)))
            | (_, Err(UnpackError::Store(error))) => Err(error),
            (_, Err(UnpackError::Layer(failure))) => Err(self.failed(&failure)),
        }
    }

    /// Starts the thread that unpacks. What it made is gone when it has failed.
    fn unpack(
        &self,
        reader: ChunkReader,
    ) -> JoinHandle<Result<(Temporary, Unpacked), UnpackError>> {
        let inner = Arc::clone(&self.inner);
        let Layer {
            compression,
            diff_id,
            ..
        } = self.layer.clone();
        tokio::task::spawn_blocking(move || {
            let temporary = inner.store.temporary().map_err(UnpackError::Store)?;
            let root = std::fs::File::open(temporary.path()).map_err(|error| {
                UnpackError::Store(Error::store(temporary.path(), "cannot open it", &error))
            })?;
            let unpacked = layer::unpack(reader, compression, &diff_id, OwnedFd::from(root))
                .map_err(UnpackError::Layer)?;
            Ok((temporary, unpacked))
        })
    }

    /// Makes the directory the layer, now that those below are complete; or removes it.
    async fn complete(
        &self,
        below: Result<(), Error>,
        temporary: Temporary,
        unpacked: Unpacked,
    ) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let chain_id = self.chain_id.clone();
        let lower = if unpacked.hides_lower {
            Vec::new()
        } else {
            self.inner.visible_layers(self.lower.iter())
        };
        let completing = tokio::task::spawn_blocking(move || {
            // The directory is removed here where something is wrong, on a thread that may block.
            below.map_err(CompleteError::Other)?;
            inherit_attributes(temporary.path(), &unpacked.implied, &lower)
                .map_err(CompleteError::Layer)?;
            inner
                .store
                .commit(temporary, &chain_id)
                .map_err(CompleteError::Other)?;
            let record = LayerRecord {
                bytes: unpacked.bytes,
                inodes: unpacked.inodes,
                hides_lower: unpacked.hides_lower,
                unsynced_since: Some(inner.boot.clone()),
            };
            inner.catalogue.index().put_layer(chain_id, record);
            Ok(())
        });
        match completing.await {
            Ok(completed) => completed.map_err(|error| match error {
                CompleteError::Layer(failure) => self.failed(&failure),
                CompleteError::Other(error) => error,
            }),
            Err(died) => Err(self.inner.store_error(&died.to_string())),
        }
    }

    fn failed(&self, failure: &Failure) -> Error {
        let kind = match failure {
            Failure::Corrupt(_) => Kind::Corrupt,
            Failure::Unsupported(_) => Kind::Unsupported,
            Failure::NoSpace(_) => Kind::NoSpace,
            Failure::Store(_) => Kind::Store,
            Failure::Abandoned => Kind::Unavailable,
        };
        let room = match failure {
            Failure::NoSpace(_) => format!(
                "; {} has no room for it: remove what is not needed there, or give it more",
                self.inner.root.display()
            ),
            _ => String::new(),
        };
        self.source.error(
            kind,
            format!("layer {}: {failure}{room}", self.layer.blob.digest()),
        )
    }

    fn abandoned(&self) -> Error {
        self.failed(&Failure::Abandoned)
    }
}

enum UnpackError {
    Layer(Failure),
    Store(Error),
}

enum CompleteError {
    Layer(Failure),
    Other(Error),
}

/// The directories to stack, given chain ids with the topmost first and a way to look them up.
pub(crate) fn until_hidden<'a>(
    chain_ids: impl Iterator<Item = &'a String>,
    mut layer: impl FnMut(&str) -> Option<(PathBuf, bool)>,
) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for chain_id in chain_ids {
        let Some((path, hides_lower)) = layer(chain_id) else {
            continue;
        };
        paths.push(path);
        if hides_lower {
            break;
        }
    }
    paths
}
