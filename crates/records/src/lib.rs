//! A transactional file of records (redb) that outlives a full disk.
//!
//! Whoever makes room by removing things changes records for it, and must not need room for that:
//! the file has blocks for all of its length. And after a write that failed, redb takes no other
//! until it is opened anew, which happens here.
#![forbid(unsafe_code)]

mod file;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use redb::{Database, Error};

use file::WholeFile;

/// Such a file, locked against other processes. All methods block.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    cache: usize,
    /// `None` after something has failed.
    database: Option<Database>,
}

impl RecordFile {
    /// Opens the file, or makes it; `cache` is in bytes.
    ///
    /// # Errors
    /// redb's, such as [`Error::DatabaseAlreadyOpen`] when another process has it open.
    pub fn open(path: &Path, cache: usize) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            cache,
            database: Some(open(path, cache)?),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares all of the file with its checksums, at which redb looks for no other reason. The time
    /// that takes grows with the file: 1 MiB takes some milliseconds.
    ///
    /// # Errors
    /// [`Error::Corrupted`] where it is damaged, and those of opening. A file whose free space is
    /// recorded wrongly has redb panic.
    pub fn check(&mut self) -> Result<(), Error> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path, self.cache)?,
        };
        if !database.check_integrity()? {
            return Err(Error::Corrupted(
                "it does not match its checksums".to_owned(),
            ));
        }
        self.database = Some(database);
        Ok(())
    }

    /// Works with the database, which is opened anew if the last work has failed.
    ///
    /// # Errors
    /// Those of opening and of the work. See [`is_no_space`].
    pub fn with<T>(
        &mut self,
        work: impl FnOnce(&Database) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path, self.cache)?,
        };
        let done = work(&database)?;
        self.database = Some(database);
        Ok(done)
    }
}

fn open(path: &Path, cache: usize) -> Result<Database, Error> {
    let file = WholeFile::open(path)?;
    let mut builder = Database::builder();
    Ok(builder.set_cache_size(cache).create_with_backend(file)?)
}

/// Whether something failed because a file system or a quota is full.
pub fn is_no_space(error: &Error) -> bool {
    let full = |error: &io::Error| {
        matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    };
    matches!(error, Error::Io(error) if full(error))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;

    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

    fn put(file: &mut RecordFile, key: u64, size: usize) -> Result<(), Error> {
        file.with(|database| {
            let writing = database.begin_write()?;
            writing
                .open_table(TABLE)?
                .insert(key, vec![7; size].as_slice())?;
            Ok(writing.commit()?)
        })
    }

    fn remove(file: &mut RecordFile, key: u64) -> Result<(), Error> {
        file.with(|database| {
            let writing = database.begin_write()?;
            writing.open_table(TABLE)?.remove(key)?;
            Ok(writing.commit()?)
        })
    }

    fn keys(file: &mut RecordFile) -> Vec<u64> {
        let read = file.with(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            let keys = table.iter()?.map(|row| Ok(row?.0.value()));
            keys.collect::<Result<_, Error>>()
        });
        read.unwrap()
    }

    #[test]
    fn the_file_has_no_hole_however_long_it_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let mut file = RecordFile::open(&path, 1 << 20).unwrap();
        for key in 0..8 {
            let metadata = std::fs::metadata(&path).unwrap();
            assert!(metadata.blocks() * 512 >= metadata.len(), "{metadata:?}");
            put(&mut file, key, 1 << 20).unwrap();
        }
    }

    #[test]
    fn on_a_full_disk_records_can_be_removed_and_later_others_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let (none, size) = (MountFlags::empty(), Some(c"size=16m"));
        mount("none", directory.path(), "tmpfs", none, size).unwrap();
        let mut file = RecordFile::open(&directory.path().join("records"), 1 << 20).unwrap();
        for key in 0..20 {
            put(&mut file, key, 4096).unwrap();
        }
        let filler = directory.path().join("filler");
        let full = io::copy(&mut io::repeat(7), &mut File::create(&filler).unwrap());
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
        let refused = put(&mut file, 20, 2 << 20).unwrap_err();
        assert!(is_no_space(&refused), "{refused}");
        for key in 0..19 {
            remove(&mut file, key).unwrap();
        }
        assert_eq!(keys(&mut file), [19]);
        std::fs::remove_file(filler).unwrap();
        put(&mut file, 20, 2 << 20).unwrap();
        assert_eq!(keys(&mut file), [19, 20]);
        drop(file);
        unmount(directory.path(), UnmountFlags::empty()).unwrap();
    }

    #[test]
    fn a_record_that_a_disk_has_changed_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let mut file = RecordFile::open(&path, 1 << 20).unwrap();
        put(&mut file, 1, 4096).unwrap();
        file.check().unwrap();
        assert_eq!(keys(&mut file), [1]);
        drop(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(64).position(|part| part == [7; 64]).unwrap();
        bytes[at] = 8;
        std::fs::write(&path, bytes).unwrap();
        let mut file = RecordFile::open(&path, 1 << 20).unwrap();
        assert_eq!(keys(&mut file), [1], "redb does not look");
        let found = file.check().unwrap_err();
        assert!(matches!(found, Error::Corrupted(_)), "{found}");
    }

    #[test]
    fn two_cannot_have_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let _file = RecordFile::open(&path, 1 << 20).unwrap();
        let second = RecordFile::open(&path, 1 << 20).unwrap_err();
        assert!(matches!(second, Error::DatabaseAlreadyOpen), "{second}");
    }
}
