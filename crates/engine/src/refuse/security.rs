//! Security contexts of containers.

use std::path::Path;

use slipway_cri_api::v1::{Int64Value, LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use crate::{Error, Result};

/// Refuses users and groups that are no numbers of any, a group without a user, an unknown policy of
/// supplemental groups, and paths that are not absolute.
///
/// # Errors
///
/// [`crate::Kind::InvalidArgument`].
pub fn security(security: &LinuxContainerSecurityContext) -> Result<()> {
    let value = |id: &Option<Int64Value>| id.as_ref().map(|id| id.value);
    let user = value(&security.run_as_user);
    if let Some(user) = user.filter(|&user| u32::try_from(user).is_err()) {
        return Err(Error::invalid(format!(
            "security_context.run_as_user is {user}, which is not a user number (0 to 4294967295)"
        )));
    }
    let group = value(&security.run_as_group);
    if group.is_some() && user.is_none() && security.run_as_username.is_empty() {
        return Err(Error::invalid(
            "security_context.run_as_group is set without run_as_user or run_as_username; CRI \
             wants one of them beside it",
        ));
    }
    let groups = group.map(|group| ("run_as_group", group)).into_iter();
    let more = security.supplemental_groups.iter();
    for (field, group) in groups.chain(more.map(|&group| ("supplemental_groups", group))) {
        if u32::try_from(group).is_err() {
            return Err(Error::invalid(format!(
                "security_context.{field} has {group}, which is not a group number (0 to \
                 4294967295)"
            )));
        }
    }
    groups_policy(security.supplemental_groups_policy)?;
    for (field, paths) in [
        ("masked_paths", &security.masked_paths),
        ("readonly_paths", &security.readonly_paths),
    ] {
        if let Some(path) = paths.iter().find(|path| !Path::new(path).is_absolute()) {
            return Err(Error::invalid(format!(
                "security_context.{field} has {path:?}, which is not an absolute path"
            )));
        }
    }
    Ok(())
}

/// Refuses a policy of supplemental groups that CRI does not have.
///
/// # Errors
///
/// [`crate::Kind::InvalidArgument`].
pub fn groups_policy(policy: i32) -> Result<()> {
    match SupplementalGroupsPolicy::try_from(policy) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(format!(
            "security_context.supplemental_groups_policy {policy} is unknown"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_honoured_is_refused_by_name() {
        let id = |value| Some(Int64Value { value });
        let default = LinuxContainerSecurityContext::default;
        for (security, words) in [
            (
                LinuxContainerSecurityContext {
                    run_as_user: id(-1),
                    ..default()
                },
                "run_as_user is -1",
            ),
            (
                LinuxContainerSecurityContext {
                    run_as_group: id(7),
                    ..default()
                },
                "run_as_group is set without run_as_user",
            ),
            (
                LinuxContainerSecurityContext {
                    run_as_user: id(0),
                    run_as_group: id(1 << 32),
                    ..default()
                },
                "run_as_group has 4294967296",
            ),
            (
                LinuxContainerSecurityContext {
                    supplemental_groups: vec![0, -3],
                    ..default()
                },
                "supplemental_groups has -3",
            ),
            (
                LinuxContainerSecurityContext {
                    supplemental_groups_policy: 5,
                    ..default()
                },
                "supplemental_groups_policy 5",
            ),
            (
                LinuxContainerSecurityContext {
                    masked_paths: vec!["proc/kcore".to_owned()],
                    ..default()
                },
                "masked_paths has \"proc/kcore\"",
            ),
        ] {
            let error = super::security(&security).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        security(&default()).unwrap();
    }
}
