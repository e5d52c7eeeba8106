//! Where an entry of an archive goes, if it may go there at all.

use super::{Failure, lossy};

const PATH_LENGTH_MAX: usize = 4096;
/// Removing a tree takes a descriptor a level.
const DEPTH_MAX: usize = 256;

pub(super) const WHITEOUT: &[u8] = b".wh.";
pub(super) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// Where an entry goes: the path of its parent directory and its name in there.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Place<'a> {
    pub(super) parent: Vec<u8>,
    pub(super) name: &'a [u8],
}

impl Place<'_> {
    pub(super) fn path(&self) -> Vec<u8> {
        if self.parent.is_empty() {
            self.name.to_vec()
        } else {
            [&self.parent, self.name].join(&b'/')
        }
    }
}

/// The components of an entry's path, without `.` and empty ones; none for the root itself.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let refuse = |why: &str| {
        Err(Failure::Corrupt(format!(
            "archive entry {:?} is refused: {why}",
            lossy(path)
        )))
    };
    if path.is_empty() {
        return refuse("its name is empty");
    }
    if path.len() > PATH_LENGTH_MAX {
        return refuse("its name is longer than a path may be");
    }
    if path.contains(&0) {
        return refuse("its name has a NUL in it");
    }
    let mut components = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return refuse("it leaves the root of the image with '..'"),
            _ => components.push(component),
        }
    }
    // Some builders write the root itself as "/".
    if path.starts_with(b"/") && !components.is_empty() {
        return refuse("its name is absolute");
    }
    if components.len() > DEPTH_MAX {
        return refuse("it is nested too deeply");
    }
    Ok(components)
}

/// Bookkeeping of AUFS in layers that were made with it; no content.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT_META) && name != WHITEOUT_OPAQUE
}
