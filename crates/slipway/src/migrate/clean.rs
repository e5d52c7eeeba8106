//! `slipway migrate clean`: Docker's data on a node that has moved.

use std::fmt::Write as _;

use anyhow::{bail, ensure};
use clap::Args;
use slipway_migrate::apply::{self, Journals, Phase};
use slipway_migrate::plan::Target;
use slipway_migrate::{Root, clean};

use super::needs_root;
use crate::client::output::write_stdout;
use crate::client::table::printable_lines;

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// Remove it, rather than say what would be removed
    #[arg(long, short)]
    yes: bool,
}

impl CleanArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        needs_root()?;
        let root = Root::new("/");
        let nothing = "this node has not moved: there is nothing of a move to clean up";
        ensure!(apply::last(&root)?.is_some(), nothing);
        let journals = Journals::hold(&root)?;
        let Some(mut journal) = journals.last()? else {
            bail!(nothing);
        };
        match journal.record().phase {
            Phase::Applied | Phase::Cleaning => {}
            Phase::RolledBack { .. } => {
                bail!("the last move of this node was taken back: Docker's data is in use")
            }
            Phase::Applying | Phase::RollingBack { .. } => bail!(
                "the move is not over: finish it with slipway migrate resume or rollback first"
            ),
        }
        let target = journal.record().begun.plan.target;
        ensure!(
            target != Target::CriDockerd,
            "this node has moved to cri-dockerd, which has its pods in Docker: its data is in use"
        );
        let docker = journal.record().begun.docker.as_ref();
        let recorded = docker.and_then(|docker| docker.data_root.clone());
        let leftovers = clean::leftovers(&root, recorded.as_deref()).await?;
        for leftover in &leftovers {
            clean::check(&root, leftover)?;
        }
        if self.yes {
            journal.begin_cleaning()?;
        }
        let mut text = String::new();
        for leftover in &leftovers {
            let (path, mib) = (leftover.path.display(), leftover.bytes >> 20);
            if leftover.doubtful {
                let _ = writeln!(
                    text,
                    "{path} stays: nothing in it shows that it was Docker's (engine-id, network/files/local-kv.db, image/*/repositories.json)"
                );
                continue;
            }
            if self.yes {
                clean::remove(&root, leftover)?;
                let _ = writeln!(text, "removed {path} ({mib} MiB)");
            } else {
                let _ = writeln!(text, "would remove {path} ({mib} MiB)");
            }
            for other in &leftover.others {
                let _ = writeln!(text, "  but not {}: it is not Docker's", other.display());
            }
        }
        if self.yes {
            journals.remove()?;
            text.push_str("removed the journal of the move: there is no way back to Docker now\n");
        } else {
            text.push_str("would remove the journal of the move, and with it the way back to Docker\n\nNothing was removed: say --yes.\n");
        }
        write_stdout(printable_lines(&text).as_bytes())
    }
}
