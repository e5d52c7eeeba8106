//! Links that have a unit start with others, or give it another name: systemd takes all of them away when a
//! unit is disabled, and makes again only those that its `[Install]` section names (systemctl(1)).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::Link;

/// Where those are that the node's administrator makes, or has made (systemd.unit(5), "Unit File Load
/// Path").
pub(super) const DIRECTORY: &str = "/etc/systemd/system";

/// How directories end that say what starts with a unit.
const KINDS: [&str; 3] = ["wants", "requires", "upholds"];

/// All links to a unit, by its name or another one: in the directory, and in those of units below it. In
/// their order.
///
/// # Errors
///
/// With the directory that cannot be read.
pub(super) fn of(directory: &Path, unit: &str) -> io::Result<Vec<Link>> {
    let mut found = links_in(directory, unit)?;
    for below in entries(directory)? {
        let is_wanted = below
            .extension()
            .is_some_and(|end| KINDS.iter().any(|kind| end == *kind));
        if is_wanted && below.is_dir() {
            found.extend(links_in(&below, unit)?);
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// Has there be the links that there were. Of those that were `made` since, what was not there before is
/// taken away; what others have put where a link was stays. Whether anything was changed is returned.
///
/// # Errors
///
/// With the link that cannot be made or taken away.
pub(super) fn restore(before: &[Link], made: &[Link]) -> io::Result<bool> {
    let mut changed = false;
    for link in made.iter().filter(|link| !before.contains(link)) {
        changed = true;
        fs::remove_file(&link.path).map_err(at(&link.path))?;
    }
    for link in before {
        match fs::symlink_metadata(&link.path) {
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&link.path)(error)),
        }
        changed = true;
        make(link).map_err(at(&link.path))?;
    }
    Ok(changed)
}

fn make(link: &Link) -> io::Result<()> {
    let directory = link.path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    symlink(&link.target, &link.path)?;
    File::open(directory)?.sync_all()
}

fn links_in(directory: &Path, unit: &str) -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    for path in entries(directory)? {
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        // By another name, it leads to a link to the unit's file.
        let real = fs::canonicalize(&path).ok();
        let is_unit = |path: &Path| path.file_name().is_some_and(|name| name == unit);
        if is_unit(&path) || is_unit(&target) || real.as_deref().is_some_and(is_unit) {
            found.push(Link { path, target });
        }
    }
    Ok(found)
}

/// Of a directory that is not there, none.
fn entries(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(at(directory)(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths.collect::<io::Result<_>>().map_err(at(directory))
}

fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + use<> {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}
