//! The network of a node's pods.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::Span;

use crate::attachment::Attachment;
use crate::cache::{Cache, Entry, Record, Recorded};
use crate::catalog::{Catalog, Selected};
use crate::chain::{Chain, Pod};
use crate::conflist::{Conflist, Version};
use crate::metrics::Metrics;
use crate::plugin::Command;
use crate::pod_cidr::{self, PodCidrs};
use crate::{Config, Error, adoption, interfaces, result};

/// The file systems that a network namespace is seen on: nsfs, and procfs for links under /proc.
const NAMESPACE_FILE_SYSTEMS: [u64; 2] = [0x6e73_6673, 0x9fa0];

/// How many plugins may have to end before an operation on the same pod can begin. With fewer than
/// half as many plugins, an ADD that fails at the last moment is still waited for.
const PLUGINS_WAITED_FOR: u32 = 16;

/// Attaches pods to the node's network, and detaches them.
pub struct Network {
    inner: Arc<Inner>,
    metrics: Metrics,
}

struct Inner {
    reloaded: watch::Sender<Arc<Reloaded>>,
    cache: Cache,
    writing: Mutex<()>,
}

/// What a new configuration replaces. An operation has the same one to its end.
struct Reloaded {
    config: Config,
    catalog: Catalog,
}

impl Reloaded {
    fn new(config: Config) -> Self {
        let catalog = Catalog::new(config.conf_dir.clone());
        Self { config, catalog }
    }
}

/// What a pod got.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Its addresses, in the plugins' order; at least one.
    pub ips: Vec<IpAddr>,
    /// The chain's result, as CNI specifies it.
    pub result: Value,
    /// The name of the network.
    pub config_name: String,
}

impl Network {
    /// A network that keeps its record of attachments in the directory `cache`, which is made when
    /// it is needed. It has to survive a reboot, as the addresses do that plugins hand out.
    pub fn new(config: Config, cache: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                reloaded: watch::Sender::new(Arc::new(Reloaded::new(config))),
                cache: Cache::new(cache),
                writing: Mutex::new(()),
            }),
            metrics: Metrics::default(),
        }
    }

    /// The same network, which counts into these metrics.
    #[must_use]
    pub fn measured_by(mut self, metrics: &Metrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// Puts another configuration into force for operations that begin from now on; DEL keeps to
    /// the network that the pod was attached to.
    pub fn reload(&self, config: Config) {
        self.inner
            .reloaded
            .send_replace(Arc::new(Reloaded::new(config)));
    }

    /// Whether pods can be attached: there is a valid configuration, and all its plugins are
    /// installed. The error is a reason to show (CRI's condition `NetworkReady`). Cheap: a look at
    /// the directories; files are read again only after a change.
    pub fn ready(&self) -> Result<(), Error> {
        let Reloaded { config, catalog } = &*self.inner.reloaded();
        let selected = catalog.selected()?;
        Chain::find(config, &selected.list, &selected.file).map(drop)
    }

    /// Attaches a pod, by calling ADD of every plugin in order. If that fails, DEL of all of them
    /// has been called; should that have failed too ([`Error::NotUndone`]), a later
    /// [`delete`](Self::delete) tries again.
    ///
    /// Once begun, it goes on to its end even if the caller does not wait for it.
    pub async fn add(&self, pod: &Attachment) -> Result<Attached, Error> {
        let pod = pod.clone();
        let added = self.run(move |inner| inner.add(pod));
        self.metrics.measure(Command::Add, added).await
    }

    /// Detaches a pod, by calling DEL of every plugin in reverse order, with the configuration and
    /// the result of the ADD. It is no error if the pod is not attached (any more), and only its id
    /// is needed; the network namespace, if it is given, replaces the one of the ADD.
    ///
    /// Waits for an ADD of the same pod that is still going on. Once begun, it goes on to its end
    /// even if the caller does not wait for it. If it fails, it can be called again.
    pub async fn delete(&self, pod: &Attachment) -> Result<(), Error> {
        let pod = pod.clone();
        let deleted = self.run(move |inner| inner.delete(&pod));
        self.metrics.measure(Command::Del, deleted).await
    }

    /// Takes over what another runtime has attached a pod with, as libcni has recorded it in its
    /// directory `cache`, and answers the pod's addresses. Where there is no record of it, today's
    /// configuration is taken for the one that it was attached with, and its addresses are those
    /// that the network namespace of `process` has. Once it is detached, the record goes too. What
    /// was taken over already stays as it is.
    pub async fn adopt(
        &self,
        pod: &Attachment,
        cache: &Path,
        process: Option<Pid>,
    ) -> Result<Vec<IpAddr>, Error> {
        let (pod, cache) = (pod.clone(), cache.to_owned());
        self.run(move |inner| inner.adopt(pod, &cache, process))
            .await
    }

    /// Takes the node's range of pod addresses, or ranges with commas between them: where there is a
    /// template, a configuration is made of it and put into force, unless another one is.
    pub async fn set_pod_cidr(&self, cidrs: &str) -> Result<(), Error> {
        let cidrs = PodCidrs::parse(cidrs)?;
        self.run(move |inner| {
            // One at a time: both would write the same file.
            let _turn = inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let Reloaded { config, catalog } = &*inner.reloaded();
            pod_cidr::apply(config, catalog, &cidrs)
        })
        .await
    }

    /// The ids of pods that are attached or that an ADD or DEL was begun for, in no order.
    pub fn cached(&self) -> Result<Vec<String>, Error> {
        self.inner.cache.pods()
    }

    /// Plugins are waited for on a thread; it does not end with the future.
    async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        let span = Span::current();
        match spawn_blocking(move || span.in_scope(|| operation(&inner))).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

impl Inner {
    fn reloaded(&self) -> Arc<Reloaded> {
        Arc::clone(&self.reloaded.borrow())
    }

    fn add(&self, attachment: Attachment) -> Result<Attached, Error> {
        attachment.validate()?;
        let Reloaded { config, catalog } = &*self.reloaded();
        let selected = catalog.selected()?;
        let Selected { file, list } = &*selected;
        let chain = Chain::find(config, list, file)?;
        find_namespace(&attachment.netns).map_err(|found| Error::NotANamespace {
            pod_id: attachment.pod_id.clone(),
            path: attachment.netns.clone(),
            found,
        })?;
        let entry = self.cache.create(&attachment.pod_id, patience(config))?;
        if !matches!(entry.record()?, Recorded::Nothing) {
            return Err(Error::AlreadyAttached {
                pod_id: attachment.pod_id,
            });
        }
        let record = Record {
            attachment,
            file: file.clone(),
            list: list.clone(),
            foreign: None,
        };
        if let Err(error) = entry.begin(&record) {
            return Err(abandon(entry, error));
        }
        match attach(&chain, &entry, &record) {
            Ok(attached) => Ok(attached),
            Err(cause) => Err(undo(&chain, entry, &record, cause)),
        }
    }

    fn adopt(
        &self,
        pod: Attachment,
        cache: &Path,
        process: Option<Pid>,
    ) -> Result<Vec<IpAddr>, Error> {
        pod.validate()?;
        let Reloaded { config, catalog } = &*self.reloaded();
        let entry = self.cache.create(&pod.pod_id, patience(config))?;
        if matches!(entry.record()?, Recorded::Attachment(_)) {
            let result = entry.result()?;
            return Ok(result.as_ref().map(result::addresses).unwrap_or_default());
        }
        let found = adoption::find(cache, &pod.pod_id).map_err(|source| Error::Cache {
            action: "look for another runtime's records in",
            path: cache.to_owned(),
            source,
        });
        let (record, result) = match found {
            Ok(Some(foreign)) => {
                let record = Record {
                    attachment: pod,
                    file: foreign.file.clone(),
                    list: foreign.list,
                    foreign: Some(foreign.file),
                };
                (record, Some(foreign.result))
            }
            Ok(None) => match substitute(catalog, &pod, "it is another runtime's, and not found") {
                Ok(record) => {
                    let result = process.map(|process| observed(process, record.list.version));
                    (record, result.flatten())
                }
                Err(error) => return Err(abandon(entry, error)),
            },
            Err(error) => return Err(abandon(entry, error)),
        };
        if let Err(error) = entry.begin(&record) {
            return Err(abandon(entry, error));
        }
        let Some(result) = result else {
            return Ok(Vec::new());
        };
        entry.progress(&result)?;
        Ok(result::addresses(&result))
    }

    fn delete(&self, pod: &Attachment) -> Result<(), Error> {
        pod.validate()?;
        let Reloaded { config, catalog } = &*self.reloaded();
        let Some(entry) = self.cache.open(&pod.pod_id, patience(config))? else {
            return Ok(());
        };
        let record = match entry.record()? {
            Recorded::Nothing => return entry.remove(),
            Recorded::Attachment(record) => *record,
            Recorded::Damaged(reason) => substitute(catalog, pod, &reason)?,
        };
        let chain = Chain::find(config, &record.list, &record.file)?;
        let netns = match &pod.netns {
            none if none.as_os_str().is_empty() => &record.attachment.netns,
            given => given,
        };
        detach(&chain, &entry, &record.attachment, netns)?;
        if let Some(foreign) = &record.foreign {
            adoption::forget(foreign, &pod.pod_id).map_err(|(path, source)| Error::Cache {
                action: "remove",
                path,
                source,
            })?;
        }
        entry.remove()
    }
}

/// A result with the addresses that the kernel has for a process, from which plugins find out what
/// else they have made for them; none where there are no addresses.
fn observed(process: Pid, version: Version) -> Option<Value> {
    let addresses = interfaces::addresses(process).unwrap_or_else(|error| {
        tracing::warn!(%process, %error, "the addresses of a process cannot be read");
        Vec::new()
    });
    (!addresses.is_empty()).then(|| result::of_addresses(&addresses, version))
}

/// What a pod was most likely attached with, when the record of it is lost.
fn substitute(catalog: &Catalog, pod: &Attachment, reason: &str) -> Result<Record, Error> {
    let selected = catalog.selected()?;
    tracing::warn!(
        pod = pod.pod_id,
        network = selected.list.name,
        reason,
        "there is no good record of the pod's network; it will be detached with today's configuration"
    );
    let Selected { file, list } = Arc::unwrap_or_clone(selected);
    Ok(Record {
        attachment: pod.clone(),
        file,
        list,
        foreign: None,
    })
}

fn patience(config: &Config) -> Duration {
    config.timeout().saturating_mul(PLUGINS_WAITED_FOR)
}

fn attach(chain: &Chain<'_>, entry: &Entry, record: &Record) -> Result<Attached, Error> {
    let Record {
        attachment,
        file,
        list,
        foreign: _,
    } = record;
    let pod = Pod {
        attachment,
        netns: &attachment.netns,
        input: entry.input(),
    };
    let result = chain.add(&pod, |result| entry.progress(result))?;
    let ips = result::addresses(&result);
    if ips.is_empty() {
        return Err(no_address(list, file));
    }
    Ok(Attached {
        ips,
        result,
        config_name: list.name.clone(),
    })
}

fn no_address(list: &Conflist, file: &Path) -> Error {
    Error::NoAddress {
        network: list.name.clone(),
        file: file.to_owned(),
    }
}

fn detach(
    chain: &Chain<'_>,
    entry: &Entry,
    attachment: &Attachment,
    netns: &Path,
) -> Result<(), Error> {
    // After a reboot there may be a file where the namespace was pinned.
    let netns = find_namespace(netns).map_or(Path::new(""), |()| netns);
    let pod = Pod {
        attachment,
        netns,
        input: entry.input(),
    };
    chain.delete(&pod, entry.result()?.as_ref())
}

/// Takes back what a failed ADD has done.
fn undo(chain: &Chain<'_>, entry: Entry, record: &Record, cause: Error) -> Error {
    let Record { attachment, .. } = record;
    match detach(chain, &entry, attachment, &attachment.netns).and_then(|()| entry.remove()) {
        Ok(()) => cause,
        Err(undo) => {
            tracing::warn!(
                pod = attachment.pod_id,
                %cause,
                error = %undo,
                "what a failed CNI ADD had set up could not be taken back"
            );
            Error::NotUndone {
                cause: Box::new(cause),
                undo: Box::new(undo),
            }
        }
    }
}

/// Removes the entry of an ADD in which no plugin has run.
fn abandon(entry: Entry, cause: Error) -> Error {
    match entry.remove() {
        Ok(()) => cause,
        Err(undo) => Error::NotUndone {
            cause: Box::new(cause),
            undo: Box::new(undo),
        },
    }
}

/// Whether there is a namespace at the path; the error says what is there instead.
fn find_namespace(path: &Path) -> Result<(), String> {
    let found = rustix::fs::statfs(path).map_err(|error| io::Error::from(error).to_string())?;
    if u64::try_from(found.f_type).is_ok_and(|kind| NAMESPACE_FILE_SYSTEMS.contains(&kind)) {
        Ok(())
    } else {
        Err("it is something else, such as the file on which one was pinned before a reboot".into())
    }
}
