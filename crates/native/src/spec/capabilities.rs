//! Capabilities (capabilities(7)): the peers' default set, with what a request adds and drops.

use std::str::FromStr as _;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
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

fn all() -> Capabilities {
    DEFAULT.iter().chain(BEYOND_DEFAULT).copied().collect()
}

/// The sets of a container's process. Inheritable stays empty unless something is ambient, so that
/// files with inheritable capabilities give nothing (CVE-2022-24769).
pub(super) fn of(security: &LinuxContainerSecurityContext) -> Result<LinuxCapabilities> {
    let request = security.capabilities.clone().unwrap_or_default();
    let mut granted: Capabilities = if security.privileged {
        all()
    } else {
        DEFAULT.iter().copied().collect()
    };
    // ALL first, in either list, so that "drop ALL, add one" leaves one.
    if contains_all(&request.add_capabilities) {
        granted = all();
    }
    if contains_all(&request.drop_capabilities) {
        granted.clear();
    }
    for name in request.add_capabilities.iter().filter(|name| !is_all(name)) {
        granted.insert(parse(name, "add_capabilities")?);
    }
    for name in request
        .drop_capabilities
        .iter()
        .filter(|name| !is_all(name))
    {
        granted.remove(&parse(name, "drop_capabilities")?);
    }
    let ambient = request
        .add_ambient_capabilities
        .iter()
        .map(|name| parse(name, "add_ambient_capabilities"))
        .collect::<Result<Capabilities>>()?;
    granted.extend(&ambient);
    LinuxCapabilitiesBuilder::default()
        .bounding(granted.clone())
        .effective(granted.clone())
        .permitted(granted)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(super::built)
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
        assert_eq!(bounding(&[], &[], false).len(), DEFAULT.len());
        assert!(bounding(&["NET_ADMIN"], &[], false).contains(&Capability::NetAdmin));
        assert!(bounding(&["CAP_NET_ADMIN"], &[], false).contains(&Capability::NetAdmin));
        assert!(!bounding(&[], &["chown"], false).contains(&Capability::Chown));
        assert_eq!(
            bounding(&["SYS_TIME"], &["ALL"], false),
            [Capability::SysTime].into()
        );
        assert_eq!(bounding(&["ALL"], &[], false).len(), 41);
        assert_eq!(bounding(&["ALL"], &["SYS_TIME"], false).len(), 40);
        assert_eq!(bounding(&[], &[], true).len(), 41);
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
