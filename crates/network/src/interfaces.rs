//! The network interfaces of a pod as proc_net(5) shows them: counters and addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rustix::process::Pid;
use slipway_cri_api::v1::{NetworkInterfaceUsage, NetworkUsage, UInt64Value};

use crate::attachment::INTERFACE;

/// What went through a network interface since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// To the pod.
    pub received: Traffic,
    /// From the pod.
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were lost to an error.
    pub errors: u64,
    /// Packets for which there was no room.
    pub dropped: u64,
}

/// The interfaces in the network namespace of a process, without its loopback. Blocking, briefly.
pub fn interfaces(process: Pid) -> io::Result<Vec<Interface>> {
    let path = format!("/proc/{}/net/dev", process.as_raw_nonzero());
    Ok(parse(&std::fs::read_to_string(path)?))
}

/// The addresses in the network namespace of a process, without those of its loopback and those that
/// are valid on a link only: of IPv4 first, without an order among themselves otherwise. Blocking,
/// briefly.
pub(crate) fn addresses(process: Pid) -> io::Result<Vec<IpAddr>> {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/{}/net/{name}", process.as_raw_nonzero()))
    };
    let mut addresses = local_v4(&read("fib_trie")?);
    match read("if_inet6") {
        Ok(text) => addresses.extend(global_v6(&text)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(addresses)
}

/// Of the tree of routes the leaves that are the namespace's own: an address, and a line below it
/// that says `/32 host LOCAL`.
fn local_v4(text: &str) -> Vec<IpAddr> {
    let (mut found, mut leaf) = (BTreeSet::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    found.into_iter().map(IpAddr::V4).collect()
}

/// A line has an address in hexadecimal digits, the number of its interface, the length of the
/// prefix, the scope, flags, and the interface's name.
fn global_v6(text: &str) -> Vec<IpAddr> {
    const GLOBAL: &str = "00";
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let global = fields.nth(2)? == GLOBAL;
        global.then(|| IpAddr::V6(address.into()))
    };
    text.lines().filter_map(address).collect()
}

/// Interfaces in the words of CRI's statistics, at a time in nanoseconds since the epoch.
pub fn usage(mut interfaces: Vec<Interface>, timestamp: i64) -> NetworkUsage {
    let default = interfaces
        .iter()
        .position(|interface| interface.name == INTERFACE)
        .map(|position| interfaces.remove(position));
    NetworkUsage {
        timestamp,
        default_interface: default.map(of_interface),
        interfaces: interfaces.into_iter().map(of_interface).collect(),
    }
}

fn of_interface(interface: Interface) -> NetworkInterfaceUsage {
    let value = |value| Some(UInt64Value { value });
    NetworkInterfaceUsage {
        name: interface.name,
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    }
}

fn parse(text: &str) -> Vec<Interface> {
    text.lines()
        .filter_map(interface)
        .filter(|interface| interface.name != "lo")
        .collect()
}

/// A line of `/proc/net/dev`: name, then eight counters for each direction. The two lines of
/// headings have no numbers.
fn interface(line: &str) -> Option<Interface> {
    // A name may hold a colon (that of an alias), a number cannot.
    let (name, counters) = line.rsplit_once(':')?;
    let counters: Vec<u64> = counters
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let traffic = |first: usize| {
        Some(Traffic {
            bytes: *counters.get(first)?,
            packets: *counters.get(first + 1)?,
            errors: *counters.get(first + 2)?,
            dropped: *counters.get(first + 3)?,
        })
    };
    Some(Interface {
        name: name.trim().to_owned(),
        received: traffic(0)?,
        sent: traffic(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0: 1468421    1021    3    4    0     0          0         0   932118     877    5    6    0     0       0          0
net1:0:1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0
";

    #[test]
    fn every_interface_but_loopback_is_read() {
        let read = parse(SHOWN);
        let names: Vec<_> = read.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["eth0", "net1:0"]);
        let expected = Interface {
            name: "eth0".to_owned(),
            received: Traffic {
                bytes: 1_468_421,
                packets: 1021,
                errors: 3,
                dropped: 4,
            },
            sent: Traffic {
                bytes: 932_118,
                packets: 877,
                errors: 5,
                dropped: 6,
            },
        };
        assert_eq!(read[0], expected);
        assert_eq!(read[1].sent.bytes, 3);
    }

    #[test]
    fn addresses_are_those_that_others_reach() {
        let tree = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 10.88.0.0/16 2 0 2
        |-- 10.88.0.0
           /16 link UNICAST
        |-- 10.88.0.7
           /32 host LOCAL
        |-- 10.88.255.255
           /32 link BROADCAST
Local:
  |-- 10.88.0.7
     /32 host LOCAL
";
        assert_eq!(local_v4(tree), ["10.88.0.7".parse::<IpAddr>().unwrap()]);
        let six = "\
fd000000000000000000000000000002 04 40 00 82     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
";
        assert_eq!(global_v6(six), ["fd00::2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn this_kernel_writes_what_is_understood() {
        addresses(rustix::process::getpid()).unwrap();
        interfaces(rustix::process::getpid()).unwrap();
        let own = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        assert_eq!(
            own.lines().filter_map(interface).count(),
            own.lines().count() - 2
        );
    }
}
