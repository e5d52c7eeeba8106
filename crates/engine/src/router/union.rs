//! One answer out of two engines'.

use std::collections::HashMap;

use slipway_cri_api::v1::{
    CgroupDriver, FilesystemUsage, Image, ImageFsInfoResponse, MetricDescriptor, RuntimeCondition,
    RuntimeConfigResponse, StatusResponse,
};

use crate::{Error, Result};

/// The node can run pods when the engine that gets the new ones can. How the other one is, is a
/// condition of its own, which no kubelet makes a node unready for.
pub(super) fn status(
    mut stays: StatusResponse,
    name: &str,
    leaves: Result<StatusResponse>,
) -> StatusResponse {
    let (status, reason, message) = match leaves {
        Ok(leaves) => {
            let conditions = leaves.status.unwrap_or_default().conditions;
            let broken = conditions.into_iter().find(|condition| !condition.status);
            for (key, value) in leaves.info {
                stays
                    .info
                    .insert(format!("{}.{key}", name.to_lowercase()), value);
            }
            broken.map_or((true, String::new(), String::new()), |condition| {
                (false, condition.reason, condition.message)
            })
        }
        Err(error) => (false, format!("{:?}", error.kind()), error.to_string()),
    };
    let condition = RuntimeCondition {
        r#type: format!("{name}Ready"),
        status,
        reason,
        message,
    };
    stays
        .status
        .get_or_insert_default()
        .conditions
        .push(condition);
    stays
}

/// One cgroup driver has to be right for the pods of both.
pub(super) fn runtime_config(
    stays: RuntimeConfigResponse,
    name: &str,
    leaves: Option<&RuntimeConfigResponse>,
) -> Result<RuntimeConfigResponse> {
    let driver = |answer: &RuntimeConfigResponse| {
        let linux = answer.linux.as_ref();
        linux.map(slipway_cri_api::v1::LinuxRuntimeConfiguration::cgroup_driver)
    };
    match (driver(&stays), leaves.and_then(driver)) {
        (Some(own), Some(other)) if own != other => {
            let [own, other] = [own, other].map(|driver| match driver {
                CgroupDriver::Systemd => "systemd",
                CgroupDriver::Cgroupfs => "cgroupfs",
            });
            Err(Error::precondition(format!(
                "RuntimeConfig: new pods have the cgroup driver {own}, and those in {name} \
                 {other}; a kubelet knows only one: set runtime.cgroup_driver = \"{other}\" for as \
                 long as there are pods in {name}"
            )))
        }
        _ => Ok(stays),
    }
}

/// The entries of both, one after the other.
pub(super) fn both<T>(mut stays: Vec<T>, leaves: Vec<T>) -> Vec<T> {
    stays.extend(leaves);
    stays
}

/// The entries of both in one order.
pub(super) fn newest_first<T>(stays: Vec<T>, leaves: Vec<T>, created: fn(&T) -> i64) -> Vec<T> {
    let mut all = both(stays, leaves);
    all.sort_by_key(|entry| std::cmp::Reverse(created(entry)));
    all
}

/// Every name once.
pub(super) fn metric_descriptors(
    mut stays: Vec<MetricDescriptor>,
    leaves: Vec<MetricDescriptor>,
) -> Vec<MetricDescriptor> {
    for descriptor in leaves {
        if stays.iter().all(|known| known.name != descriptor.name) {
            stays.push(descriptor);
        }
    }
    stays
}

/// Every image once, with the names that either has for it. A tag that stands for another image in
/// the engine that stays is not the other one's any more.
pub(super) fn images(mut stays: Vec<Image>, leaves: Vec<Image>) -> Vec<Image> {
    let taken: HashMap<String, String> = stays
        .iter()
        .flat_map(|image| {
            image
                .repo_tags
                .iter()
                .map(|tag| (tag.clone(), image.id.clone()))
        })
        .collect();
    for mut image in leaves {
        image
            .repo_tags
            .retain(|tag| taken.get(tag).is_none_or(|id| *id == image.id));
        let Some(known) = stays.iter_mut().find(|known| is_same(known, &image)) else {
            stays.push(image);
            continue;
        };
        add_new(&mut known.repo_tags, image.repo_tags);
        add_new(&mut known.repo_digests, image.repo_digests);
        known.pinned |= image.pinned;
    }
    stays
}

/// Whether two are one image. Where Docker keeps its images in containerd, an id is the digest of a
/// manifest.
fn is_same(stays: &Image, leaves: &Image) -> bool {
    let digests = stays.repo_digests.iter();
    let mut digests = digests.filter_map(|name| name.split_once('@'));
    stays.id == leaves.id || digests.any(|(_, digest)| digest == leaves.id)
}

fn add_new(names: &mut Vec<String>, more: Vec<String>) {
    for name in more {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// What both take, by file system. A kubelet looks at the first one, which is where new images go.
pub(super) fn image_fs_info(
    mut stays: ImageFsInfoResponse,
    leaves: ImageFsInfoResponse,
) -> ImageFsInfoResponse {
    add_usage(&mut stays.image_filesystems, leaves.image_filesystems);
    add_usage(
        &mut stays.container_filesystems,
        leaves.container_filesystems,
    );
    stays
}

fn add_usage(known: &mut Vec<FilesystemUsage>, more: Vec<FilesystemUsage>) {
    for usage in more {
        let Some(same) = known.iter_mut().find(|one| one.fs_id == usage.fs_id) else {
            known.push(usage);
            continue;
        };
        for (sum, part) in [
            (&mut same.used_bytes, usage.used_bytes),
            (&mut same.inodes_used, usage.inodes_used),
        ] {
            sum.get_or_insert_default().value += part.unwrap_or_default().value;
        }
    }
}

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::{
        FilesystemIdentifier, LinuxRuntimeConfiguration, RuntimeStatus, UInt64Value,
    };

    use super::*;
    use crate::Kind;

    fn condition(name: &str, status: bool) -> RuntimeCondition {
        RuntimeCondition {
            r#type: name.to_owned(),
            status,
            reason: "Because".to_owned(),
            message: "of something".to_owned(),
        }
    }

    fn answer(conditions: &[RuntimeCondition]) -> StatusResponse {
        StatusResponse {
            status: Some(RuntimeStatus {
                conditions: conditions.to_vec(),
            }),
            info: [("config".to_owned(), "{}".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_docker_that_is_away_makes_no_node_unready() {
        let gone = || Err(Error::new(Kind::Unavailable, "docker.sock: refused"));
        let broken = answer(&[
            condition("RuntimeReady", true),
            condition("NetworkReady", false),
        ]);
        for (leaves, ready, message) in [
            (Ok(answer(&[condition("RuntimeReady", true)])), true, ""),
            (Ok(broken), false, "of something"),
            (gone(), false, "docker.sock: refused"),
        ] {
            let both = status(answer(&[condition("RuntimeReady", true)]), "Docker", leaves);
            let [own, other] = &both.status.unwrap().conditions[..] else {
                panic!("two conditions are wanted");
            };
            assert!(own.status && own.r#type == "RuntimeReady");
            assert_eq!(other.r#type, "DockerReady");
            assert_eq!((other.status, other.message.as_str()), (ready, message));
        }
        let both = status(answer(&[]), "Docker", Ok(answer(&[])));
        assert!(both.info.contains_key("config") && both.info.contains_key("docker.config"));
    }

    #[test]
    fn two_cgroup_drivers_are_refused_with_what_to_do() {
        let config = |driver: CgroupDriver| RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration {
                cgroup_driver: driver.into(),
            }),
        };
        let (own, other) = (CgroupDriver::Cgroupfs, CgroupDriver::Systemd);
        let refused = runtime_config(config(own), "Docker", Some(&config(other))).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        assert!(refused.to_string().contains("cgroup_driver = \"systemd\""));
        for leaves in [
            Some(config(own)),
            Some(RuntimeConfigResponse::default()),
            None,
        ] {
            let both = runtime_config(config(own), "Docker", leaves.as_ref());
            assert_eq!(both, Ok(config(own)));
        }
    }

    #[test]
    fn lists_are_in_one_order() {
        let all = newest_first(vec![9, 4, 1], vec![7, 4], |&created| created);
        assert_eq!(all, [9, 7, 4, 4, 1]);
    }

    fn image(id: &str, tags: &[&str], digests: &[&str]) -> Image {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Image {
            id: id.to_owned(),
            repo_tags: owned(tags),
            repo_digests: owned(digests),
            ..Default::default()
        }
    }

    #[test]
    fn an_image_is_listed_once_and_a_tag_has_one_meaning() {
        let stays = vec![image("one", &["a:1", "moved:1"], &["a@1"])];
        let leaves = vec![
            image("one", &["a:1", "b:1"], &["a@1", "b@1"]),
            image("two", &["moved:1", "c:1"], &[]),
            image("1", &["a:1", "d:1"], &["d@1"]),
        ];
        let all = images(stays, leaves);
        assert_eq!(
            all,
            [
                image(
                    "one",
                    &["a:1", "moved:1", "b:1", "d:1"],
                    &["a@1", "b@1", "d@1"]
                ),
                image("two", &["c:1"], &[]),
            ]
        );
    }

    #[test]
    fn one_file_system_is_summed_and_two_are_told_apart() {
        let usage = |mountpoint: &str, bytes| FilesystemUsage {
            timestamp: 1,
            fs_id: Some(FilesystemIdentifier {
                mountpoint: mountpoint.to_owned(),
            }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: None,
        };
        let info = |filesystems: &[FilesystemUsage]| ImageFsInfoResponse {
            image_filesystems: filesystems.to_vec(),
            container_filesystems: Vec::new(),
        };
        let all = image_fs_info(
            info(&[usage("/var/lib/slipway", 10)]),
            info(&[usage("/var/lib/slipway", 5), usage("/data/docker", 7)]),
        );
        let bytes = |usage: &FilesystemUsage| usage.used_bytes.unwrap().value;
        assert_eq!(
            all.image_filesystems.iter().map(bytes).collect::<Vec<_>>(),
            [15, 7]
        );
        assert_eq!(
            all.image_filesystems[0].fs_id.as_ref().unwrap().mountpoint,
            "/var/lib/slipway"
        );
    }
}
