//! A container's security context as Docker's `--security-opt` has it.

use std::path::Path;

use slipway_cri_api::v1::LinuxContainerSecurityContext;
use slipway_engine::{Error, Profile, Result};

/// All options of a context. Reads the seccomp profile that it names, so it blocks.
pub(crate) fn options(security: &LinuxContainerSecurityContext) -> Result<Vec<String>> {
    let mut options = Vec::new();
    if security.no_new_privs {
        options.push("no-new-privileges".to_owned());
    }
    options.extend(selinux(security));
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
        Profile::Localhost(path) => {
            let path = Path::new(&path);
            let refused = |reason: String| {
                Error::invalid(format!(
                    "security_context.seccomp: the profile {} cannot be used: {reason}",
                    path.display()
                ))
            };
            if !path.is_absolute() {
                return Err(refused("it is not an absolute path".to_owned()));
            }
            let text = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
            let profile: serde_json::Value =
                serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
            Ok(Some(format!("seccomp={profile}")))
        }
    }
}

fn apparmor(security: &LinuxContainerSecurityContext) -> Result<Option<String>> {
    Ok(match Profile::apparmor(security)? {
        // Docker applies its default one by itself, where the kernel has AppArmor.
        Profile::Unspecified | Profile::RuntimeDefault => None,
        Profile::Unconfined => Some("apparmor=unconfined".to_owned()),
        Profile::Localhost(name) => Some(format!("apparmor={name}")),
    })
}

fn selinux(security: &LinuxContainerSecurityContext) -> Vec<String> {
    let Some(options) = &security.selinux_options else {
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
    fn every_option_that_is_asked_for_is_there() {
        let all = options(&LinuxContainerSecurityContext {
            no_new_privs: true,
            apparmor_profile: "localhost/mine".to_owned(),
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
                "apparmor=mine",
                "seccomp=unconfined"
            ]
        );
    }
}
