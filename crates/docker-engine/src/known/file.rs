//! The file: a row for each pod and each container, and one that says what they are rows of.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use redb::{
    Database, Error, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, TableError,
};
use slipway_records::RecordFile;

use super::Everything;
use super::record::{ContainerRecord, PodRecord};
use crate::images::Names;

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

const HEAD: Definition = TableDefinition::new("head");
const PODS: Definition = TableDefinition::new("pods");
const CONTAINERS: Definition = TableDefinition::new("containers");

/// The one key of [`HEAD`].
const ONLY: &str = "";

/// What rows have to be read as; another one after a change that their fields' tags cannot tell.
const FORMAT: u32 = 1;

/// In bytes.
const CACHE: usize = 256 << 10;

/// What the rows are of.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Head {
    /// The same field in every format.
    #[prost(uint32, tag = "1")]
    format: u32,
    /// The boot (`/proc/sys/kernel/random/boot_id`) in which they were written.
    #[prost(string, tag = "2")]
    pub(super) boot: String,
    /// The Docker that has said so.
    #[prost(string, tag = "3")]
    pub(super) endpoint: String,
}

impl Head {
    pub(super) fn new(boot: String, endpoint: &str) -> Self {
        Self {
            format: FORMAT,
            boot,
            endpoint: endpoint.to_owned(),
        }
    }
}

/// What was known when the file was written last.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    OtherFormat(u32),
    Known(Head, Rows),
}

#[derive(Debug)]
pub(super) struct Rows {
    pub(super) pods: Vec<PodRecord>,
    pub(super) containers: Vec<ContainerRecord>,
}

/// The file, open once it was needed. All methods block.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    open: Option<RecordFile>,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// What it says, all of it: a row that cannot be read is an error.
    ///
    /// redb can end the process that reads what a disk has damaged. That happens to one daemon and
    /// not to the next as well: what nobody has read to the end is not read again.
    pub(super) fn read(&mut self) -> Result<Found, Error> {
        if !self.path.try_exists()? {
            return Ok(Found::Nothing);
        }
        let being_read = self.path.with_extension("reading");
        if being_read.try_exists()? {
            fs::remove_file(&self.path)?;
            fs::remove_file(&being_read)?;
            let reason = "the daemon before this one ended while it read the file";
            return Err(Error::Corrupted(reason.to_owned()));
        }
        // A disk that has no room for a mark is no reason not to read.
        let _ = fs::File::create(&being_read);
        let found = self.open().and_then(|file| {
            file.check()?;
            file.with(read)
        });
        let _ = fs::remove_file(&being_read);
        found
    }

    /// Has it say what is known `now`. Of what it says already, `before`, only what is other now is
    /// written; with none, everything is. A file that is damaged is made anew.
    pub(super) fn write(
        &mut self,
        head: &Head,
        before: Option<&Everything>,
        now: &Everything,
        names: impl Fn(&str) -> Names,
    ) -> Result<(), Error> {
        match self.try_write(head, before, now, &names) {
            Err(error) if is_damage(&error) => {
                self.open = None;
                fs::remove_file(&self.path)?;
                self.try_write(head, None, now, &names)
            }
            other => other,
        }
    }

    fn try_write(
        &mut self,
        head: &Head,
        before: Option<&Everything>,
        now: &Everything,
        names: &impl Fn(&str) -> Names,
    ) -> Result<(), Error> {
        self.open()?.with(|database| {
            let transaction = database.begin_write()?;
            if before.is_none() {
                transaction.delete_table(PODS)?;
                transaction.delete_table(CONTAINERS)?;
                let head = head.encode_to_vec();
                transaction
                    .open_table(HEAD)?
                    .insert(ONLY, head.as_slice())?;
            }
            let nothing = Everything::default();
            let before = before.unwrap_or(&nothing);
            update(
                &mut transaction.open_table(PODS)?,
                &before.pods,
                &now.pods,
                |pod| PodRecord::of(pod).encode_to_vec(),
            )?;
            update(
                &mut transaction.open_table(CONTAINERS)?,
                &before.containers,
                &now.containers,
                |container| {
                    let names = names(&container.image_id);
                    ContainerRecord::of(container, names).encode_to_vec()
                },
            )?;
            Ok(transaction.commit()?)
        })
    }

    fn open(&mut self) -> Result<&mut RecordFile, Error> {
        let file = match self.open.take() {
            Some(file) => file,
            None => RecordFile::open(&self.path, CACHE)?,
        };
        Ok(self.open.insert(file))
    }
}

fn read(database: &Database) -> Result<Found, Error> {
    let transaction = database.begin_read()?;
    let head = match transaction.open_table(HEAD) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Found::Nothing),
        table => table?.get(ONLY)?.map(|head| decode::<Head>(head.value())),
    };
    let Some(head) = head.transpose()? else {
        return Ok(Found::Nothing);
    };
    if head.format != FORMAT {
        return Ok(Found::OtherFormat(head.format));
    }
    let rows = Rows {
        pods: decode_all(&transaction.open_table(PODS)?)?,
        containers: decode_all(&transaction.open_table(CONTAINERS)?)?,
    };
    Ok(Found::Known(head, rows))
}

fn decode_all<R: Message + Default>(
    table: &redb::ReadOnlyTable<&str, &[u8]>,
) -> Result<Vec<R>, Error> {
    table.iter()?.map(|row| decode(row?.1.value())).collect()
}

fn decode<R: Message + Default>(row: &[u8]) -> Result<R, Error> {
    R::decode(row).map_err(|error| Error::Corrupted(error.to_string()))
}

fn update<T>(
    table: &mut Table<'_, &str, &[u8]>,
    before: &BTreeMap<String, Arc<T>>,
    now: &BTreeMap<String, Arc<T>>,
    row: impl Fn(&T) -> Vec<u8>,
) -> Result<(), Error> {
    for id in before.keys().filter(|id| !now.contains_key(*id)) {
        table.remove(id.as_str())?;
    }
    for (id, one) in now {
        if before.get(id).is_none_or(|same| !Arc::ptr_eq(same, one)) {
            table.insert(id.as_str(), row(one).as_slice())?;
        }
    }
    Ok(())
}

/// Whether the file is none that could be written to, now or later.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Corrupted(_) | Error::UpgradeRequired(_) | Error::TableTypeMismatch { .. } => true,
        Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}
