//! What an ADD gave a pod (CNI specification, section 5).

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::conflist::Version;

/// Says which version of CNI a result is of, where the plugin left it out.
pub(crate) fn stamp(result: &mut Value, version: Version) {
    if let Value::Object(fields) = result
        && fields
            .get("cniVersion")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        fields.insert("cniVersion".into(), json!(version.as_str()));
    }
}

/// A result of which nothing is known but the addresses.
pub(crate) fn of_addresses(addresses: &[IpAddr], version: Version) -> Value {
    let listed = addresses.iter().map(|address| match address {
        // Until version 0.4.0 the family was told as well.
        IpAddr::V4(address) => json!({ "version": "4", "address": format!("{address}/32") }),
        IpAddr::V6(address) => json!({ "version": "6", "address": format!("{address}/128") }),
    });
    let listed: Vec<Value> = listed.collect();
    json!({ "cniVersion": version.as_str(), "ips": listed })
}

/// The addresses of the interfaces in the sandbox, in the plugins' order. What belongs to the
/// node's end, and what only the pod itself can reach, is left out.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().into_iter().flatten();
    let mut addresses: Vec<IpAddr> = listed
        .filter(|ip| is_in_sandbox(result, ip))
        .filter_map(|ip| address(&ip["address"]))
        .collect();
    // Until version 0.2.0 there was one of each family at most, and both were the sandbox's.
    addresses.extend(
        ["ip4", "ip6"]
            .iter()
            .filter_map(|field| address(&result[field]["ip"])),
    );
    addresses.retain(|address| !address.is_loopback());
    addresses
}

fn is_in_sandbox(result: &Value, ip: &Value) -> bool {
    let Some(index) = ip["interface"].as_u64() else {
        return true;
    };
    let Some(interface) = usize::try_from(index)
        .ok()
        .and_then(|i| result["interfaces"].get(i))
    else {
        return false;
    };
    interface["sandbox"]
        .as_str()
        .is_some_and(|sandbox| !sandbox.is_empty())
}

/// The address in `address/prefix length`.
fn address(text: &Value) -> Option<IpAddr> {
    text.as_str()?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(result: &Value) -> Vec<String> {
        addresses(result).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_the_sandbox_has_addresses_of_the_pod() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "cni0"},
                {"name": "veth1", "sandbox": ""},
                {"name": "eth0", "sandbox": "/run/ns/net"},
                {"name": "lo", "sandbox": "/run/ns/net"},
            ],
            "ips": [
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.0.0.9/24", "interface": 1},
                {"address": "fd00::2/64", "interface": 2},
                {"address": "10.0.0.2/24", "interface": 2},
                {"address": "127.0.0.1/8", "interface": 3},
                {"address": "10.9.9.9/24", "interface": 7},
                {"address": "10.0.0.3/32"},
                {"address": "nonsense"},
            ],
        });
        assert_eq!(of(&result), ["fd00::2", "10.0.0.2", "10.0.0.3"]);
    }

    #[test]
    fn the_oldest_results_are_understood() {
        let result = json!({"ip4": {"ip": "10.1.2.3/24"}, "ip6": {"ip": "fd00::1/64"}});
        assert_eq!(of(&result), ["10.1.2.3", "fd00::1"]);
        assert!(of(&json!({"cniVersion": "1.0.0"})).is_empty());
        assert!(of(&json!({"ips": "none", "interfaces": 3})).is_empty());
    }

    #[test]
    fn addresses_alone_make_a_result() {
        let known: Vec<IpAddr> = ["10.0.0.2", "fd00::2"]
            .map(|address| address.parse().unwrap())
            .into();
        let list: crate::conflist::Conflist = serde_json::from_value(
            json!({"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "a"}]}),
        )
        .expect("valid");
        assert_eq!(addresses(&of_addresses(&known, list.version)), known);
    }

    #[test]
    fn a_result_gets_a_version_only_where_it_has_none() {
        let list: crate::conflist::Conflist = serde_json::from_value(
            json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "a"}]}),
        )
        .expect("valid");
        let mut without = json!({"ips": []});
        stamp(&mut without, list.version);
        assert_eq!(without["cniVersion"], "1.0.0");
        let mut with = json!({"cniVersion": "0.4.0"});
        stamp(&mut with, list.version);
        assert_eq!(with["cniVersion"], "0.4.0");
    }
}
