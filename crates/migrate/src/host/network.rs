//! What Docker has in the node's network: its chains and rules in the packet filter, and its
//! bridges.

mod link;
mod nftables;
mod rules;

use std::time::Duration;

use super::process::{self, Failure};
use super::{DockerNetwork, Error, NetworkState, Progress};
use crate::Root;
use crate::plan::range_has;
use rules::Docker;

/// What Docker calls the bridge of its default network.
const BRIDGE: &str = "docker0";

/// How long others may hold the packet filter, in seconds, and how long a program may take.
const LOCK: &str = "60";
const PATIENCE: Duration = Duration::from_mins(2);

/// Rules that are loaded at the next boot, by family.
const SAVED: [[&str; 2]; 2] = [
    ["/etc/iptables/rules.v4", "/etc/sysconfig/iptables"],
    ["/etc/iptables/rules.v6", "/etc/sysconfig/ip6tables"],
];

const FAMILIES: [Family; 2] = [
    Family {
        name: "IPv4",
        save: "iptables-save",
        restore: "iptables-restore",
    },
    Family {
        name: "IPv6",
        save: "ip6tables-save",
        restore: "ip6tables-restore",
    },
];

struct Family {
    name: &'static str,
    save: &'static str,
    restore: &'static str,
}

/// The network of the node that this runs on. Docker's rules are found by the programs that Docker
/// makes them with; where there are none of these, there are no rules.
///
/// What is in DOCKER-USER beside Docker's own RETURN is people's: the chain and the jump into it
/// stay then, for its rules hold for all forwarded packets, those of pods on another runtime too.
#[derive(Debug)]
pub(super) struct Network {
    root: Root,
    /// `bridge` of daemon.json, which is not made by Docker.
    bridge: Option<String>,
    /// What Docker said of its other networks while it ran.
    networks: Vec<DockerNetwork>,
}

impl Network {
    /// `root` has `/sys`; `bridge` is what Docker was told to use in place of its own, `networks` are those
    /// whose bridges it has made.
    pub(super) fn new(root: Root, bridge: Option<String>, networks: Vec<DockerNetwork>) -> Self {
        let bridge = bridge.filter(|bridge| !matches!(bridge.as_str(), "" | "none" | BRIDGE));
        Self {
            root,
            bridge,
            networks,
        }
    }

    /// See [`super::Host::network`].
    pub(super) async fn state(&self) -> Result<NetworkState, Error> {
        let mut state = NetworkState {
            forward: [None, None],
            rules: [Vec::new(), Vec::new()],
            bridge: self.own_bridge(),
        };
        for (number, family) in FAMILIES.iter().enumerate() {
            let tables = family.tables().await?;
            state.forward[number] = rules::forward(&tables).map(str::to_string);
            state.rules[number] = Docker::find(&tables, self.bridge()).saved();
        }
        Ok(state)
    }

    /// See [`super::Host::clean_network`].
    pub(super) async fn clean(&self, progress: Progress<'_>) -> Result<(), Error> {
        let mut others: Vec<String> = Vec::new();
        for (number, family) in FAMILIES.iter().enumerate() {
            let tables = family.tables().await?;
            let docker = Docker::find(&tables, self.bridge());
            let own = docker.peoples();
            if !own.is_empty() {
                progress(&format!(
                    "{}: DOCKER-USER stays, with {} of this node's own rules, which hold for pods too ({}); move them elsewhere when you can",
                    family.name,
                    own.len(),
                    own.join("; ")
                ));
            }
            let is_dropped = rules::forward(&tables) == Some("DROP");
            let whose = is_dropped
                .then(|| self.who_drops(number, &tables))
                .flatten();
            let removal = docker.removal((is_dropped && whose.is_none()).then_some("ACCEPT"));
            if let Some(whose) = whose
                && !removal.is_empty()
            {
                progress(&format!(
                    "{}: the policy of FORWARD stays DROP, which is {whose}'s too: it has to let the packets of pods pass",
                    family.name
                ));
            }
            for bridge in docker.bridges() {
                if bridge != self.bridge() && !others.iter().any(|known| known == bridge) {
                    others.push(bridge.to_string());
                }
            }
            for transaction in removal {
                family.apply(&transaction).await?;
            }
        }
        nftables::remove(progress).await?;
        if let Some(bridge) = self.own_bridge() {
            self.remove_bridge(&bridge, progress)?;
        }
        for network in &self.networks {
            let bridge = &network.bridge;
            others.retain(|known| known != bridge);
            if !self.is_bridge(bridge) {
                continue;
            }
            let foreign = self.foreign_addresses(network)?;
            if foreign.is_empty() {
                self.remove_bridge(bridge, progress)?;
            } else {
                progress(&format!(
                    "{bridge} stays, because it has addresses that are not of Docker's network {}: {}",
                    network.name,
                    foreign.join(", ")
                ));
            }
        }
        others.retain(|name| self.has_link(name));
        if !others.is_empty() {
            progress(&format!(
                "bridges that Docker used, and of which it is not known that it made them, stay until the next boot: {}",
                others.join(", ")
            ));
        }
        Ok(())
    }

    /// See [`super::Host::restore_network`].
    pub(super) async fn restore(&self, before: &NetworkState) -> Result<(), Error> {
        for (number, family) in FAMILIES.iter().enumerate() {
            let (saved, policy) = (&before.rules[number], before.forward[number].as_deref());
            if saved.is_empty() && policy.is_none() {
                continue;
            }
            let tables = family.tables().await?;
            for transaction in rules::addition(&tables, saved, policy) {
                family.apply(&transaction).await?;
            }
        }
        Ok(())
    }

    /// The bridge of Docker's default network.
    fn bridge(&self) -> &str {
        self.bridge.as_deref().unwrap_or(BRIDGE)
    }

    /// The bridge that Docker has made for itself.
    fn own_bridge(&self) -> Option<String> {
        self.is_bridge(BRIDGE).then(|| BRIDGE.to_string())
    }

    fn is_bridge(&self, name: &str) -> bool {
        self.root.has(format!("/sys/class/net/{name}/bridge"))
    }

    /// Addresses of a network's bridge that Docker did not give it.
    fn foreign_addresses(&self, network: &DockerNetwork) -> Result<Vec<String>, Error> {
        let what = || format!("look at the addresses of {}", network.bridge);
        let path = format!("/sys/class/net/{}/ifindex", network.bridge);
        let index = self
            .root
            .read(&path)
            .map_err(|error| Error::new(what(), error))?;
        let index = index.and_then(|index| index.text().trim().parse().ok());
        let index = index.ok_or_else(|| Error::new(what(), format!("{path} has no number")))?;
        let addresses = link::addresses(index).map_err(|error| Error::new(what(), error))?;
        let is_foreign = |address: &std::net::IpAddr| {
            let mut subnets = network.subnets.iter();
            !subnets.any(|subnet| range_has(subnet, Some(*address)))
        };
        let foreign = addresses.into_iter().filter(is_foreign);
        Ok(foreign.map(|address| address.to_string()).collect())
    }

    fn has_link(&self, name: &str) -> bool {
        self.root.has(format!("/sys/class/net/{name}"))
    }

    /// Whose the policy DROP is, where it may be somebody's beside Docker.
    fn who_drops(&self, family: usize, tables: &[rules::Table]) -> Option<String> {
        if rules::has_firewall(tables) {
            return Some("this node's firewall".to_string());
        }
        let says_so = |path: &&&str| {
            let Ok(Some(source)) = self.root.read(path) else {
                return false;
            };
            // Where it was saved while Docker ran, it says nothing of who wanted it.
            source.text().contains(":FORWARD DROP") && !source.text().contains("DOCKER")
        };
        SAVED[family].iter().find(says_so).map(ToString::to_string)
    }

    fn remove_bridge(&self, bridge: &str, progress: Progress<'_>) -> Result<(), Error> {
        let what = format!("remove Docker's bridge {bridge}");
        let ports = self.root.list(format!("/sys/class/net/{bridge}/brif"));
        let ports = ports.map_err(|error| Error::new(&what, error))?;
        if !ports.is_empty() {
            let ports: Vec<_> = ports.iter().map(|port| port.to_string_lossy()).collect();
            progress(&format!(
                "{bridge} stays, because something is connected to it: {}",
                ports.join(", ")
            ));
            return Ok(());
        }
        link::remove(bridge).map_err(|error| Error::new(what, error))
    }
}

impl Family {
    async fn tables(&self) -> Result<Vec<rules::Table>, Error> {
        let mut command = process::command(self.save);
        match process::run(&mut command, b"", PATIENCE).await {
            Ok(text) => Ok(rules::parse(&text)),
            Err(failure) if failure.is_absence() => Ok(Vec::new()),
            Err(failure) => Err(self.error("read the rules of", &failure)),
        }
    }

    async fn apply(&self, transaction: &str) -> Result<(), Error> {
        let mut command = process::command(self.restore);
        command.args(["--noflush", "--wait", LOCK]);
        let applied = process::run(&mut command, transaction.as_bytes(), PATIENCE).await;
        applied
            .map(drop)
            .map_err(|failure| self.error("change the rules of", &failure))
    }

    fn error(&self, doing: &str, failure: &Failure) -> Error {
        Error::new(
            format!("{doing} the packet filter ({})", self.name),
            format!(
                "{failure}; it has to be run as root, and {} has to be of the kind (nft or legacy) that Docker used",
                self.save
            ),
        )
    }
}

#[cfg(test)]
mod tests;
