//! A pull from the reference to the stored image; and what an import has in common with it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use oci_spec::image::{Descriptor, Digest, ImageManifest};
use tokio::sync::watch;
use tracing::{Instrument as _, trace_span};

use crate::digest;
use crate::error::{Error, Kind};
use crate::fetch::{LayerFetch, LayerTicket};
use crate::manifest::{self, Document, Layer, Unusable};
use crate::metadata::{Changes, ImageRecord};
use crate::progress::{LayerProgress, LayerState, Report, Step};
use crate::reference::Reference;
use crate::registry::{Credentials, Download, Outcome, Refusal, Session, Sink};
use crate::source::Source;
use crate::{Inner, blocking};

/// An index may point to another one; nothing real goes further.
const INDEX_DEPTH_MAX: usize = 3;
pub(crate) const CONFIG_LENGTH_MAX: u64 = 8 * 1024 * 1024;

/// The registries that may have the image, with the one first that had its manifest.
pub(crate) struct Places {
    sessions: Vec<Session>,
    first: usize,
}

/// What is known of an image before its layers are fetched.
struct Resolved {
    /// Digest of the document that the reference stands for.
    digest: String,
    manifest: ImageManifest,
}

struct Collect(Vec<u8>);

impl Sink for Collect {
    async fn take(&mut self, bytes: Bytes) -> bool {
        self.0.extend_from_slice(&bytes);
        true
    }
}

/// Pulls the image and returns its id. After a failure nothing of it is stored.
pub(crate) async fn pull(
    inner: Arc<Inner>,
    reference: Reference,
    credentials: Option<Credentials>,
) -> Result<String, Error> {
    let report = inner.board.start(reference.to_string());
    let (places, resolved) = resolve(&inner, &reference, credentials.as_ref())
        .instrument(trace_span!(target: "otel", "find manifest"))
        .await?;
    let config = places.config(&resolved.manifest).await?;
    let layers = manifest::configuration(&config)
        .and_then(|config| manifest::layers(&resolved.manifest, &config))
        .map_err(|unusable| places.unusable(unusable))?;
    let mut names = vec![format!("{}@{}", reference.name(), resolved.digest)];
    if reference.tag().is_some() {
        names.push(reference.to_string());
    }
    let source = Source::Registry(places);
    complete(&inner, source, layers, config, Names::Taken(names), &report).await
}

/// The names of an image that is stored.
pub(crate) enum Names {
    /// They stand for it from now on.
    Taken(Vec<String>),
    /// Those of them that stand for another image stay that one's.
    Offered(Vec<String>),
}

/// Fetches the layers and stores the image. After a failure nothing of it is stored.
pub(crate) async fn complete(
    inner: &Arc<Inner>,
    source: Source,
    layers: Vec<Layer>,
    config: Vec<u8>,
    names: Names,
    report: &Report<'_>,
) -> Result<String, Error> {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let chain_ids = digest::chain_ids(&diff_ids);
    inner.catalogue.index().hold(&chain_ids);
    let stored = async {
        fetch_layers(inner, &Arc::new(source), layers, &chain_ids, report).await?;
        store(inner, names, &config, &chain_ids).await
    }
    .await;
    inner.catalogue.index().release(&chain_ids);
    if stored.is_err()
        && let Err(error) = inner.collect().await
    {
        tracing::warn!(%error, "cannot remove the layers of an image that could not be stored");
    }
    stored
}

/// Finds the manifest for this machine at the first place that has it.
async fn resolve(
    inner: &Arc<Inner>,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<(Places, Resolved), Error> {
    let reloaded = inner.reloaded();
    let patience = reloaded.config.stall_timeout;
    let registries = blocking(move || reloaded.registries.current()).await?;
    let mut places = Places {
        sessions: Vec::new(),
        first: 0,
    };
    let clients = inner.clients();
    for endpoint in registries.endpoints(reference)? {
        let failed = failed_at(&endpoint.host, &endpoint.repository);
        let session =
            Session::new(endpoint, Arc::clone(&clients), credentials, patience).map_err(failed)?;
        places.sessions.push(session);
    }
    let resolved = places.find(reference.tag(), reference.digest()).await?;
    Ok((places, resolved))
}

impl Places {
    /// Asks one place after the other. What the earlier ones said is part of the last one's error.
    async fn find(
        &mut self,
        tag: Option<&str>,
        digest: Option<&Digest>,
    ) -> Result<Resolved, Error> {
        let mut earlier: Vec<String> = Vec::new();
        for index in 0..self.sessions.len() {
            self.first = index;
            match self.resolve_at(tag, digest).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) if index + 1 == self.sessions.len() => {
                    return Err(with_earlier(error, &earlier));
                }
                Err(error) => {
                    tracing::debug!(%error, "a mirror does not have it");
                    earlier.push(error.to_string());
                }
            }
        }
        Err(self.error(Kind::Unavailable, "there is no place to pull from".into()))
    }

    async fn resolve_at(
        &self,
        tag: Option<&str>,
        digest: Option<&Digest>,
    ) -> Result<Resolved, Error> {
        let session = &self.sessions[self.first];
        let mut answer = session
            .manifest(tag, digest)
            .await
            .map_err(|refusal| self.refused(refusal))?;
        let digest = answer.digest.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            let document = Document::parse(&answer.bytes, answer.content_type.as_deref())
                .map_err(|unusable| self.unusable(unusable))?;
            let index = match document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        digest,
                        manifest: *manifest,
                    });
                }
                Document::Index(index) => index,
            };
            let chosen =
                manifest::choose_platform(&index).map_err(|unusable| self.unusable(unusable))?;
            manifest::check_algorithm(chosen.digest())
                .map_err(|unusable| self.unusable(unusable))?;
            answer = session
                .manifest(None, Some(chosen.digest()))
                .await
                .map_err(|refusal| self.refused(refusal))?;
            if answer.bytes.len() as u64 != chosen.size() {
                let cause = format!(
                    "manifest {}: it has {} bytes, the index says {}",
                    chosen.digest(),
                    answer.bytes.len(),
                    chosen.size()
                );
                return Err(self.error(Kind::Corrupt, cause));
            }
        }
        Err(self.error(
            Kind::Unsupported,
            "image indexes are nested too deeply".into(),
        ))
    }

    async fn config(&self, manifest: &ImageManifest) -> Result<Vec<u8>, Error> {
        let blob = manifest::config_of(manifest).map_err(|unusable| self.unusable(unusable))?;
        if blob.size() > CONFIG_LENGTH_MAX {
            let cause = format!(
                "the configuration has {} bytes (at most {CONFIG_LENGTH_MAX} are allowed)",
                blob.size()
            );
            return Err(self.error(Kind::Corrupt, cause));
        }
        let mut config = Collect(Vec::new());
        self.download(blob, &mut config).await?;
        Ok(config.0)
    }

    pub(crate) async fn download(
        &self,
        blob: &Descriptor,
        sink: &mut impl Sink,
    ) -> Result<Outcome, Error> {
        Download::new(&self.sessions, self.first, blob)
            .run(sink)
            .await
            .map_err(|(index, refusal)| {
                let endpoint = self.sessions[index].endpoint();
                failed_at(&endpoint.host, &endpoint.repository)(refusal)
            })
    }

    /// An error of the place that had the manifest.
    pub(crate) fn error(&self, kind: Kind, cause: String) -> Error {
        self.refused(Refusal { kind, cause })
    }

    fn refused(&self, refusal: Refusal) -> Error {
        let (host, repository) = self.sessions.get(self.first).map_or(("", ""), |session| {
            (
                session.endpoint().host.as_str(),
                session.endpoint().repository.as_str(),
            )
        });
        failed_at(host, repository)(refusal)
    }

    fn unusable(&self, unusable: Unusable) -> Error {
        match unusable {
            Unusable::Corrupt(cause) => self.error(Kind::Corrupt, cause),
            Unusable::Unsupported(cause) => self.error(Kind::Unsupported, cause),
        }
    }
}

fn failed_at(host: &str, repository: &str) -> impl Fn(Refusal) -> Error + use<> {
    let (registry, repository) = (host.to_owned(), repository.to_owned());
    move |Refusal { kind, cause }| Error::Registry {
        kind,
        registry: registry.clone(),
        repository: repository.clone(),
        cause,
    }
}

fn with_earlier(error: Error, earlier: &[String]) -> Error {
    match error {
        Error::Registry {
            kind,
            registry,
            repository,
            cause,
        } if !earlier.is_empty() => {
            let cause = format!("{cause} (before that: {})", earlier.join("; "));
            Error::Registry {
                kind,
                registry,
                repository,
                cause,
            }
        }
        other => other,
    }
}

/// Fetches what is missing, all layers side by side, each shared with other pulls that need it.
async fn fetch_layers(
    inner: &Arc<Inner>,
    source: &Arc<Source>,
    layers: Vec<Layer>,
    chain_ids: &[String],
    report: &Report<'_>,
) -> Result<(), Error> {
    report.change(|progress| {
        progress.layers = layers
            .iter()
            .map(|layer| LayerProgress {
                digest: layer.blob.digest().to_string(),
                total: layer.blob.size(),
                done: 0,
                state: LayerState::Waiting,
            })
            .collect();
    });
    let mut tickets: Vec<LayerTicket> = Vec::with_capacity(layers.len());
    for (index, (layer, chain_id)) in layers.into_iter().zip(chain_ids).enumerate() {
        let join = |layer, chain_id: &String, below| {
            inner.layers.join(chain_id.clone(), |cancel, steps| {
                let fetch = LayerFetch {
                    inner: Arc::clone(inner),
                    source: Arc::clone(source),
                    layer,
                    chain_id: chain_id.clone(),
                    lower: chain_ids[..index].iter().rev().cloned().collect(),
                    below,
                };
                let span = trace_span!(
                    target: "otel",
                    "fetch layer",
                    digest = %fetch.layer.blob.digest(),
                    bytes = fetch.layer.blob.size(),
                );
                fetch.run(cancel, steps).instrument(span)
            })
        };
        // The layer below stays wanted for as long as the one above is under way.
        let below = index.checked_sub(1).map(|below| tickets[below].again());
        tickets.push(join(layer, chain_id, below));
    }
    let waits = tickets
        .iter()
        .enumerate()
        .map(|(index, ticket)| follow(index, ticket, report));
    let fetched = try_join_all(waits).await;
    if fetched.is_err() {
        // From the top, as each layer keeps the one below it wanted.
        while let Some(ticket) = tickets.pop() {
            ticket.leave().await;
        }
    }
    fetched.map(|_| ())
}

/// Waits for a layer and passes its progress on.
async fn follow(index: usize, ticket: &LayerTicket, report: &Report<'_>) -> Result<(), Error> {
    let mut steps = ticket.progress();
    let pass_on = |steps: &mut watch::Receiver<Step>| {
        let step = *steps.borrow_and_update();
        report.change(|progress| {
            if let Some(layer) = progress.layers.get_mut(index) {
                layer.done = step.done;
                layer.state = step.state;
                if step.state == LayerState::Present {
                    layer.done = layer.total;
                }
            }
        });
    };
    let outcome = ticket.outcome();
    tokio::pin!(outcome);
    loop {
        tokio::select! {
            outcome = &mut outcome => {
                pass_on(&mut steps);
                return outcome.unwrap_or_else(|| Err(Error::Store {
                    kind: Kind::Store,
                    path: "layers".into(),
                    cause: "the task that fetched a layer died".into(),
                }));
            }
            Ok(()) = steps.changed() => pass_on(&mut steps),
        }
    }
}

/// Enters the image and its names. The layers reach the disk afterwards; until then the records
/// say so, and a power failure in between makes the image absent, not incomplete.
async fn store(
    inner: &Arc<Inner>,
    names: Names,
    config: &[u8],
    chain_ids: &[String],
) -> Result<String, Error> {
    let id = digest::sha256(config);
    let record = ImageRecord {
        chain_ids: chain_ids.to_vec(),
        config: String::from_utf8_lossy(config).into_owned(),
    };
    let storing = Arc::clone(inner);
    let image_id = id.clone();
    blocking(move || {
        storing.catalogue.change(|index| {
            let mut changes = Changes::default();
            if index.chain_ids(&id).is_none() {
                changes.put_layers = record
                    .chain_ids
                    .iter()
                    .filter_map(|chain| Some((chain.clone(), index.layer(chain)?.clone())))
                    .collect();
                changes.put_image = Some((id.clone(), record));
            }
            let names = match names {
                Names::Taken(mut names) => {
                    names.retain(|name| index.by_name(name) != Some(&id));
                    names
                }
                Names::Offered(mut names) => {
                    names.retain(|name| index.by_name(name).is_none());
                    names
                }
            };
            changes.put_names = names.into_iter().map(|name| (name, id.clone())).collect();
            changes
        })
    })
    .await?;
    inner.settle();
    Ok(image_id)
}
