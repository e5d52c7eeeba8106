//! Docker's own tables of nftables, which it has in place of rules of iptables since version 29 where it
//! is told to (`firewall-backend`; docs.docker.com, "Docker with nftables").

use super::super::process;
use super::{Error, PATIENCE, Progress};

/// What Docker calls its table in each family; nobody else is to put anything into it.
const TABLE: &str = "docker-bridges";
const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// Removes them. Where there is no nft they cannot be seen, and stay until the next boot.
pub(super) async fn remove(progress: Progress<'_>) -> Result<(), Error> {
    let mut command = process::command("nft");
    command.args(["list", "tables"]);
    let tables = match process::run(&mut command, b"", PATIENCE).await {
        Ok(tables) => tables,
        Err(failure) if failure.is_absence() => return Ok(()),
        // A kernel that has no nftables has none either; Docker's other rules are found without it.
        Err(failure) => {
            progress(&format!(
                "whether Docker has tables of nftables ({TABLE}) is not known, they would stay until the next boot: {failure}"
            ));
            return Ok(());
        }
    };
    let there = |family: &str| {
        let line = format!("table {family} {TABLE}");
        tables.lines().any(|table| table.trim() == line)
    };
    for family in FAMILIES.into_iter().filter(|family| there(family)) {
        let mut command = process::command("nft");
        command.args(["delete", "table", family, TABLE]);
        let removed = process::run(&mut command, b"", PATIENCE).await;
        let what = || format!("remove Docker's table {family} {TABLE} of nftables");
        removed.map_err(|failure| Error::new(what(), failure))?;
    }
    Ok(())
}
