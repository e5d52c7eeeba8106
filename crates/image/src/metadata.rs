//! What is stored, in a transactional file: images by id, names, layers.

use std::path::Path;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};
use slipway_records::{RecordFile, is_no_space};

use crate::error::{Error, Kind};

const FORMAT: u64 = 1;
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");
const LAYERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("layers");

/// Everything is kept in memory beside the file, so a cache would hold it twice.
const CACHE_LENGTH: usize = 256 * 1024;

/// An image.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ImageRecord {
    /// Lowest first.
    pub(crate) chain_ids: Vec<String>,
    /// The configuration as the registry delivered it.
    pub(crate) config: String,
}

/// A layer whose directory is complete.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct LayerRecord {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Nothing of the layers below is visible.
    pub(crate) hides_lower: bool,
    /// The boot in which it was unpacked, as long as it may not have reached the disk. After
    /// another boot, such a layer may be incomplete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsynced_since: Option<String>,
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Changes {
    pub(crate) put_layers: Vec<(String, LayerRecord)>,
    pub(crate) remove_layers: Vec<String>,
    pub(crate) put_image: Option<(String, ImageRecord)>,
    pub(crate) remove_images: Vec<String>,
    pub(crate) put_names: Vec<(String, String)>,
    pub(crate) remove_names: Vec<String>,
}

/// What the file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) images: Vec<(String, ImageRecord)>,
    pub(crate) names: Vec<(String, String)>,
    pub(crate) layers: Vec<(String, LayerRecord)>,
}

/// The file. All methods block.
#[derive(Debug)]
pub(crate) struct Metadata {
    file: RecordFile,
}

impl Metadata {
    pub(crate) fn open(path: &Path) -> Result<(Self, Contents), Error> {
        let wrong = |error: redb::Error| match error {
            redb::Error::DatabaseAlreadyOpen => Error::Store {
                kind: Kind::Store,
                path: path.to_owned(),
                cause: "another process uses this image store".into(),
            },
            other => failed(path, "cannot open the image records", &other),
        };
        let mut file = RecordFile::open(path, CACHE_LENGTH).map_err(wrong)?;
        let contents = read(&mut file)?;
        Ok((Self { file }, contents))
    }

    /// Writes the changes to the disk.
    pub(crate) fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        let written = self.file.with(|database| write(database, changes));
        let path = self.file.path();
        written.map_err(|error| failed(path, "cannot write the image records", &error))
    }
}

fn read(file: &mut RecordFile) -> Result<Contents, Error> {
    let path = &file.path().to_owned();
    let wrong = |error: redb::Error| failed(path, "cannot read the image records", &error);
    let broken = |cause: String| Error::Store {
        kind: Kind::Store,
        path: path.to_owned(),
        cause,
    };
    let format = file.with(create_tables).map_err(wrong)?;
    if format != FORMAT {
        return Err(broken(format!(
            "the image records have format {format}, this version knows {FORMAT}; use the version \
             that wrote them, or move the directory away and pull again"
        )));
    }
    let raw = file.with(read_tables).map_err(wrong)?;
    let parse_failed = |key: &str, error: serde_json::Error| {
        broken(format!("the record of {key} is malformed: {error}"))
    };
    let mut contents = Contents {
        names: raw.names,
        ..Contents::default()
    };
    for (id, record) in raw.images {
        let record = serde_json::from_slice(&record).map_err(|error| parse_failed(&id, error))?;
        contents.images.push((id, record));
    }
    for (chain_id, record) in raw.layers {
        let record =
            serde_json::from_slice(&record).map_err(|error| parse_failed(&chain_id, error))?;
        contents.layers.push((chain_id, record));
    }
    Ok(contents)
}

fn create_tables(database: &Database) -> Result<u64, redb::Error> {
    {
        let reading = database.begin_read()?;
        match reading.open_table(ABOUT) {
            Ok(about) => {
                if let Some(format) = about.get("format")? {
                    return Ok(format.value());
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let writing = database.begin_write()?;
    writing.open_table(ABOUT)?.insert("format", FORMAT)?;
    writing.open_table(IMAGES)?;
    writing.open_table(NAMES)?;
    writing.open_table(LAYERS)?;
    writing.commit()?;
    Ok(FORMAT)
}

struct Raw {
    images: Vec<(String, Vec<u8>)>,
    names: Vec<(String, String)>,
    layers: Vec<(String, Vec<u8>)>,
}

fn read_tables(database: &Database) -> Result<Raw, redb::Error> {
    let reading = database.begin_read()?;
    let records = |table: TableDefinition<'_, &str, &[u8]>| -> Result<_, redb::Error> {
        let table = reading.open_table(table)?;
        table
            .iter()?
            .map(|entry| {
                let (key, value) = entry?;
                Ok((key.value().to_owned(), value.value().to_vec()))
            })
            .collect::<Result<Vec<_>, redb::Error>>()
    };
    let names = reading
        .open_table(NAMES)?
        .iter()?
        .map(|entry| {
            let (name, id) = entry?;
            Ok((name.value().to_owned(), id.value().to_owned()))
        })
        .collect::<Result<_, redb::Error>>()?;
    Ok(Raw {
        images: records(IMAGES)?,
        names,
        layers: records(LAYERS)?,
    })
}

fn write(database: &Database, changes: &Changes) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    {
        let mut layers = writing.open_table(LAYERS)?;
        for (chain_id, record) in &changes.put_layers {
            layers.insert(chain_id.as_str(), encode(record).as_slice())?;
        }
        for chain_id in &changes.remove_layers {
            layers.remove(chain_id.as_str())?;
        }
        let mut images = writing.open_table(IMAGES)?;
        if let Some((id, record)) = &changes.put_image {
            images.insert(id.as_str(), encode(record).as_slice())?;
        }
        for id in &changes.remove_images {
            images.remove(id.as_str())?;
        }
        let mut names = writing.open_table(NAMES)?;
        for (name, id) in &changes.put_names {
            names.insert(name.as_str(), id.as_str())?;
        }
        for name in &changes.remove_names {
            names.remove(name.as_str())?;
        }
    }
    writing.commit()?;
    Ok(())
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("strings, numbers and lists of them always serialise")
}

fn failed(path: &Path, asked: &str, error: &redb::Error) -> Error {
    let kind = if is_no_space(error) {
        Kind::NoSpace
    } else {
        Kind::Store
    };
    Error::Store {
        kind,
        path: path.to_owned(),
        cause: format!("{asked}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_the_file_is_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.redb");
        let (mut metadata, contents) = Metadata::open(&path).unwrap();
        assert!(contents.images.is_empty());
        let image = ImageRecord {
            chain_ids: vec!["sha256:a".into()],
            config: "{}".into(),
        };
        let layer = LayerRecord {
            bytes: 1,
            inodes: 2,
            hides_lower: true,
            unsynced_since: Some("boot".into()),
        };
        metadata
            .apply(&Changes {
                put_layers: vec![("sha256:a".into(), layer.clone())],
                put_image: Some(("sha256:i".into(), image.clone())),
                put_names: vec![
                    ("a".into(), "sha256:i".into()),
                    ("b".into(), "sha256:i".into()),
                ],
                ..Changes::default()
            })
            .unwrap();
        metadata
            .apply(&Changes {
                remove_names: vec!["b".into()],
                ..Changes::default()
            })
            .unwrap();
        let error = Metadata::open(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(metadata);
        let (_, contents) = Metadata::open(&path).unwrap();
        assert_eq!(contents.images, [("sha256:i".into(), image)]);
        assert_eq!(contents.names, [("a".into(), "sha256:i".into())]);
        assert_eq!(contents.layers, [("sha256:a".into(), layer)]);
    }
}
