//! Checkpoints of running containers (CRI `CheckpointContainer`), whoever has CRIU write them: what
//! a request asks for, and the archive that it is answered with, which has the layout that
//! checkpointctl, CRI-O and containerd read.
#![forbid(unsafe_code)]

mod archive;
mod description;
mod difference;
mod request;
mod work;

use std::path::PathBuf;

use serde_json::Value;

pub use description::Description;
pub use request::Checkpoint;
pub use work::Work;

/// What goes into an archive.
#[derive(Debug)]
pub struct Content {
    /// Where CRIU has written its log, and below `checkpoint` its images.
    pub work: PathBuf,
    /// What there is to say of the container, by the names of files in the archive.
    pub described: Vec<(&'static str, Value)>,
    /// Its log, if it has one.
    pub log: Option<PathBuf>,
    /// What it has written, as overlayfs keeps it.
    pub upper: PathBuf,
    /// What its image consists of, the lowest first.
    pub layers: Vec<PathBuf>,
}
