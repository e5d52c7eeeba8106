//! A file that is changed, whole or not at all, and made what it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Root;
use crate::plan::FileChange;
use crate::secrets;

/// Permissions of files that are made.
const MODE: u32 = 0o644;

/// Permissions of those that hold credentials, which others than root need not read.
const PRIVATE: u32 = 0o600;

/// What there was of a file beside its bytes, which its change has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Where it really is, links followed.
    real: PathBuf,
    /// Directories that were not there, the outermost first.
    missing: Vec<PathBuf>,
    /// Of a file that was there.
    metadata: Option<Metadata>,
}

/// Who may do what with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Extended attributes: SELinux' context is one.
    attributes: Vec<(String, Vec<u8>)>,
}

/// Why a file is not changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan is of another file.
    #[error("{} was changed after the plan was made: roll back, and plan anew", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// What the system says.
    #[error("{}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::System {
        path: path.clone(),
        source,
    }
}

/// What there is of a file that is going to be changed.
pub(super) fn state(root: &Root, change: &FileChange) -> Result<FileState, Error> {
    let path = &change.path;
    let real = root.real(path).map_err(at(path))?;
    if bytes(&real)? != change.before {
        return Err(Error::Changed { path: path.clone() });
    }
    let above = real.ancestors().skip(1);
    let mut missing: Vec<_> = above
        .take_while(|directory| !directory.exists())
        .map(Path::to_path_buf)
        .collect();
    missing.reverse();
    let metadata = match change.before {
        Some(_) => Some(metadata(&real).map_err(at(path))?),
        None => None,
    };
    Ok(FileState {
        real,
        missing,
        metadata,
    })
}

/// Gives a file its new bytes, whoever reads it sees either all of them or the old ones.
pub(super) fn write(change: &FileChange, state: &FileState) -> Result<(), Error> {
    let now = bytes(&state.real)?;
    if now.as_ref() == Some(&change.after) {
        return Ok(());
    }
    if now != change.before {
        let path = change.path.clone();
        return Err(Error::Changed { path });
    }
    for directory in &state.missing {
        make_directory(directory)?;
    }
    let before = change.before.as_deref().unwrap_or_default();
    let metadata = state.metadata.as_ref();
    let mut mode = mode_of(metadata);
    if secrets::has_credentials(&change.after) && !secrets::has_credentials(before) {
        mode &= PRIVATE;
    }
    replace(&state.real, &change.after, mode, metadata)
}

fn mode_of(metadata: Option<&Metadata>) -> u32 {
    metadata.map_or(MODE, |metadata| metadata.mode)
}

/// Makes a file what it was. What somebody else has made of it in between is kept in `aside`, and
/// where is returned.
pub(super) fn restore(
    change: &FileChange,
    state: &FileState,
    aside: &Path,
) -> Result<Option<PathBuf>, Error> {
    let real = &state.real;
    let metadata = state.metadata.as_ref();
    let now = bytes(real)?;
    let mut kept = None;
    if let Some(now) = &now
        && *now != change.after
        && Some(now) != change.before.as_ref()
    {
        let name = change.path.to_string_lossy().replace('/', "_");
        let mut path = aside.join(format!("changed{name}"));
        let mut number = 1;
        while bytes(&path)?.is_some_and(|kept| kept != *now) {
            number += 1;
            path = aside.join(format!("changed{name}.{number}"));
        }
        replace(&path, now, mode_of(metadata), metadata)?;
        kept = Some(path);
    }
    match &change.before {
        Some(before) if now.as_ref() == Some(before) => {}
        Some(before) => replace(real, before, mode_of(metadata), metadata)?,
        None => {
            remove(real)?;
            remove(&unfinished(real))?;
            for directory in state.missing.iter().rev() {
                remove_directory(directory)?;
            }
        }
    }
    remove(&unfinished(real))?;
    Ok(kept)
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What a file is called before it has its name; one is left where the power goes.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.slipway-migrate"))
}

fn replace(path: &Path, bytes: &[u8], mode: u32, metadata: Option<&Metadata>) -> Result<(), Error> {
    let unfinished = unfinished(path);
    let write = || -> io::Result<()> {
        remove_if_there(&unfinished)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(bytes)?;
        if let Some(metadata) = metadata {
            std::os::unix::fs::fchown(&file, Some(metadata.uid), Some(metadata.gid))?;
            for (name, value) in &metadata.attributes {
                set_attribute(&file, name, value)?;
            }
        }
        // After the owner: that takes set-user-ID away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_above(path)
    };
    write().map_err(at(path))
}

fn metadata(path: &Path) -> io::Result<Metadata> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    let mut attributes = Vec::new();
    for name in attribute_names(&file)? {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(&file, name.as_str(), &mut value[..])?;
        value.truncate(length);
        attributes.push((name, value));
    }
    Ok(Metadata {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        attributes,
    })
}

fn attribute_names(file: &File) -> io::Result<Vec<String>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        other => other?,
    };
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty());
    Ok(names
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

/// What a file has already, such as a context that its directory gives it, need not be allowed.
fn set_attribute(file: &File, name: &str, value: &[u8]) -> io::Result<()> {
    let mut now = vec![0; value.len() + 1];
    let length = rustix::fs::fgetxattr(file, name, &mut now[..]).ok();
    if length.is_some_and(|length| now[..length] == *value) {
        return Ok(());
    }
    Ok(rustix::fs::fsetxattr(
        file,
        name,
        value,
        rustix::fs::XattrFlags::empty(),
    )?)
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => sync_above(path).map_err(at(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at(path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    remove_if_there(path).map_err(at(path))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_above(path),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// One that others have put something into stays.
fn remove_directory(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Ok(()) => sync_above(path).map_err(at(path)),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(at(path)(error)),
    }
}

fn sync_above(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
