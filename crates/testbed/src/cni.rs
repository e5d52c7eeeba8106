//! The pod network of one node: a conflist for the real plugins, and the removal of their traces.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use serde_json::json;

use crate::{Scratch, process};

/// Where Debian's containernetworking-plugins package puts them.
pub(crate) const BIN_DIR: &str = "/usr/lib/cni";

/// Those of [`SHARED_CHAINS`] that are in the table `filter`; the others are in `nat`.
const FILTERING: [&str; 2] = ["CNI-FORWARD", "CNI-ADMIN"];

/// Chains that the plugins share among all networks of a machine.
const SHARED_CHAINS: [&str; 5] = [
    "CNI-FORWARD",
    "CNI-ADMIN",
    "CNI-HOSTPORT-DNAT",
    "CNI-HOSTPORT-SETMARK",
    "CNI-HOSTPORT-MASQ",
];

/// A directory of CNI configuration with one conflist: bridge with host-local addresses, portmap
/// and firewall, on a bridge and a subnet of the node's own.
///
/// Dropping it removes the bridge and the rules that name its network or its addresses.
#[derive(Debug)]
pub struct Cni {
    scratch: Arc<Scratch>,
    conf_dir: PathBuf,
}

/// Makes the chains that all networks share. A plugin that finds one missing makes it, and fails when
/// that of another node's daemon has been faster; in production there is one daemon on a machine.
fn make_shared_chains() -> Result<()> {
    static MADE: OnceLock<()> = OnceLock::new();
    if MADE.get().is_some() {
        return Ok(());
    }
    for chain in SHARED_CHAINS {
        let table = if FILTERING.contains(&chain) {
            "filter"
        } else {
            "nat"
        };
        // Whoever made it: what counts is that it is there.
        let _ = process::run("iptables", &["--wait", "-t", table, "-N", chain]);
        process::run("iptables", &["--wait", "-t", table, "-S", chain])?;
    }
    let _ = MADE.set(());
    Ok(())
}

impl Cni {
    /// Writes the configuration.
    ///
    /// # Errors
    /// When the scratch directory cannot be written.
    pub fn new(scratch: &Arc<Scratch>) -> Result<Self> {
        let number = scratch.number();
        let cni = Self {
            scratch: Arc::clone(scratch),
            conf_dir: scratch.join("net.d"),
        };
        fs::create_dir_all(&cni.conf_dir)?;
        make_shared_chains()?;
        let conflist = json!({
            "cniVersion": "1.0.0",
            "name": network(number),
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": cni.bridge(),
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": scratch.join("ipam"),
                        "ranges": [[{ "subnet": cni.subnet() }]],
                        "routes": [{ "dst": "0.0.0.0/0" }],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
                { "type": "firewall" },
            ],
        });
        cni.write_conflist(&serde_json::to_string_pretty(&conflist)?)?;
        Ok(cni)
    }

    /// Replaces the conflist, for tests of networks that do not work.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_conflist(&self, text: &str) -> Result<()> {
        let temporary = self.conf_dir.join(".new");
        fs::write(&temporary, text)?;
        Ok(fs::rename(
            temporary,
            self.conf_dir.join("10-slipway.conflist"),
        )?)
    }

    /// The text of the conflist.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn conflist(&self) -> Result<String> {
        Ok(fs::read_to_string(
            self.conf_dir.join("10-slipway.conflist"),
        )?)
    }

    /// The directory for `--cni-conf-dir`.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    /// The directory of the real plugins, for `--cni-bin-dir`.
    pub fn bin_dir(&self) -> &Path {
        Path::new(BIN_DIR)
    }

    /// The name of the network.
    pub fn network(&self) -> String {
        network(self.scratch.number())
    }

    /// The bridge that the pods hang on; the plugin makes it with the first pod.
    pub fn bridge(&self) -> String {
        bridge(self.scratch.number())
    }

    /// The addresses of the pods; the bridge has the first one.
    pub fn subnet(&self) -> String {
        format!("{}0/24", prefix(self.scratch.number()))
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        remove_traces(self.scratch.number());
    }
}

fn network(number: u16) -> String {
    format!("slipway-test-{number}")
}

fn bridge(number: u16) -> String {
    format!("slw{number}")
}

/// What all addresses of a node begin with.
fn prefix(number: u16) -> String {
    format!("10.200.{number}.")
}

/// The addresses that host-local has given out for this node, and not taken back.
pub(crate) fn allocations(scratch: &Scratch) -> Vec<String> {
    let directory = scratch.join("ipam").join(network(scratch.number()));
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

/// The interfaces that hang on the node's bridge.
pub(crate) fn ports_of_bridge(number: u16) -> Vec<String> {
    fs::read_dir(format!("/sys/class/net/{}/brif", bridge(number)))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The packet filter rules that name this node's network or one of its addresses.
pub(crate) fn rules(number: u16) -> Vec<String> {
    let saved = process::run("iptables-save", &[]).unwrap_or_default();
    saved
        .lines()
        .filter(|line| is_rule_of(line, number))
        .map(str::to_owned)
        .collect()
}

/// Removes the bridge, the rules and the cached results of this node's network.
pub(crate) fn remove_traces(number: u16) {
    let bridge = bridge(number);
    let seen = Path::new("/sys/class/net").join(&bridge).exists();
    if seen {
        let _ = process::run("ip", &["link", "delete", &bridge]);
    }
    if seen || !rules(number).is_empty() {
        let saved = process::run("iptables-save", &[]).unwrap_or_default();
        let _ = restore(&removal(&saved, number));
    }
    remove_cached_results(&network(number));
}

/// containerd's CNI library has one cache for the machine, with files named after the network.
fn remove_cached_results(network: &str) {
    for entry in fs::read_dir("/var/lib/cni/results")
        .into_iter()
        .flatten()
        .flatten()
    {
        let prefix = format!("{network}-");
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(&prefix))
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_rule_of(line: &str, number: u16) -> bool {
    let (quoted, address) = (format!("\\\"{}\\\"", network(number)), prefix(number));
    line.starts_with("-A ")
        && (line.contains(&quoted) || line.split(' ').any(|word| word.starts_with(&address)))
}

/// What `iptables-restore` must be told to take this node's rules out of a saved rule set: rules
/// in chains that others use too are deleted one by one, chains of one pod are removed whole.
fn removal(saved: &str, number: u16) -> String {
    let mut script = String::new();
    for table in saved
        .split("\n*")
        .map(|table| table.trim_start_matches('*'))
    {
        let Some((name, body)) = table.split_once('\n') else {
            continue;
        };
        let own: Vec<_> = body
            .lines()
            .filter(|line| is_rule_of(line, number))
            .collect();
        let chains: BTreeSet<_> = own
            .iter()
            .flat_map(|rule| rule.split(' '))
            .filter(|word| word.starts_with("CNI-") && !SHARED_CHAINS.contains(word))
            .collect();
        let mut commands = String::new();
        let of_one_pod = |rule: &str| rule.split(' ').nth(1).is_some_and(|at| chains.contains(at));
        for rule in own.iter().filter(|rule| !of_one_pod(rule)) {
            let _ = writeln!(commands, "-D {}", &rule[3..]);
        }
        for command in ["-F", "-X"] {
            for chain in &chains {
                let _ = writeln!(commands, "{command} {chain}");
            }
        }
        if !commands.is_empty() {
            let _ = write!(script, "*{name}\n{commands}COMMIT\n");
        }
    }
    script
}

fn restore(script: &str) -> Result<()> {
    if script.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("/usr/sbin/iptables-restore")
        .args(["--noflush", "--wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let written = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(script.as_bytes()));
    anyhow::ensure!(
        child.wait()?.success(),
        "iptables-restore refused:\n{script}"
    );
    Ok(written.transpose().map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated
*filter
:INPUT ACCEPT [0:0]
:CNI-FORWARD - [0:0]
-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
-A CNI-FORWARD -d 10.200.7.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -d 10.200.70.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -s 10.200.7.2/32 -j ACCEPT
COMMIT
*nat
:CNI-0123 - [0:0]
:CNI-DN-4567 - [0:0]
-A POSTROUTING -s 10.200.7.2/32 -m comment --comment "name: \"slipway-test-7\" id: \"a\"" -j CNI-0123
-A POSTROUTING -s 10.200.70.2/32 -m comment --comment "name: \"slipway-test-70\" id: \"b\"" -j CNI-89ab
-A CNI-0123 -d 10.200.7.0/24 -m comment --comment "name: \"slipway-test-7\" id: \"a\"" -j ACCEPT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"slipway-test-7\" id: \"a\"" -j CNI-DN-4567
-A CNI-DN-4567 -p tcp -j DNAT --to-destination 10.200.7.2:80
COMMIT
"#;

    #[test]
    fn only_the_rules_of_the_own_network_are_taken_out() {
        let expected = r#"*filter
-D CNI-FORWARD -d 10.200.7.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-D CNI-FORWARD -s 10.200.7.2/32 -j ACCEPT
COMMIT
*nat
-D POSTROUTING -s 10.200.7.2/32 -m comment --comment "name: \"slipway-test-7\" id: \"a\"" -j CNI-0123
-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"slipway-test-7\" id: \"a\"" -j CNI-DN-4567
-F CNI-0123
-F CNI-DN-4567
-X CNI-0123
-X CNI-DN-4567
COMMIT
"#;
        assert_eq!(removal(SAVED, 7), expected);
        assert_eq!(removal(SAVED, 8), "");
    }

    #[test]
    fn the_conflist_names_what_belongs_to_the_scratch_directory() {
        let scratch = Scratch::new().unwrap();
        let cni = Cni::new(&scratch).unwrap();
        let conflist: serde_json::Value = serde_json::from_str(&cni.conflist().unwrap()).unwrap();
        assert_eq!(conflist["name"], cni.network());
        assert_eq!(conflist["plugins"][0]["bridge"], cni.bridge());
        assert!(
            cni.bridge().len() < 16,
            "an interface's name has at most 15 characters"
        );
    }
}
