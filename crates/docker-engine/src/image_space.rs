//! The space that images take, as Docker counts it, which it does by looking at all of them.
//!
//! A kubelet asks from several places, and Docker before version 23 refuses to measure twice at a
//! time. So those who ask share one measurement, and its figure stays for a while, unless this daemon
//! has had Docker change something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use slipway_cri_api::v1::{
    FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value,
};
use slipway_engine::Result;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::dockerd::Facts;
use crate::failure;
use crate::node::{Node, now};

/// How long a figure stays.
const STAYS: Duration = Duration::from_secs(10);

/// How long it is waited for somebody else's measurement before Docker is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Since this version of the interface it is not everything that has to be measured.
const DISK_USAGE_BY_TYPE: (usize, usize) = (1, 42);

const WHAT: &str = "measure images";

/// What Docker has measured (`GET /system/df`): the first in versions before 1.52 of the interface.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DiskUsage {
    layers_size: Option<u64>,
    image_usage: Option<ImageUsage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageUsage {
    total_size: u64,
}

/// What was measured last.
#[derive(Debug, Default)]
pub(crate) struct ImageSpace {
    /// Held while somebody measures.
    last: Mutex<Option<Measured>>,
    changes: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    bytes: Option<u64>,
    /// Nanoseconds since the epoch.
    at: i64,
    until: Instant,
    /// How many changes there had been when it began.
    changes: u64,
}

impl ImageSpace {
    /// What was measured until now, or is being measured, is not what there is.
    pub(crate) fn changes(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    async fn look(&self, node: &Node, facts: &Facts) -> Result<Measured> {
        let mut last = self.last.lock().await;
        loop {
            let changes = self.changes.load(Ordering::Acquire);
            let known = last.filter(|known| known.changes == changes);
            if let Some(known) = known.filter(|known| Instant::now() < known.until) {
                return Ok(known);
            }
            match (measure(node, facts).await, known) {
                (Ok(bytes), _) => {
                    let measured = Measured {
                        bytes,
                        at: now(),
                        until: Instant::now() + STAYS,
                        changes,
                    };
                    *last = Some(measured);
                    return Ok(measured);
                }
                (Err(error), known) if failure::is_measuring(&error) => match known {
                    Some(known) => return Ok(known),
                    None => sleep(PAUSE).await,
                },
                (Err(error), _) => return Err(error),
            }
        }
    }
}

async fn measure(node: &Node, facts: &Facts) -> Result<Option<u64>> {
    let path = if facts.api < DISK_USAGE_BY_TYPE {
        "/system/df"
    } else {
        "/system/df?type=image"
    };
    let used: DiskUsage = node.dockerd.get(WHAT, path).await?;
    let images = used.image_usage.map(|images| images.total_size);
    Ok(used.layers_size.or(images))
}

/// The file system with the images, of which it is told when it was measured.
pub(crate) async fn file_systems(node: &Node) -> Result<ImageFsInfoResponse> {
    let facts = node.dockerd.up()?.facts;
    let looked = timeout(node.config.timeout(), node.image_space.look(node, &facts));
    let Measured { bytes, at, .. } = looked
        .await
        .map_err(|_| failure::late(WHAT, node.dockerd.endpoint()))??;
    let usage = FilesystemUsage {
        timestamp: at,
        fs_id: Some(FilesystemIdentifier {
            mountpoint: facts.root.to_string_lossy().into_owned(),
        }),
        used_bytes: bytes.map(|value| UInt64Value { value }),
        inodes_used: None,
    };
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        // Writable layers are on the same file system, which a kubelet wants to be told.
        container_filesystems: vec![usage],
    })
}
