//! What survives the daemon and a reboot: one record for each pod and each container.
//!
//! A record is written before the work that it stands for begins, so that a daemon that was killed
//! in the middle finds what to undo; it goes when the last thing it stands for has gone. What a
//! container's process does meanwhile is recorded by its shim, not here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message;
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use slipway_cri_api::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use slipway_engine::{ContainerExit, Error, Result, blocking};
use slipway_records::{RecordFile, is_no_space};

const PODS: TableDefinition<&str, &[u8]> = TableDefinition::new("pods");
/// In bytes.
const CACHE: usize = 1 << 20;

const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");

/// How far a pod has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum PodPhase {
    /// Being made: found after a crash, it is undone.
    Starting = 0,
    /// Made.
    Ready = 1,
    /// Its containers are stopped, its network is given back.
    Stopped = 2,
}

/// A pod on disk.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, required, tag = "2")]
    pub(crate) config: PodSandboxConfig,
    #[prost(string, tag = "3")]
    pub(crate) handler: String,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "4")]
    pub(crate) created_at: i64,
    #[prost(enumeration = "PodPhase", tag = "5")]
    pub(crate) phase: i32,
    /// The addresses that its network gave it.
    #[prost(string, repeated, tag = "6")]
    pub(crate) addresses: Vec<String>,
    /// The cgroups that were made for it beside its containers', the outermost first.
    #[prost(string, repeated, tag = "7")]
    pub(crate) cgroups: Vec<String>,
    /// The boot (`/proc/sys/kernel/random/boot_id`) in which it was made: no pod outlives one.
    #[prost(string, tag = "8")]
    pub(crate) boot: String,
    /// What it and its containers may use, once that was changed.
    #[prost(message, optional, tag = "30")]
    pub(crate) update: Option<PodUpdate>,
    /// The cgroup that its containers' are put into.
    #[prost(string, tag = "31")]
    pub(crate) cgroup: String,
}

/// A container on disk.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) pod: String,
    #[prost(message, required, tag = "3")]
    pub(crate) config: ContainerConfig,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "4")]
    pub(crate) created_at: i64,
    #[prost(string, tag = "5")]
    pub(crate) image_id: String,
    /// The image as a digest reference, or its id where it has none.
    #[prost(string, tag = "6")]
    pub(crate) image_ref: String,
    /// The layers that it stands on, the lowest first.
    #[prost(string, repeated, tag = "7")]
    pub(crate) chain_ids: Vec<String>,
    /// The signal that stops it.
    #[prost(int32, tag = "8")]
    pub(crate) stop_signal: i32,
    #[prost(uint32, tag = "9")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) gid: u32,
    #[prost(uint32, repeated, tag = "11")]
    pub(crate) groups: Vec<u32>,
    /// How it ended, once it has.
    #[prost(message, optional, tag = "12")]
    pub(crate) exit: Option<ExitRecord>,
    /// The layers of the images that are its volumes.
    #[prost(string, repeated, tag = "20")]
    pub(crate) volume_chain_ids: Vec<String>,
    /// What it may use, once that was changed.
    #[prost(message, optional, tag = "30")]
    pub(crate) update: Option<ContainerUpdate>,
    /// Its cgroup.
    #[prost(string, tag = "31")]
    pub(crate) cgroup: String,
}

/// What UpdateContainerResources has made of a container's resources, on disk.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerUpdate {
    #[prost(message, required, tag = "1")]
    pub(crate) resources: LinuxContainerResources,
    /// Those of the last request.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) annotations: HashMap<String, String>,
}

/// What UpdatePodSandboxResources has made of a pod's resources, on disk.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodUpdate {
    #[prost(message, optional, tag = "1")]
    pub(crate) overhead: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "2")]
    pub(crate) resources: Option<LinuxContainerResources>,
}

/// How a container ended, on disk.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExitRecord {
    #[prost(int64, tag = "1")]
    pub(crate) started_at: i64,
    #[prost(int64, tag = "2")]
    pub(crate) finished_at: i64,
    #[prost(int32, tag = "3")]
    pub(crate) code: i32,
    #[prost(string, tag = "4")]
    pub(crate) reason: String,
    #[prost(string, tag = "5")]
    pub(crate) message: String,
}

impl From<&ContainerExit> for ExitRecord {
    fn from(exit: &ContainerExit) -> Self {
        Self {
            started_at: exit.started_at,
            finished_at: exit.finished_at,
            code: exit.code,
            reason: exit.reason.clone(),
            message: exit.message.clone(),
        }
    }
}

impl From<ExitRecord> for ContainerExit {
    fn from(exit: ExitRecord) -> Self {
        let ExitRecord {
            started_at,
            finished_at,
            code,
            reason,
            message,
        } = exit;
        Self {
            started_at,
            finished_at,
            code,
            reason,
            message,
        }
    }
}

/// The records. Cheap to clone. Every change is durable when its future ends; changes are made on
/// blocking threads, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// Whoever writes holds the lock meanwhile, as redb would have others wait anyway.
    file: Arc<Mutex<RecordFile>>,
}

impl Store {
    /// Opens the records, or makes an empty store. Blocking.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match open(path) {
            Ok(file) => Ok(Self {
                file: Arc::new(Mutex::new(file)),
            }),
            Err(error) => Err(Error::data_loss(format!(
                "the records in {} cannot be opened: {error}",
                path.display()
            ))),
        }
    }

    /// Every record, for the daemon's start. Blocking.
    pub(crate) fn load(&self) -> Result<(Vec<PodRecord>, Vec<ContainerRecord>)> {
        Ok((self.read(PODS)?, self.read(CONTAINERS)?))
    }

    pub(crate) async fn put_pod(&self, record: PodRecord) -> Result<()> {
        self.put(PODS, record.id.clone(), record.encode_to_vec())
            .await
    }

    pub(crate) async fn put_container(&self, record: ContainerRecord) -> Result<()> {
        self.put(CONTAINERS, record.id.clone(), record.encode_to_vec())
            .await
    }

    pub(crate) async fn delete_pod(&self, id: &str) -> Result<()> {
        self.delete(PODS, id.to_owned()).await
    }

    pub(crate) async fn delete_container(&self, id: &str) -> Result<()> {
        self.delete(CONTAINERS, id.to_owned()).await
    }

    fn read<R: Message + Default>(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
    ) -> Result<Vec<R>> {
        let rows: Vec<(String, Vec<u8>)> = self
            .lock()
            .with(|database| {
                let table = database.begin_read()?.open_table(table)?;
                table
                    .iter()?
                    .map(|row| {
                        let (id, record) = row?;
                        Ok((id.value().to_owned(), record.value().to_owned()))
                    })
                    .collect()
            })
            .map_err(|error| Error::data_loss(format!("the records cannot be read: {error}")))?;
        let decode = |(id, record): (String, Vec<u8>)| match R::decode(record.as_slice()) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::error!(id, %error, "a record cannot be read and is left alone");
                None
            }
        };
        Ok(rows.into_iter().filter_map(decode).collect())
    }

    async fn put(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
        id: String,
        record: Vec<u8>,
    ) -> Result<()> {
        self.change(move |transaction| {
            transaction
                .open_table(table)?
                .insert(id.as_str(), record.as_slice())?;
            Ok(())
        })
        .await
    }

    async fn delete(
        &self,
        table: TableDefinition<'static, &'static str, &'static [u8]>,
        id: String,
    ) -> Result<()> {
        self.change(move |transaction| {
            transaction.open_table(table)?.remove(id.as_str())?;
            Ok(())
        })
        .await
    }

    async fn change(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<(), redb::Error>
        + Send
        + 'static,
    ) -> Result<()> {
        let store = self.clone();
        blocking::run(move || {
            let mut file = store.lock();
            let changed = file.with(|database| {
                let transaction = database.begin_write()?;
                work(&transaction)?;
                Ok(transaction.commit()?)
            });
            changed.map_err(|error| not_written(file.path(), &error))
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, RecordFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_written(path: &Path, error: &redb::Error) -> Error {
    let path = path.display();
    if is_no_space(error) {
        Error::exhausted(format!(
            "no space is left for the records of pods and containers in {path}: {error}"
        ))
    } else {
        Error::internal(format!(
            "the records of pods and containers in {path} cannot be written: {error}"
        ))
    }
}

/// Opens the file with all of its tables, or makes it. Blocking.
fn open(path: &Path) -> std::result::Result<RecordFile, redb::Error> {
    let mut file = RecordFile::open(path, CACHE)?;
    file.with(|database| {
        let transaction = database.begin_write()?;
        transaction.open_table(PODS)?;
        transaction.open_table(CONTAINERS)?;
        Ok(transaction.commit()?)
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;

    #[tokio::test]
    async fn records_are_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.redb");
        let pod = PodRecord {
            id: "p".to_owned(),
            created_at: 7,
            ..PodRecord::default()
        };
        let container = ContainerRecord {
            id: "c".to_owned(),
            exit: Some((&ContainerExit::of_process(1, 2, 3, false)).into()),
            ..ContainerRecord::default()
        };
        {
            let store = Store::open(&path).unwrap();
            store.put_pod(pod.clone()).await.unwrap();
            store.put_container(container.clone()).await.unwrap();
            store
                .put_container(ContainerRecord {
                    id: "d".to_owned(),
                    ..Default::default()
                })
                .await
                .unwrap();
            store.delete_container("d").await.unwrap();
        }
        let (pods, containers) = Store::open(&path).unwrap().load().unwrap();
        assert_eq!(pods, [pod]);
        assert_eq!(containers, [container]);
    }

    #[tokio::test]
    async fn records_that_had_no_room_are_written_once_there_is_some() {
        let directory = tempfile::tempdir().unwrap();
        let (none, size) = (MountFlags::empty(), Some(c"size=3m"));
        mount("none", directory.path(), "tmpfs", none, size).unwrap();
        let record = |id: &str, size: usize| PodRecord {
            id: id.to_owned(),
            addresses: vec!["x".repeat(size)],
            ..PodRecord::default()
        };
        let store = Store::open(&directory.path().join("pods.redb")).unwrap();
        store.put_pod(record("small", 1)).await.unwrap();
        let error = store.put_pod(record("large", 4 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), slipway_engine::Kind::ResourceExhausted);
        assert!(error.to_string().contains("pods.redb"), "{error}");
        // The same store, and what was there.
        store.put_pod(record("later", 1)).await.unwrap();
        store.delete_pod("small").await.unwrap();
        let (pods, _) = store.load().unwrap();
        assert_eq!(pods, [record("later", 1)]);
        drop(store);
        unmount(directory.path(), UnmountFlags::empty()).unwrap();
    }

    #[test]
    fn a_file_that_is_not_a_store_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.redb");
        std::fs::write(&path, "this is not a database").unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("pods.redb"), "{error}");
    }
}
