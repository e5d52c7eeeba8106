//! Which profile a security module is to apply, as CRI has it in two forms.

use slipway_cri_api::v1::security_profile::ProfileType;
use slipway_cri_api::v1::{LinuxContainerSecurityContext, SecurityProfile};

use crate::{Error, Result};

/// What is asked for (CRI `SecurityProfile`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// Nothing is.
    Unspecified,
    /// The one that comes with the runtime.
    RuntimeDefault,
    /// None is to be applied.
    Unconfined,
    /// The node's own, by its path or name.
    Localhost(String),
}

impl Profile {
    /// The profile of system calls that a container asks for.
    ///
    /// # Errors
    /// As [`Profile::of`].
    #[expect(
        deprecated,
        reason = "kubelets before 1.25 still send the paths of profiles"
    )]
    pub fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Self> {
        Self::of(
            security.seccomp.as_ref(),
            &security.seccomp_profile_path,
            ["seccomp", "seccomp_profile_path"],
        )
    }

    /// The profile of AppArmor that a container asks for.
    ///
    /// # Errors
    /// As [`Profile::of`].
    #[expect(
        deprecated,
        reason = "kubelets before 1.31 send the profile as a string only"
    )]
    pub fn apparmor(security: &LinuxContainerSecurityContext) -> Result<Self> {
        Self::of(
            security.apparmor.as_ref(),
            &security.apparmor_profile,
            ["apparmor", "apparmor_profile"],
        )
    }

    /// Reads the field `name` of a security context, or where that is missing the deprecated one
    /// (`runtime/default`, `docker/default`, `unconfined`, `localhost/…`).
    ///
    /// # Errors
    /// `InvalidArgument` for what is none of these, by the field's name.
    pub fn of(
        profile: Option<&SecurityProfile>,
        deprecated: &str,
        [name, deprecated_name]: [&str; 2],
    ) -> Result<Self> {
        let Some(profile) = profile else {
            return match deprecated {
                "" => Ok(Self::Unspecified),
                "runtime/default" | "docker/default" => Ok(Self::RuntimeDefault),
                "unconfined" => Ok(Self::Unconfined),
                other => match other.strip_prefix("localhost/") {
                    Some(reference) if !reference.is_empty() => {
                        Ok(Self::Localhost(reference.to_owned()))
                    }
                    _ => Err(Error::invalid(format!(
                        "security_context.{deprecated_name} {other:?} is none of \
                         runtime/default, unconfined and localhost/<profile>"
                    ))),
                },
            };
        };
        match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(Self::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(Self::Unconfined),
            Ok(ProfileType::Localhost) if profile.localhost_ref.is_empty() => Err(Error::invalid(
                format!("security_context.{name} is Localhost, but its localhost_ref is empty"),
            )),
            Ok(ProfileType::Localhost) => Ok(Self::Localhost(profile.localhost_ref.clone())),
            Err(_) => Err(Error::invalid(format!(
                "security_context.{name}.profile_type {} is unknown",
                profile.profile_type
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn of(profile: Option<(i32, &str)>, deprecated: &str) -> Result<Profile> {
        let profile = profile.map(|(profile_type, localhost_ref)| SecurityProfile {
            profile_type,
            localhost_ref: localhost_ref.to_owned(),
        });
        let names = ["seccomp", "seccomp_profile_path"];
        Profile::of(profile.as_ref(), deprecated, names)
    }

    #[test]
    fn both_forms_are_read_and_the_newer_one_is_what_counts() {
        let localhost = |name: &str| Profile::Localhost(name.to_owned());
        for (profile, deprecated, expected) in [
            (None, "", Profile::Unspecified),
            (None, "runtime/default", Profile::RuntimeDefault),
            (None, "docker/default", Profile::RuntimeDefault),
            (None, "unconfined", Profile::Unconfined),
            (None, "localhost//a/b.json", localhost("/a/b.json")),
            (Some((0, "")), "unconfined", Profile::RuntimeDefault),
            (Some((1, "")), "runtime/default", Profile::Unconfined),
            (Some((2, "/a")), "", localhost("/a")),
        ] {
            assert_eq!(of(profile, deprecated).unwrap(), expected);
        }
    }

    #[test]
    fn nonsense_is_refused_by_the_fields_name() {
        for (profile, deprecated, word) in [
            (None, "localhost/", "seccomp_profile_path"),
            (None, "default", "seccomp_profile_path"),
            (Some((2, "")), "", "localhost_ref"),
            (Some((9, "")), "", "seccomp.profile_type 9"),
        ] {
            let error = of(profile, deprecated).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
