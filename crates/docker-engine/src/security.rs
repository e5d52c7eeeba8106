//! A container's security context as Docker's `--security-opt` has it.

use std::path::Path;

use rustix::thread::CapabilitySet;
use slipway_cri_api::v1::{Capability, LinuxContainerSecurityContext, SeLinuxOption};
use slipway_engine::{Error, Profile, Result};

/// The capabilities that every Docker knows: 20.10 knows none after `CAP_AUDIT_READ`.
const KNOWN_TO_ALL: CapabilitySet = CapabilitySet::from_bits_retain((1 << 38) - 1);

/// All options of a context. Reads the seccomp profile that it names, so it blocks.
pub(crate) fn options(security: &LinuxContainerSecurityContext) -> Result<Vec<String>> {
    let mut options = Vec::new();
    if security.no_new_privs {
        options.push("no-new-privileges".to_owned());
    }
    options.extend(selinux(security.selinux_options.as_ref()));
    if !security.privileged {
        options.extend(apparmor(security)?);
        options.extend(seccomp(security)?);
    }
    Ok(options)
}

/// None asked for is none, as CRI has it; Docker by itself would take its default one.
fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Option<String>> {
    match Profile::seccomp(security)? {
        Profile::Unspecified | Profile::Unconfined => Ok(Some("seccomp=unconfined".to_owned())),
        Profile::RuntimeDefault => Ok(None),
        Profile::Localhost(path) => Ok(Some(format!("seccomp={}", seccomp_profile(&path)?))),
    }
}

/// A profile of the node's own, in one line.
fn seccomp_profile(path: &str) -> Result<serde_json::Value> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        format!("security_context.seccomp: the profile {path} cannot be {what}: {error}")
    };
    if !Path::new(path).is_absolute() {
        return Err(Error::invalid(format!(
            "security_context.seccomp: localhost_ref {path:?} is not an absolute path; a kubelet \
             gives the one below its directory seccomp"
        )));
    }
    let text = std::fs::read(path).map_err(|error| Error::precondition(cannot("read", &error)))?;
    // Docker would find out when it starts the container, and not say which profile it is.
    slipway_seccomp::Profile::parse(&text)
        .and_then(|profile| profile.check_actions())
        .map_err(|error| Error::invalid(cannot("used", &error)))?;
    let profile =
        serde_json::from_slice(&text).map_err(|error| Error::invalid(cannot("used", &error)))?;
    Ok(profile)
}

fn apparmor(security: &LinuxContainerSecurityContext) -> Result<Option<String>> {
    Ok(match Profile::apparmor(security)? {
        // Docker applies its default one by itself, where the kernel has AppArmor.
        Profile::Unspecified | Profile::RuntimeDefault => None,
        Profile::Unconfined => Some("apparmor=unconfined".to_owned()),
        Profile::Localhost(name) if is_loaded(&name) => Some(format!("apparmor={name}")),
        Profile::Localhost(name) => {
            return Err(Error::precondition(format!(
                "security_context.apparmor: the profile {name:?} is not loaded on this node, or its \
                 kernel has no AppArmor; load it with apparmor_parser(8)"
            )));
        }
    })
}

/// Whether the kernel has a profile in its list, `name (mode)` a line.
fn is_loaded(name: &str) -> bool {
    let profiles = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles");
    let profiles = profiles.unwrap_or_default();
    let mut names = profiles.lines().filter_map(|line| line.rsplit_once(" ("));
    names.any(|(loaded, _)| loaded == name)
}

/// Capabilities to add and to drop, in Docker's words. Where dockerd has not got all itself, all are
/// those that it has.
pub(crate) fn capabilities(
    asked: Capability,
    dockerd: CapabilitySet,
) -> Result<(Vec<String>, Vec<String>)> {
    const FIELD: &str = "security_context.capabilities";
    let Capability {
        add_capabilities: add,
        drop_capabilities: drop,
        ..
    } = asked;
    for name in add.iter().filter(|name| !is_all(name)) {
        if !dockerd.contains(named(name, "add_capabilities")?) {
            return Err(Error::precondition(format!(
                "{FIELD}.add_capabilities names {name:?}, which dockerd cannot give: it was \
                 started without it"
            )));
        }
    }
    let mut dropped = CapabilitySet::empty();
    for name in drop.iter().filter(|name| !is_all(name)) {
        dropped |= named(name, "drop_capabilities")?;
    }
    let known = CapabilitySet::all().iter_names();
    let every: CapabilitySet = known.map(|(_, one)| one).collect();
    if dockerd.contains(every) || !add.iter().any(|name| is_all(name)) {
        return Ok((add, drop));
    }
    let left = (dockerd & KNOWN_TO_ALL) - dropped;
    let left = left.iter_names();
    let left = left.map(|(name, _)| name.to_owned()).collect();
    Ok((left, vec!["ALL".to_owned()]))
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn named(name: &str, field: &str) -> Result<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    CapabilitySet::from_name(upper.strip_prefix("CAP_").unwrap_or(&upper)).ok_or_else(|| {
        Error::invalid(format!(
            "security_context.capabilities.{field} names {name:?}, which is no Linux capability; \
             see capabilities(7)"
        ))
    })
}

/// The parts of a label that are asked for. Docker chooses the others, and leaves all of them where
/// there is no SELinux.
pub(crate) fn selinux(options: Option<&SeLinuxOption>) -> Vec<String> {
    let Some(options) = options else {
        return Vec::new();
    };
    [
        ("user", &options.user),
        ("role", &options.role),
        ("type", &options.r#type),
        ("level", &options.level),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| format!("label={key}:{value}"))
    .collect()
}

#[cfg(test)]
#[expect(deprecated, reason = "kubelets still send it")]
mod tests {
    use slipway_cri_api::v1::SecurityProfile;
    use slipway_cri_api::v1::security_profile::ProfileType;

    use super::*;

    fn of(seccomp: Option<(ProfileType, &str)>, deprecated: &str) -> Result<Vec<String>> {
        options(&LinuxContainerSecurityContext {
            seccomp: seccomp.map(|(kind, reference)| SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: reference.to_owned(),
            }),
            seccomp_profile_path: deprecated.to_owned(),
            ..LinuxContainerSecurityContext::default()
        })
    }

    #[test]
    fn seccomp_is_off_unless_it_is_asked_for() {
        let none: [&str; 0] = [];
        assert_eq!(of(None, "").unwrap(), ["seccomp=unconfined"]);
        assert_eq!(
            of(Some((ProfileType::RuntimeDefault, "")), "").unwrap(),
            none
        );
        assert_eq!(of(None, "docker/default").unwrap(), none);
        let profile = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(profile.path(), "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }").unwrap();
        let path = profile.path().to_str().unwrap();
        let own = ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"];
        assert_eq!(of(Some((ProfileType::Localhost, path)), "").unwrap(), own);
        assert_eq!(of(None, &format!("localhost/{path}")).unwrap(), own);
    }

    #[test]
    fn a_profile_that_cannot_be_used_is_named() {
        for (profile, deprecated, word) in [
            (Some((ProfileType::Localhost, "")), "", "localhost_ref"),
            (Some((ProfileType::Localhost, "a.json")), "", "absolute"),
            (
                Some((ProfileType::Localhost, "/not/there.json")),
                "",
                "/not/there.json",
            ),
            (None, "default", "seccomp"),
        ] {
            let error = of(profile, deprecated).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn all_capabilities_are_those_that_dockerd_has() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let asked = |add: &[&str], drop: &[&str]| Capability {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            add_ambient_capabilities: Vec::new(),
        };
        let (all, two) = (
            CapabilitySet::all(),
            CapabilitySet::CHOWN | CapabilitySet::SYS_TIME,
        );
        for (add, drop, dockerd, expected) in [
            (
                &["ALL"][..],
                &["CHOWN"][..],
                all,
                (list(&["ALL"]), list(&["CHOWN"])),
            ),
            (
                &["all"],
                &["cap_chown"],
                two,
                (list(&["SYS_TIME"]), list(&["ALL"])),
            ),
            (
                &["CAP_CHOWN"],
                &["ALL"],
                two,
                (list(&["CAP_CHOWN"]), list(&["ALL"])),
            ),
        ] {
            assert_eq!(capabilities(asked(add, drop), dockerd).unwrap(), expected);
        }
        for (add, drop, word) in [
            (&["SYS_EVERYTHING"][..], &[][..], "add_capabilities"),
            (&[], &["SYS_EVERYTHING"], "drop_capabilities"),
            (&["SYS_ADMIN"], &[], "started without it"),
        ] {
            let error = capabilities(asked(add, drop), two).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn every_option_that_is_asked_for_is_there() {
        let all = options(&LinuxContainerSecurityContext {
            no_new_privs: true,
            apparmor_profile: "unconfined".to_owned(),
            selinux_options: Some(slipway_cri_api::v1::SeLinuxOption {
                level: "s0:c1,c2".to_owned(),
                ..Default::default()
            }),
            ..LinuxContainerSecurityContext::default()
        });
        assert_eq!(
            all.unwrap(),
            [
                "no-new-privileges",
                "label=level:s0:c1,c2",
                "apparmor=unconfined",
                "seccomp=unconfined"
            ]
        );
    }
}
