//! The directory of network configurations, read again only when it has changed.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::conflist::Conflist;
use crate::{Error, Problem};

/// No configuration comes near this size; what is larger is something else.
const LARGEST_FILE: u64 = 1 << 20;

/// The configuration that is in force.
#[derive(Debug, Clone)]
pub(crate) struct Selected {
    /// The file it comes from.
    pub(crate) file: PathBuf,
    pub(crate) list: Conflist,
}

/// Finds the configuration in force in a directory.
pub(crate) struct Catalog {
    directory: PathBuf,
    loaded: Mutex<Option<Loaded>>,
}

/// What one reading of the directory gave.
#[derive(Clone)]
struct Loaded {
    fingerprints: Vec<Fingerprint>,
    selected: Option<Arc<Selected>>,
    problems: Vec<Problem>,
}

/// Changes whenever a file's name or content does: the change time cannot be set back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fingerprint {
    name: OsString,
    /// Inode, size, and change time in seconds and nanoseconds; none where there is nothing behind
    /// a symbolic link.
    version: Option<(u64, u64, i64, i64)>,
}

/// Whether a file of this name is read as a configuration.
pub(crate) fn is_configuration(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("conflist" | "conf" | "json"))
}

impl Catalog {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            loaded: Mutex::new(None),
        }
    }

    /// The first valid configuration in lexical order, as the directory is now.
    pub(crate) fn selected(&self) -> Result<Arc<Selected>, Error> {
        let fingerprints = match fingerprints(&self.directory) {
            Ok(fingerprints) => fingerprints,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let reason = format!("cannot be read: {error}");
                return Err(self.none(vec![Problem {
                    file: self.directory.clone(),
                    reason,
                }]));
            }
        };
        let cached = self
            .lock()
            .clone()
            .filter(|loaded| loaded.fingerprints == fingerprints);
        let loaded = cached.unwrap_or_else(|| {
            let loaded = load(&self.directory, fingerprints);
            *self.lock() = Some(loaded.clone());
            loaded
        });
        loaded.selected.ok_or_else(|| self.none(loaded.problems))
    }

    fn none(&self, problems: Vec<Problem>) -> Error {
        Error::NoConfiguration {
            directory: self.directory.clone(),
            problems,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory's configuration files in lexical order.
fn fingerprints(directory: &Path) -> io::Result<Vec<Fingerprint>> {
    let mut fingerprints = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !is_configuration(Path::new(&name)) {
            continue;
        }
        let metadata = fs::metadata(directory.join(&name)).ok();
        if metadata.as_ref().is_some_and(fs::Metadata::is_dir) {
            continue;
        }
        let version = metadata.map(|m| (m.ino(), m.size(), m.ctime(), m.ctime_nsec()));
        fingerprints.push(Fingerprint { name, version });
    }
    fingerprints.sort();
    Ok(fingerprints)
}

fn load(directory: &Path, fingerprints: Vec<Fingerprint>) -> Loaded {
    let mut problems = Vec::new();
    let mut selected = None;
    for fingerprint in &fingerprints {
        let file = directory.join(&fingerprint.name);
        match read(&file).and_then(|content| Conflist::parse(&file, &content)) {
            Ok(list) => {
                tracing::info!(network = list.name, file = %file.display(), "CNI network selected");
                selected = Some(Arc::new(Selected { file, list }));
                break;
            }
            Err(reason) => {
                tracing::warn!(file = %file.display(), reason, "CNI configuration skipped");
                problems.push(Problem { file, reason });
            }
        }
    }
    Loaded {
        fingerprints,
        selected,
        problems,
    }
}

/// A configuration, or a template for one.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // Asked before it is opened: opening a FIFO would wait for a writer.
    if !fs::metadata(file).map_err(cannot)?.is_file() {
        return Err("it is not a regular file".to_string());
    }
    let mut content = Vec::new();
    fs::File::open(file)
        .map_err(cannot)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut content)
        .map_err(cannot)?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(format!("it is larger than {LARGEST_FILE} bytes"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str) -> String {
        format!(r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "bridge"}}]}}"#)
    }

    fn selected(catalog: &Catalog) -> String {
        catalog
            .selected()
            .expect("a valid configuration")
            .list
            .name
            .clone()
    }

    #[test]
    fn the_first_valid_file_in_lexical_order_is_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, content: &str| fs::write(directory.path().join(name), content);
        write("20-second.conflist", &list("second")).expect("written");
        write("10-first.conflist", &list("first")).expect("written");
        write("00-readme.txt", "not a configuration").expect("written");
        write("05-bad.conflist", "{").expect("written");
        fs::create_dir(directory.path().join("01-directory.conf")).expect("created");
        let catalog = Catalog::new(directory.path().into());
        assert_eq!(selected(&catalog), "first");
    }

    #[test]
    fn a_change_is_seen_even_within_a_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("10.conflist");
        let catalog = Catalog::new(directory.path().into());
        fs::write(&file, list("one")).expect("written");
        assert_eq!(selected(&catalog), "one");
        fs::write(&file, list("another")).expect("written");
        assert_eq!(selected(&catalog), "another");
        fs::write(directory.path().join("05.conflist"), list("earlier")).expect("written");
        assert_eq!(selected(&catalog), "earlier");
        fs::remove_file(directory.path().join("05.conflist")).expect("removed");
        assert_eq!(selected(&catalog), "another");
    }

    #[test]
    fn an_unchanged_directory_is_not_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("10.conflist"), list("one")).expect("written");
        let catalog = Catalog::new(directory.path().into());
        let first = catalog.selected().expect("valid");
        assert!(Arc::ptr_eq(&first, &catalog.selected().expect("valid")));
    }

    #[test]
    fn every_bad_file_is_named_when_none_is_good() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("a.conflist"), "{\n\"name\": 1}").expect("written");
        fs::write(directory.path().join("b.conf"), r#"{"name": "n"}"#).expect("written");
        std::os::unix::fs::symlink("nowhere", directory.path().join("c.json")).expect("linked");
        let catalog = Catalog::new(directory.path().into());
        let error = catalog
            .selected()
            .expect_err("no file is valid")
            .to_string();
        for part in [
            "a.conflist: ",
            "line 2 column 9",
            "b.conf: missing field `type`",
            "c.json: ",
        ] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_missing_directory_says_what_to_do() {
        let catalog = Catalog::new("/nonexistent/net.d".into());
        let error = catalog.selected().expect_err("nothing there").to_string();
        assert!(
            error.contains("/nonexistent/net.d: install a network add-on"),
            "{error}"
        );
    }
}
