//! Device rules as unit properties, for v1: there systemd writes the devices controller's files
//! itself whenever it comes by. On v2 devices are guarded by a program that it does not touch.

use std::fs;

use super::{Property, Value};
use crate::device::{self, Policy, Rule};
use crate::{DeviceKind, DeviceRule, Error};

/// `DevicePolicy` and `DeviceAllow` for the rules (systemd.resource-control(5)). Reads
/// `/proc/devices` for rules about all devices of one major number.
pub fn device_properties(rules: &[DeviceRule]) -> Result<Vec<Property>, Error> {
    let devices = fs::read_to_string("/proc/devices").unwrap_or_default();
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let policy = Policy::reduce(&device::normalise(rules)?)?;
    if policy.allow {
        // systemd cannot except from "everything"; it writes that, and nothing after it.
        return Ok(vec![Property {
            name: "DevicePolicy",
            value: Value::Text("auto".to_owned()),
        }]);
    }
    let allowed = policy.exceptions.iter().filter_map(|rule| {
        let access = rule.access.to_string();
        Some((specifier(rule, &devices)?, access))
    });
    Ok(vec![
        Property {
            name: "DevicePolicy",
            value: Value::Text("strict".to_owned()),
        },
        Property {
            name: "DeviceAllow",
            value: Value::Pairs(allowed.collect()),
        },
    ])
}

/// How systemd names the devices of a rule; none for a major number that this kernel does not have.
fn specifier(rule: &Rule, devices: &str) -> Option<String> {
    let (kind, heading) = match rule.kind {
        DeviceKind::Block => ("block", "Block devices:"),
        _ => ("char", "Character devices:"),
    };
    match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (None, _) => Some(format!("{kind}-*")),
        (Some(major), None) => {
            let mut lines = devices.lines().skip_while(|line| *line != heading).skip(1);
            let name = lines
                .by_ref()
                .take_while(|line| !line.is_empty())
                .find_map(|line| {
                    let (number, name) = line.trim().split_once(' ')?;
                    (number.parse() == Ok(major)).then(|| name.trim())
                })?;
            Some(format!("{kind}-{name}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::rule;

    #[test]
    fn rules_are_named_as_systemd_does() {
        use DeviceKind::{All, Block, Char};
        let rules = [
            rule(false, All, -1, -1, "rwm"),
            rule(true, Char, -1, -1, "m"),
            rule(true, Char, 1, 3, "rwm"),
            rule(true, Block, 8, 0, "r"),
        ];
        let properties = device_properties(&rules).unwrap();
        let pairs = [
            ("char-*", "m"),
            ("/dev/char/1:3", "rwm"),
            ("/dev/block/8:0", "r"),
        ];
        let pairs = pairs.map(|(name, access)| (name.to_owned(), access.to_owned()));
        assert_eq!(properties[0].value, Value::Text("strict".to_owned()));
        assert_eq!(properties[1].value, Value::Pairs(pairs.into()));
        let all = device_properties(&[rule(true, All, -1, -1, "rwm")]).unwrap();
        assert_eq!(all[0].value, Value::Text("auto".to_owned()));
        assert_eq!(device_properties(&[]).unwrap(), []);
    }

    #[test]
    fn a_major_number_has_a_name() {
        let devices = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  1 ramdisk\n";
        let of = |kind, major| {
            let rules = device::normalise(&[rule(true, kind, major, -1, "r")]).unwrap();
            specifier(&rules[0], devices)
        };
        assert_eq!(of(DeviceKind::Char, 136).as_deref(), Some("char-pts"));
        assert_eq!(of(DeviceKind::Block, 1).as_deref(), Some("block-ramdisk"));
        assert_eq!(of(DeviceKind::Block, 136), None);
    }
}
