//! Nodes that leave Docker, in a machine: moved, killed in the middle, rebooted, resumed and taken
//! back. The kubelet and the API server are stand-ins of the tests; systemd, Docker, containerd and
//! the network are what Debian has.

mod cluster;
mod ground;
mod life;
mod rollout;
mod snapshot;

use std::path::Path;

use anyhow::Result;

use super::package;
use super::share::Share;

pub(super) use life::{Extent, inside};

/// The program, beside `slipway`.
const KUBELET: &str = "stand-in-kubelet";

/// Puts Slipway's package and the stand-in for a kubelet into the share.
pub(super) fn prepare(share: &mut Share, slipway: &Path) -> Result<()> {
    share.program(&slipway.with_file_name(KUBELET))?;
    package::prepare(share, slipway)
}
