//! The Debian package's life on a node, in a machine: installed, upgraded, rebooted, removed and
//! purged, with pods running.

mod bare;
mod life;
mod node;
mod refusals;

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use super::share::{self, Share};
use crate::dist::{self, Packing};

pub(super) use bare::{KERNEL as BARE, bare};
pub(super) use life::{blocking, has_begun, inside, step};
pub(super) use node::{network, refused, shell};

/// The versions that are installed, the second one over the first.
const VERSIONS: [&str; 2] = ["0.0.1", "0.0.2"];

/// Puts packages and an archive of these programs into the share.
pub(super) fn prepare(share: &mut Share, slipway: &Path) -> Result<()> {
    // Without symbols, as they are published.
    let programs = TempDir::new()?;
    for name in ["slipway", "slipway-shim"] {
        share::strip(&slipway.with_file_name(name), &programs.path().join(name))?;
    }
    let packages = TempDir::new()?;
    for version in VERSIONS {
        let slipway = programs.path().join("slipway");
        let package = dist::debian(&slipway, version, Packing::Quick, packages.path())?;
        share.add(&package)?;
    }
    let slipway = programs.path().join("slipway");
    share.add(&dist::archive(&slipway, VERSIONS[0], packages.path())?)?;
    Ok(())
}

/// Where the archive is in the machine.
fn archive() -> String {
    format!("/share/slipway-{}-linux-amd64.tar.gz", VERSIONS[0])
}

/// The first version's package, in the machine.
pub(super) fn first() -> String {
    package(VERSIONS[0])
}

/// Where such a package is in the machine.
fn package(version: &str) -> String {
    format!("/share/slipway_{version}_amd64.deb")
}
