//! A container's filter over system calls.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::OFlags;
use slipway_cri_api::v1::LinuxContainerSecurityContext;
use slipway_engine::{Error, Profile, Result};
use slipway_seccomp::{Architecture, Filter, KernelVersion, Program, Surroundings, compile};

/// How long a profile may be, in bytes: the longest known ones have some ten thousand.
const MAX_PROFILE: u64 = 1 << 20;

/// A filter: as `config.json` has it, and as the kernel takes it.
#[derive(Debug, Clone)]
pub(crate) struct Seccomp {
    pub(super) section: LinuxSeccomp,
    /// For the file [`slipway_shim::protocol::SECCOMP_PROGRAM`].
    pub(crate) program: Vec<u8>,
}

/// Makes the filter of a container that has these capabilities. Reads the profile's file, so it
/// blocks.
pub(super) fn of(
    security: &LinuxContainerSecurityContext,
    capabilities: &[String],
) -> Result<Option<Seccomp>> {
    if security.privileged {
        return Ok(None);
    }
    // Without a word it is no profile: a kubelet that wants its default says so.
    let profile = match Profile::seccomp(security)? {
        Profile::Unspecified | Profile::Unconfined => return Ok(None),
        Profile::RuntimeDefault => None,
        Profile::Localhost(path) => Some(path),
    };
    let machine = Architecture::of_this_machine().ok_or_else(|| {
        Error::precondition(
            "security_context.seccomp: slipway knows no system calls of this machine; only \
             Unconfined can be had",
        )
    })?;
    let surroundings = Surroundings {
        machine,
        kernel: kernel()?,
        capabilities,
    };
    let made = match &profile {
        None => slipway_seccomp::Profile::runtime_default()
            .resolve(&surroundings)
            .and_then(|filter| Ok((compile(&filter, machine)?, filter))),
        Some(path) => slipway_seccomp::Profile::parse(&read(path)?)
            .and_then(|profile| profile.resolve(&surroundings))
            .and_then(|filter| Ok((compile(&filter, machine)?, filter))),
    };
    let (program, filter) = made.map_err(|error| {
        let which = profile.as_deref().unwrap_or("the runtime's default");
        Error::invalid(format!(
            "security_context.seccomp: the profile {which} cannot be used: {error}"
        ))
    })?;
    Ok(Some(seccomp(&program, &filter)?))
}

fn seccomp(program: &Program, filter: &Filter) -> Result<Seccomp> {
    let section = serde_json::to_value(filter)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::internal(format!("linux.seccomp cannot be written: {error}")))?;
    Ok(Seccomp {
        section,
        program: program.to_bytes(),
    })
}

fn read(path: &str) -> Result<Vec<u8>> {
    let doing = |error: &dyn std::fmt::Display| {
        format!("security_context.seccomp: the profile {path} cannot be read: {error}")
    };
    if !Path::new(path).is_absolute() {
        return Err(Error::invalid(format!(
            "security_context.seccomp: localhost_ref {path:?} is not an absolute path; a kubelet \
             gives the one below its directory seccomp"
        )));
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = || {
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_PROFILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = open().map_err(|error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Error::precondition(format!(
            "{}; put it there, or name one that is on this node",
            doing(&error)
        )),
        _ => Error::precondition(doing(&error)),
    })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_PROFILE) {
        return Err(Error::invalid(doing(&format!(
            "it is longer than {MAX_PROFILE} bytes"
        ))));
    }
    Ok(bytes)
}

fn kernel() -> Result<KernelVersion> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    KernelVersion::parse(&release)
        .ok_or_else(|| Error::internal(format!("the kernel's release is {release:?}")))
}

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::SecurityProfile;
    use slipway_engine::Kind;

    use super::*;

    fn asking(profile_type: i32, reference: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            seccomp: Some(SecurityProfile {
                profile_type,
                localhost_ref: reference.to_owned(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn who_asks_for_no_profile_or_is_privileged_has_none() {
        assert!(of(&asking(1, ""), &[]).unwrap().is_none());
        assert!(
            of(&LinuxContainerSecurityContext::default(), &[])
                .unwrap()
                .is_none()
        );
        let privileged = LinuxContainerSecurityContext {
            privileged: true,
            ..asking(0, "")
        };
        assert!(of(&privileged, &[]).unwrap().is_none());
    }

    #[test]
    fn the_default_is_in_both_forms() {
        let seccomp = of(&asking(0, ""), &[]).unwrap().unwrap();
        assert!(!seccomp.program.is_empty());
        assert_eq!(seccomp.program.len() % 8, 0);
        let rules = seccomp.section.syscalls().as_ref().unwrap();
        assert!(
            rules
                .iter()
                .any(|rule| rule.names().contains(&"openat".to_owned()))
        );
    }

    #[test]
    fn a_profile_that_cannot_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broken.json");
        std::fs::write(&path, "{\n  \"defaultAction\": \"SCMP_ACT_SOME\"\n}").unwrap();
        let path = path.display().to_string();
        let error = of(&asking(2, &path), &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        for word in ["broken.json", "SCMP_ACT_SOME", "line 2"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        let missing = of(&asking(2, "/nowhere/x.json"), &[]).unwrap_err();
        assert_eq!(missing.kind(), Kind::FailedPrecondition);
        assert!(missing.to_string().contains("/nowhere/x.json"), "{missing}");
        let relative = of(&asking(2, "x.json"), &[]).unwrap_err();
        assert_eq!(relative.kind(), Kind::InvalidArgument);
        let device = of(&asking(2, "/dev/zero"), &[]).unwrap_err();
        assert!(device.to_string().contains("not a file"), "{device}");
    }
}
