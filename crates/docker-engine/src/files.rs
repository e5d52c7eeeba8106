//! A directory with a file for each pod, or each container, of what Docker has no place for.

use std::fs;
use std::io::{self, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use prost::Message;
use slipway_engine::{Error, Result};

/// The directory. Everything here blocks, briefly.
#[derive(Debug)]
pub(crate) struct Files<T> {
    directory: PathBuf,
    content: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Files<T> {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            content: PhantomData,
        }
    }

    /// What is written of something; none where there is no file. One that cannot be read is logged
    /// and says nothing but that it is there.
    pub(crate) fn get(&self, id: &str) -> Option<T> {
        let path = self.directory.join(id);
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error),
            Ok(bytes) => T::decode(bytes.as_slice()).map_err(io::Error::other),
        };
        Some(read.unwrap_or_else(|error| {
            tracing::error!(file = %path.display(), %error, "what Slipway has noted cannot be read");
            T::default()
        }))
    }

    /// Writes a file, whole or not at all.
    pub(crate) fn put(&self, id: &str, content: &T) -> Result<()> {
        let (path, incomplete) = (
            self.directory.join(id),
            self.directory.join(format!(".{id}")),
        );
        let write = || {
            let mut file = fs::File::create(&incomplete)?;
            file.write_all(&content.encode_to_vec())?;
            fs::rename(&incomplete, &path)
        };
        write().map_err(|error| failed("written", &path, &error))
    }

    /// Removes a file; one that is not there is fine.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let path = self.directory.join(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("removed", &path, &error))
            }
            _ => Ok(()),
        }
    }

    /// The ids that there are files of, in no order.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.directory);
        let entries = entries.map_err(|error| failed("read", &self.directory, &error))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect())
    }
}

fn failed(done: &str, path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("{} cannot be {done}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::<String>::new(directory.path().to_owned());
        assert_eq!(files.get("a"), None);
        files.put("a", &"written".to_owned()).unwrap();
        assert_eq!(files.get("a").unwrap(), "written");
        assert_eq!(files.ids().unwrap(), ["a"]);
        files.remove("a").unwrap();
        files.remove("a").unwrap();
        assert_eq!(files.get("a"), None);
    }

    #[test]
    fn a_damaged_one_says_that_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), [0xff; 7]).unwrap();
        let files = Files::<String>::new(directory.path().to_owned());
        assert_eq!(files.get("a"), Some(String::new()));
        assert_eq!(files.ids().unwrap(), ["a"]);
    }
}
