//! Capabilities (capabilities(7)): the peers' default set, with what a request adds and drops.

use std::str::FromStr as _;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use rustix::thread::CapabilitySet;
use slipway_cri_api::v1::LinuxContainerSecurityContext;
use slipway_engine::{Error, Result};

const DEFAULT: &[Capability] = &[
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

const BEYOND_DEFAULT: &[Capability] = &[
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::DacReadSearch,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::NetAdmin,
    Capability::NetBroadcast,
    Capability::Perfmon,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// What a process is given.
struct Granted {
    bounding: Capabilities,
    ambient: Capabilities,
}

/// The sets of a container's process. Inheritable stays empty unless something is ambient, so that
/// files with inheritable capabilities give nothing (CVE-2022-24769).
pub(super) fn of(security: &LinuxContainerSecurityContext) -> Result<LinuxCapabilities> {
    let Granted { bounding, ambient } = granted(security)?;
    LinuxCapabilitiesBuilder::default()
        .bounding(bounding.clone())
        .effective(bounding.clone())
        .permitted(bounding)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(super::built)
}

/// The names of a container's capabilities, with the prefix `CAP_`.
pub(super) fn names(security: &LinuxContainerSecurityContext) -> Result<Vec<String>> {
    let granted = granted(security)?;
    Ok(granted
        .bounding
        .iter()
        .map(|capability| format!("CAP_{capability}"))
        .collect())
}

fn granted(security: &LinuxContainerSecurityContext) -> Result<Granted> {
    let request = security.capabilities.clone().unwrap_or_default();
    let available = |set: &[Capability]| -> Capabilities {
        set.iter()
            .copied()
            .filter(|one| is_available(*one))
            .collect()
    };
    let all = || -> Capabilities {
        let (default, beyond) = (available(DEFAULT), available(BEYOND_DEFAULT));
        default.union(&beyond).copied().collect()
    };
    // ALL first, in either list, so that "drop ALL, add one" leaves one.
    let mut bounding = if contains_all(&request.drop_capabilities) {
        Capabilities::new()
    } else if security.privileged || contains_all(&request.add_capabilities) {
        all()
    } else {
        available(DEFAULT)
    };
    for name in request.add_capabilities.iter().filter(|name| !is_all(name)) {
        bounding.insert(addable(name, "add_capabilities")?);
    }
    for name in request
        .drop_capabilities
        .iter()
        .filter(|name| !is_all(name))
    {
        bounding.remove(&parse(name, "drop_capabilities")?);
    }
    let mut ambient = Capabilities::new();
    for name in &request.add_ambient_capabilities {
        if is_all(name) {
            ambient.extend(all());
        } else {
            ambient.insert(addable(name, "add_ambient_capabilities")?);
        }
    }
    bounding.extend(&ambient);
    Ok(Granted { bounding, ambient })
}

/// Whether this node can give a capability: the kernel knows it, and slipway has it.
fn is_available(capability: Capability) -> bool {
    CapabilitySet::from_name(&capability.to_string())
        .is_some_and(|one| rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false))
}

fn addable(name: &str, field: &str) -> Result<Capability> {
    let capability = parse(name, field)?;
    if is_available(capability) {
        return Ok(capability);
    }
    Err(Error::precondition(format!(
        "{field} names {name:?}, which this node cannot give: its kernel does not know it, or \
         slipway itself was started without it"
    )))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn contains_all(names: &[String]) -> bool {
    names.iter().any(|name| is_all(name))
}

fn parse(name: &str, field: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).map_err(|_| {
        Error::invalid(format!(
            "{field} names {name:?}, which is no Linux capability; see capabilities(7)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::Capability as Request;
    use slipway_engine::Kind;

    use super::*;

    fn bounding(add: &[&str], drop: &[&str], privileged: bool) -> Capabilities {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let security = LinuxContainerSecurityContext {
            privileged,
            capabilities: Some(Request {
                add_capabilities: list(add),
                drop_capabilities: list(drop),
                add_ambient_capabilities: Vec::new(),
            }),
            ..Default::default()
        };
        of(&security).unwrap().bounding().clone().unwrap()
    }

    #[test]
    fn requests_add_to_and_drop_from_the_default() {
        let everything = DEFAULT
            .iter()
            .chain(BEYOND_DEFAULT)
            .filter(|one| is_available(**one))
            .count();
        assert_eq!(DEFAULT.len() + BEYOND_DEFAULT.len(), 41);
        assert_eq!(bounding(&[], &[], false).len(), DEFAULT.len());
        assert!(bounding(&["NET_ADMIN"], &[], false).contains(&Capability::NetAdmin));
        assert!(bounding(&["CAP_NET_ADMIN"], &[], false).contains(&Capability::NetAdmin));
        assert!(!bounding(&[], &["chown"], false).contains(&Capability::Chown));
        assert_eq!(
            bounding(&["SYS_TIME"], &["ALL"], false),
            [Capability::SysTime].into()
        );
        assert_eq!(bounding(&["ALL"], &[], false).len(), everything);
        assert_eq!(
            bounding(&["ALL"], &["SYS_TIME"], false).len(),
            everything - 1
        );
        assert_eq!(bounding(&[], &[], true).len(), everything);
        assert!(bounding(&[], &["ALL"], true).is_empty());
    }

    #[test]
    fn what_is_ambient_is_in_every_set() {
        let security = LinuxContainerSecurityContext {
            capabilities: Some(Request {
                drop_capabilities: vec!["ALL".to_owned()],
                add_ambient_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let sets = of(&security).unwrap();
        let one = Some([Capability::NetBindService].into());
        for set in [
            sets.bounding(),
            sets.effective(),
            sets.permitted(),
            sets.inheritable(),
            sets.ambient(),
        ] {
            assert_eq!(*set, one);
        }
        assert_eq!(names(&security).unwrap(), ["CAP_NET_BIND_SERVICE"]);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let security = LinuxContainerSecurityContext {
            capabilities: Some(Request {
                add_capabilities: vec!["NET_ADMINS".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let error = of(&security).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("NET_ADMINS"), "{error}");
    }
}
