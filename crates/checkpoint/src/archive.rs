//! Writing the archive: a tar file that appears whole or not at all, and that only root may read.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use slipway_engine::{Error, Result};

use crate::{Content, difference};

/// The names under which containerd and CRI-O look for a container's log.
const LOGS: [&str; 2] = ["container.log", "io.kubernetes.cri-o.LogPath"];

/// Writes the archive to `location`; none when its deadline comes first. Blocking.
pub(super) fn write(
    content: &Content,
    location: &Path,
    deadline: Option<Instant>,
) -> Result<Option<()>> {
    let failed = |error: io::Error| {
        let message = format!("write {}: {error}", location.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::exhausted(message),
            io::ErrorKind::AlreadyExists => {
                Error::invalid(format!("CheckpointContainerRequest.location: {message}"))
            }
            _ => Error::internal(message),
        }
    };
    let parent = location.parent().unwrap_or(Path::new("/"));
    // Without a name until it is whole, so that nothing is left of one that never was.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let file = rustix::fs::open(parent, flags, mode).map_err(|error| match error {
        Errno::OPNOTSUPP | Errno::ISDIR => Error::invalid(format!(
            "CheckpointContainerRequest.location: the file system of {} has no files without a \
             name (O_TMPFILE of open(2)); give a location on another one",
            parent.display()
        )),
        other => failed(other.into()),
    })?;
    let file = File::from(file);
    match fill(content, &file, deadline).and_then(|()| file.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
        other => other.map_err(failed)?,
    }
    let named = name(&file.into(), location);
    named.map(Some).map_err(|error| failed(error.into()))
}

/// A file that ends when there is no time left.
struct Timed<'a> {
    file: &'a File,
    deadline: Option<Instant>,
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() > deadline)
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn name(file: &OwnedFd, location: &Path) -> std::result::Result<(), Errno> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, link, CWD, location, AtFlags::SYMLINK_FOLLOW)
}

fn fill(content: &Content, file: &File, deadline: Option<Instant>) -> io::Result<()> {
    let file = Timed { file, deadline };
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    archive.mode(tar::HeaderMode::Complete);
    for (name, value) in &content.described {
        append_bytes(&mut archive, name, &serde_json::to_vec_pretty(value)?)?;
    }
    for name in ["dump.log", "stats-dump"] {
        append_file(&mut archive, name, &content.work.join(name))?;
    }
    archive.append_dir("checkpoint", content.work.join("checkpoint"))?;
    let mut images: Vec<_> = fs::read_dir(content.work.join("checkpoint"))?
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    images.sort();
    for image in images {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        append_file(&mut archive, &format!("checkpoint/{name}"), &image)?;
    }
    let path = content.work.join("rootfs-diff.tar");
    let deleted = difference::write(content, &path)?;
    append_file(&mut archive, "rootfs-diff.tar", &path)?;
    if !deleted.is_empty() {
        let deleted = serde_json::to_vec(&deleted)?;
        append_bytes(&mut archive, "deleted.files", &deleted)?;
    }
    if let Some(log) = content.log.as_ref().filter(|log| log.is_file()) {
        append_file(&mut archive, LOGS[0], log)?;
        let mut header = header(0);
        header.set_entry_type(tar::EntryType::Link);
        archive.append_link(&mut header, LOGS[1], LOGS[0])?;
    }
    archive.into_inner()?.flush()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default());
    header
}

fn append_bytes(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), name, bytes)
}

/// Appends a file; one that is not there is left out.
fn append_file(archive: &mut tar::Builder<impl Write>, name: &str, path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let length = file.metadata()?.len();
    archive.append_data(&mut header(length), name, exactly(file, length))
}

/// As many bytes as the header says, whatever becomes of the file meanwhile.
pub(super) fn exactly(file: File, length: u64) -> impl Read {
    file.chain(io::repeat(0)).take(length)
}
