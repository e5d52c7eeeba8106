//! `linux.resources`: what the container's cgroup was told already, for runtimes that set it again
//! or make a machine of that size.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
};
use slipway_cgroup::{Access, DeviceKind, DeviceRule, Resources};
use slipway_engine::Result;

use super::built;

/// Limits on swap and on huge pages are left to the daemon, which knows to leave them out where
/// the kernel does not have them; a runtime would fail.
pub(super) fn of(resources: &Resources, devices: &[DeviceRule]) -> Result<LinuxResources> {
    let mut described = LinuxResources::default();
    let devices = devices.iter().map(device).collect::<Result<_>>()?;
    described.set_devices(Some(devices));
    if let Some(limit) = resources.memory_limit {
        let memory = LinuxMemoryBuilder::default().limit(limit).build();
        described.set_memory(Some(memory.map_err(built)?));
    }
    let mut cpu = LinuxCpuBuilder::default().build().map_err(built)?;
    let untouched = cpu.clone();
    cpu.set_shares(resources.cpu_shares);
    cpu.set_quota(resources.cpu_quota);
    cpu.set_period(resources.cpu_period);
    cpu.set_cpus(resources.cpuset_cpus.clone());
    cpu.set_mems(resources.cpuset_mems.clone());
    if cpu != untouched {
        described.set_cpu(Some(cpu));
    }
    if let Some(limit) = resources.pids_limit {
        let pids = LinuxPidsBuilder::default().limit(limit).build();
        described.set_pids(Some(pids.map_err(built)?));
    }
    if !resources.unified.is_empty() {
        let unified: HashMap<_, _> = resources.unified.clone().into_iter().collect();
        described.set_unified(Some(unified));
    }
    Ok(described)
}

fn device(rule: &DeviceRule) -> Result<LinuxDeviceCgroup> {
    let mut device = LinuxDeviceCgroupBuilder::default()
        .allow(rule.allow)
        .typ(match rule.kind {
            DeviceKind::All => LinuxDeviceType::A,
            DeviceKind::Char => LinuxDeviceType::C,
            DeviceKind::Block => LinuxDeviceType::B,
        })
        .access(letters(rule.access))
        .build()
        .map_err(built)?;
    device.set_major(rule.major);
    device.set_minor(rule.minor);
    Ok(device)
}

fn letters(access: Access) -> String {
    [(access.read, 'r'), (access.write, 'w'), (access.mknod, 'm')]
        .into_iter()
        .filter_map(|(given, letter)| given.then_some(letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_limits_are_described_as_they_are_set() {
        let resources = Resources {
            cpu_shares: Some(512),
            memory_limit: Some(1 << 20),
            pids_limit: Some(9),
            ..Resources::default()
        };
        let rule = DeviceRule {
            allow: false,
            kind: DeviceKind::Char,
            major: Some(1),
            minor: None,
            access: Access {
                read: true,
                write: false,
                mknod: true,
            },
        };
        let described = serde_json::to_value(of(&resources, &[rule]).unwrap()).unwrap();
        assert_eq!(
            described,
            serde_json::json!({
                "devices": [{"allow": false, "type": "c", "major": 1, "access": "rm"}],
                "memory": {"limit": 1 << 20},
                "cpu": {"shares": 512},
                "pids": {"limit": 9},
            })
        );
        let nothing = of(&Resources::default(), &[]).unwrap();
        assert_eq!(nothing.cpu(), &None, "what is not limited is not spoken of");
    }
}
