//! Checks of security contexts that need nothing but the request.

use slipway_cri_api::v1::{LinuxContainerSecurityContext, PodSandboxConfig};
use slipway_engine::{Error, Profile, Result, refuse};

use super::capabilities;

/// Checks a pod's. No process of the pod's own is there to be confined; its containers say
/// themselves what they are to have.
#[expect(
    deprecated,
    reason = "kubelets before 1.25 still send the paths of profiles"
)]
pub(super) fn pod(config: &PodSandboxConfig) -> Result<()> {
    let Some(security) = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
    else {
        return Ok(());
    };
    Profile::of(
        security.seccomp.as_ref(),
        &security.seccomp_profile_path,
        ["seccomp", "seccomp_profile_path"],
    )?;
    Profile::of(security.apparmor.as_ref(), "", ["apparmor", ""])?;
    refuse::groups_policy(security.supplemental_groups_policy)?;
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(Error::invalid(
            "LinuxSandboxSecurityContext.run_as_group is set without run_as_user; CRI wants both",
        ));
    }
    Ok(())
}

/// Checks a container's.
pub(super) fn container(security: &LinuxContainerSecurityContext) -> Result<()> {
    Profile::seccomp(security)?;
    Profile::apparmor(security)?;
    capabilities::of(security)?;
    refuse::security(security)
}

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::{
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, SecurityProfile,
    };
    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn what_can_never_be_honoured_is_refused_by_name() {
        let unknown_profile = || {
            Some(SecurityProfile {
                profile_type: 7,
                localhost_ref: String::new(),
            })
        };
        let default = LinuxContainerSecurityContext::default;
        for (security, word) in [
            (
                LinuxContainerSecurityContext {
                    seccomp: unknown_profile(),
                    ..default()
                },
                "seccomp.profile_type 7",
            ),
            (
                LinuxContainerSecurityContext {
                    apparmor: unknown_profile(),
                    ..default()
                },
                "apparmor.profile_type 7",
            ),
        ] {
            let error = container(&security).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.to_string().contains(word), "{error}");
        }
        let config = PodSandboxConfig {
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    seccomp: unknown_profile(),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        assert!(pod(&config).is_err());
        assert!(pod(&PodSandboxConfig::default()).is_ok());
        assert!(container(&default()).is_ok());
    }
}
