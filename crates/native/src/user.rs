//! Who a container's process runs as: the request's user, or the image's, looked up in the image's
//! own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use std::path::{Path, PathBuf};

use slipway_cri_api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use slipway_engine::{Error, Result};

use crate::rootfs;

/// A process's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, without doubles.
    pub(crate) groups: Vec<u32>,
}

/// Finds the user that `security` asks for, else the one of the image's config (`user`,
/// `user:group`, names or numbers), else root. Blocking.
pub(crate) fn resolve(
    image_user: &str,
    security: &LinuxContainerSecurityContext,
    layers: &[PathBuf],
) -> Result<User> {
    let accounts = Accounts { layers };
    let (user, image_group) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(number), _) => (number.value.to_string(), None),
        (None, "") => match image_user.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
            None => (image_user.to_owned(), None),
        },
        (None, name) => (name.to_owned(), None),
    };
    if security.run_as_group.is_some()
        && security.run_as_user.is_none()
        && security.run_as_username.is_empty()
    {
        return Err(Error::invalid(
            "run_as_group is set without run_as_user or run_as_username; CRI wants both",
        ));
    }

    let account = accounts.user(if user.is_empty() { "0" } else { &user })?;
    let gid = match (&security.run_as_group, image_group) {
        (Some(number), _) => group_number(number.value, "run_as_group")?,
        (None, Some(group)) => accounts.group(&group)?,
        (None, None) => account.gid,
    };
    let mut groups = vec![gid];
    for number in &security.supplemental_groups {
        groups.push(group_number(*number, "supplemental_groups")?);
    }
    if security.supplemental_groups_policy == SupplementalGroupsPolicy::Merge as i32
        && let Some(name) = &account.name
    {
        groups.extend(accounts.groups_of(name)?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|group| seen.insert(*group));
    Ok(User {
        uid: account.uid,
        gid,
        groups,
    })
}

fn group_number(number: i64, field: &str) -> Result<u32> {
    u32::try_from(number).map_err(|_| {
        Error::invalid(format!(
            "security_context.{field} has {number}, which is not a group number (0 to 4294967295)"
        ))
    })
}

struct Account {
    uid: u32,
    gid: u32,
    name: Option<String>,
}

struct Accounts<'a> {
    layers: &'a [PathBuf],
}

impl Accounts<'_> {
    fn lines(&self, path: &str) -> Result<Vec<Vec<String>>> {
        let content = rootfs::read(self.layers, Path::new(path))
            .map_err(|error| Error::internal(format!("{path} of the image: {error}")))?;
        Ok(String::from_utf8_lossy(&content.unwrap_or_default())
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                line.split(':')
                    .map(|field| field.trim().to_owned())
                    .collect()
            })
            .collect())
    }

    /// A user by name or by number. A number needs no entry; its group is then root's.
    fn user(&self, user: &str) -> Result<Account> {
        let number = user.parse::<u32>().ok();
        if number.is_none() && user.parse::<i64>().is_ok() {
            return Err(Error::invalid(format!(
                "run_as_user, or the image's user, {user} is not a user number (0 to 4294967295)"
            )));
        }
        let found = self.lines("/etc/passwd")?.into_iter().find_map(|fields| {
            let uid = fields.get(2)?.parse().ok()?;
            let gid = fields.get(3)?.parse().ok()?;
            let wanted = number.map_or(fields[0] == user, |number| number == uid);
            wanted.then(|| Account {
                uid,
                gid,
                name: Some(fields[0].clone()),
            })
        });
        match (found, number) {
            (Some(account), _) => Ok(account),
            (None, Some(uid)) => Ok(Account {
                uid,
                gid: 0,
                name: None,
            }),
            (None, None) => Err(Error::invalid(format!(
                "run_as_username, or the image's user, {user:?} is not in the image's /etc/passwd; \
                 use a number or an image that has it"
            ))),
        }
    }

    /// A group by name or by number.
    fn group(&self, group: &str) -> Result<u32> {
        if let Ok(number) = group.parse() {
            return Ok(number);
        }
        self.lines("/etc/group")?
            .into_iter()
            .find(|fields| fields[0] == group)
            .and_then(|fields| fields.get(2)?.parse().ok())
            .ok_or_else(|| {
                Error::invalid(format!("group {group:?} is not in the image's /etc/group"))
            })
    }

    /// The groups that list a user among their members.
    fn groups_of(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self
            .lines("/etc/group")?
            .into_iter()
            .filter(|fields| {
                fields
                    .get(3)
                    .is_some_and(|members| members.split(',').any(|it| it == name))
            })
            .filter_map(|fields| fields[2].parse().ok())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::Int64Value;
    use slipway_engine::Kind;

    use super::*;

    fn image() -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\nweb:x:33:34::/srv:/bin/false\n",
        )
        .unwrap();
        std::fs::write(
            etc.join("group"),
            "root:x:0:\nlogs:x:44:ann,web\nweb:x:34:\nshort:x:9\n",
        )
        .unwrap();
        let layers = vec![directory.path().to_owned()];
        (directory, layers)
    }

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn the_image_says_who_unless_the_request_does() {
        let (_guard, layers) = image();
        let of = |image_user: &str, security: &LinuxContainerSecurityContext| {
            resolve(image_user, security, &layers).unwrap()
        };
        let none = LinuxContainerSecurityContext::default();
        assert_eq!(of("", &none), user(0, 0, &[0]));
        assert_eq!(of("web", &none), user(33, 34, &[34, 44]));
        assert_eq!(of("33", &none), user(33, 34, &[34, 44]));
        assert_eq!(of("web:logs", &none), user(33, 44, &[44]));
        assert_eq!(of("7:8", &none), user(7, 8, &[8]));
        assert_eq!(of("1000", &none), user(1000, 0, &[0]));

        let asked = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 33 }),
            run_as_group: Some(Int64Value { value: 5 }),
            supplemental_groups: vec![44, 1234],
            ..Default::default()
        };
        assert_eq!(of("root", &asked), user(33, 5, &[5, 44, 1234]));
        let strict = LinuxContainerSecurityContext {
            run_as_username: "web".to_owned(),
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        };
        assert_eq!(of("root", &strict), user(33, 34, &[34]));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let (_guard, layers) = image();
        let refuse = |image_user: &str, security: LinuxContainerSecurityContext| {
            let error = resolve(image_user, &security, &layers).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            error.to_string()
        };
        let none = LinuxContainerSecurityContext::default;
        assert!(refuse("nobody", none()).contains("nobody"));
        assert!(refuse("web:nogroup", none()).contains("nogroup"));
        assert!(refuse("-1", none()).contains("-1"));
        let group_only = LinuxContainerSecurityContext {
            run_as_group: Some(Int64Value { value: 5 }),
            ..Default::default()
        };
        assert!(refuse("", group_only).contains("run_as_group"));
    }
}
