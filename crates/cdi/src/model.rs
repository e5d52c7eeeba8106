//! What a specification file says (CDI specification, "CDI JSON Specification"), and whether it may
//! say so.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::path::{Component, Path, PathBuf};

use serde::de::{Error as _, IgnoredAny, Unexpected};
use serde::{Deserialize, Deserializer};

use crate::name;

/// The versions of the specification that are understood, in order.
const VERSIONS: [&str; 7] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Specification {
    pub(crate) cdi_version: String,
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) devices: Vec<Device>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) container_edits: ContainerEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ContainerEdits {
    #[serde(deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) device_nodes: Vec<DeviceNode>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) mounts: Vec<Mount>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) hooks: Vec<Hook>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) intel_rdt: Option<IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeviceNode {
    pub(crate) path: PathBuf,
    pub(crate) host_path: Option<PathBuf>,
    #[serde(rename = "type", default)]
    pub(crate) kind: NodeKind,
    /// 0 is as the node has it.
    #[serde(default)]
    pub(crate) major: i64,
    #[serde(default)]
    pub(crate) minor: i64,
    #[serde(default, deserialize_with = "mode")]
    pub(crate) file_mode: Option<u32>,
    /// Some of the letters r, w and m; none is all of them.
    #[serde(default)]
    pub(crate) permissions: String,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum NodeKind {
    /// As the node has it.
    #[default]
    #[serde(rename = "")]
    OfNode,
    #[serde(rename = "b")]
    Block,
    #[serde(rename = "c", alias = "u")]
    Character,
    #[serde(rename = "p")]
    Pipe,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) host_path: PathBuf,
    pub(crate) container_path: PathBuf,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) options: Vec<String>,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hook {
    #[serde(rename = "hookName")]
    pub(crate) point: HookName,
    pub(crate) path: PathBuf,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    /// In seconds.
    pub(crate) timeout: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

/// YAML has null where a key is there and nothing after it.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A number; or one with a leading 0, which people who write YAML mean to be octal.
fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Octal(String),
    }
    match Option::deserialize(deserializer)? {
        None => Ok(None),
        Some(Mode::Number(number)) => Ok(Some(number)),
        Some(Mode::Octal(text)) => match u32::from_str_radix(&text, 8) {
            Ok(number) if text.starts_with('0') => Ok(Some(number)),
            _ => Err(D::Error::invalid_value(
                Unexpected::Str(&text),
                &"a file mode",
            )),
        },
    }
}

impl Specification {
    /// Reads a file's text, as YAML if it is not JSON, and checks what it says.
    pub(crate) fn read(text: &str, yaml: bool) -> Result<Self, String> {
        let read: Self = if yaml {
            yaml_serde::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        };
        read.check()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), String> {
        self.check_version()?;
        name::check_kind(&self.kind)
            .map_err(|problem| format!("kind {:?}: {problem}", self.kind))?;
        if self.devices.is_empty() {
            return Err("devices is empty".to_owned());
        }
        self.container_edits.check("containerEdits")?;
        let mut names = HashSet::new();
        for Device {
            name,
            container_edits: edits,
            ..
        } in &self.devices
        {
            name::check_device(name).map_err(|problem| format!("device {name:?}: {problem}"))?;
            if !names.insert(name) {
                return Err(format!("there are two devices {name:?}"));
            }
            if edits.is_empty() {
                return Err(format!("device {name:?} has no containerEdits"));
            }
            edits.check(&format!("device {name:?}"))?;
        }
        Ok(())
    }

    /// A file that uses what its version does not have was written for something else.
    fn check_version(&self) -> Result<(), String> {
        let place = |version: &str| VERSIONS.iter().position(|it| *it == version);
        let Some(own) = place(&self.cdi_version) else {
            return Err(format!(
                "cdiVersion {:?} is not one of {}",
                self.cdi_version,
                VERSIONS.join(", ")
            ));
        };
        let devices = self.devices.iter();
        let edits = devices.map(|it| &it.container_edits);
        let edits: Vec<_> = edits.chain([&self.container_edits]).collect();
        let any = |has: fn(&ContainerEdits) -> bool| edits.iter().any(|edits| has(edits));
        let class_has_dot = self
            .kind
            .split_once('/')
            .is_some_and(|it| it.1.contains('.'));
        let mut devices = self.devices.iter();
        for (used, version, what) in [
            (
                any(|it| !it.additional_gids.is_empty()),
                "0.7.0",
                "additionalGids",
            ),
            (any(|it| it.intel_rdt.is_some()), "0.7.0", "intelRdt"),
            (
                !self.annotations.is_empty()
                    || self.devices.iter().any(|it| !it.annotations.is_empty()),
                "0.6.0",
                "annotations",
            ),
            (class_has_dot, "0.6.0", "a class with \".\""),
            (
                any(|it| it.device_nodes.iter().any(|node| node.host_path.is_some())),
                "0.5.0",
                "the hostPath of a device node",
            ),
            (
                devices.any(|it| it.name.starts_with(|first: char| first.is_ascii_digit())),
                "0.5.0",
                "a device name that starts with a digit",
            ),
            (
                any(|it| it.mounts.iter().any(|mount| !mount.kind.is_empty())),
                "0.4.0",
                "the type of a mount",
            ),
        ] {
            if used && Some(own) < place(version) {
                return Err(format!(
                    "{what} needs cdiVersion {version}, and the file says {}",
                    self.cdi_version
                ));
            }
        }
        Ok(())
    }
}

impl ContainerEdits {
    fn is_empty(&self) -> bool {
        self.env.is_empty()
            && self.device_nodes.is_empty()
            && self.mounts.is_empty()
            && self.hooks.is_empty()
            && self.additional_gids.is_empty()
            && self.intel_rdt.is_none()
    }

    fn check(&self, whose: &str) -> Result<(), String> {
        let checks = [
            check_env(&self.env),
            self.device_nodes.iter().try_for_each(DeviceNode::check),
            self.mounts.iter().try_for_each(Mount::check),
            self.hooks.iter().try_for_each(Hook::check),
        ];
        let checked: Result<(), String> = checks.into_iter().collect();
        checked.map_err(|problem| format!("{whose}: {problem}"))
    }
}

fn check_env(env: &[String]) -> Result<(), String> {
    for variable in env {
        let named = variable.split_once('=').is_some_and(|it| !it.0.is_empty());
        if !named || variable.contains('\0') {
            return Err(format!("env {variable:?} is not NAME=value"));
        }
    }
    Ok(())
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        check_target(&self.path)?;
        let path = self.path.display();
        if self
            .host_path
            .as_ref()
            .is_some_and(|path| !path.is_absolute())
        {
            return Err(format!("the hostPath of {path} is not absolute"));
        }
        if !self
            .permissions
            .chars()
            .all(|letter| "rwm".contains(letter))
        {
            return Err(format!(
                "permissions {:?} of {path} are not of the letters r, w and m",
                self.permissions
            ));
        }
        Ok(())
    }
}

impl Mount {
    fn check(&self) -> Result<(), String> {
        check_target(&self.container_path)?;
        if self.host_path.as_os_str().is_empty() {
            return Err(format!(
                "the mount on {} has no hostPath",
                self.container_path.display()
            ));
        }
        if self.is_bind() && !self.host_path.is_absolute() {
            return Err(format!(
                "the hostPath \"{}\" of the mount on {} is not absolute",
                self.host_path.display(),
                self.container_path.display()
            ));
        }
        Ok(())
    }

    /// Whether it shows a part of the node's file system, as most do. Files of old say so by an
    /// option alone, some not at all.
    pub(crate) fn is_bind(&self) -> bool {
        ["", "none", "bind"].contains(&self.kind.as_str())
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        if !self.path.is_absolute() {
            let path = self.path.display();
            return Err(format!("the hook \"{path}\" is not an absolute path"));
        }
        check_env(&self.env)
    }
}

/// Something in a container: an absolute path, which does not climb, and not the root itself.
fn check_target(path: &Path) -> Result<(), String> {
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs || path.parent().is_none() {
        let path = path.display();
        return Err(format!(
            "\"{path}\" is not an absolute path below \"/\" and without \"..\""
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Specification, String> {
        Specification::read(text, false)
    }

    fn with_edits(version: &str, edits: &str) -> Result<Specification, String> {
        json(&format!(
            r#"{{"cdiVersion": "{version}", "kind": "v.com/gpu",
                 "devices": [{{"name": "a", "containerEdits": {{{edits}}}}}]}}"#
        ))
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml = "cdiVersion: 1.0.0\n\
                    kind: v.com/gpu\n\
                    containerEdits:\n\
                    devices:\n\
                    - name: \"0\"\n\
                    \x20 annotations: {a: b}\n\
                    \x20 containerEdits:\n\
                    \x20   env: [A=1]\n\
                    \x20   deviceNodes:\n\
                    \x20   - path: /dev/a\n\
                    \x20     hostPath: /dev/b\n\
                    \x20     type: u\n\
                    \x20     fileMode: 0640\n\
                    \x20   additionalGids: [7]\n";
        let json = r#"{"cdiVersion": "1.0.0", "kind": "v.com/gpu", "devices": [{"name": "0",
            "annotations": {"a": "b"}, "containerEdits": {"env": ["A=1"], "deviceNodes": [
            {"path": "/dev/a", "hostPath": "/dev/b", "type": "c", "fileMode": 416}],
            "additionalGids": [7]}}]}"#;
        let yaml = Specification::read(yaml, true).unwrap();
        let json = Specification::read(json, false).unwrap();
        assert_eq!(format!("{yaml:?}"), format!("{json:?}"));
        assert_eq!(
            json.devices[0].container_edits.device_nodes[0].file_mode,
            Some(0o640)
        );
    }

    #[test]
    fn every_version_may_say_what_it_has_and_no_more() {
        for version in VERSIONS {
            with_edits(version, r#""env": ["A=1"]"#).unwrap();
        }
        for (since, edits) in [
            (
                1,
                r#""mounts": [{"hostPath": "a", "containerPath": "/b", "type": "tmpfs"}]"#,
            ),
            (
                2,
                r#""deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]"#,
            ),
            (4, r#""additionalGids": [1]"#),
            (4, r#""intelRdt": {"closID": "a"}"#),
        ] {
            with_edits(VERSIONS[since], edits).unwrap();
            let error = with_edits(VERSIONS[since - 1], edits).unwrap_err();
            assert!(error.contains(VERSIONS[since]), "{error}");
        }
        for version in ["0.2.0", "1.1.0", "2.0.0", "v1.0.0", ""] {
            let error = with_edits(version, r#""env": ["A=1"]"#).unwrap_err();
            assert!(error.contains("cdiVersion"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_name() {
        for (edits, word) in [
            ("", "no containerEdits"),
            (r#""env": ["A"]"#, "NAME=value"),
            (r#""env": ["=A"]"#, "NAME=value"),
            (r#""netDevices": []"#, "netDevices"),
            (r#""deviceNodes": [{"path": ""}]"#, "absolute"),
            (r#""deviceNodes": [{"path": "/dev/../a"}]"#, "/dev/../a"),
            (r#""deviceNodes": [{"path": "/dev/a", "type": "x"}]"#, "x"),
            (
                r#""deviceNodes": [{"path": "/dev/a", "permissions": "rx"}]"#,
                "rx",
            ),
            (
                r#""deviceNodes": [{"path": "/dev/a", "fileMode": "rw"}]"#,
                "file mode",
            ),
            (
                r#""mounts": [{"hostPath": "/a", "containerPath": "/"}]"#,
                "absolute",
            ),
            (
                r#""mounts": [{"hostPath": "", "containerPath": "/b"}]"#,
                "hostPath",
            ),
            (
                r#""mounts": [{"hostPath": "a", "containerPath": "/b"}]"#,
                "absolute",
            ),
            (r#""hooks": [{"hookName": "never", "path": "/a"}]"#, "never"),
            (
                r#""hooks": [{"hookName": "poststop", "path": "a"}]"#,
                "absolute",
            ),
            (
                r#""hooks": [{"hookName": "poststop", "path": "/a", "timeout": 0}]"#,
                "zero",
            ),
        ] {
            let error = with_edits("1.0.0", edits).unwrap_err();
            assert!(error.contains(word), "{edits}: {error}");
        }
        let device = r#"{"name": "a", "containerEdits": {"env": ["A=1"]}}"#;
        for (kind, devices, word) in [
            ("gpu", device.to_owned(), "kind"),
            ("v/gpu", String::new(), "devices"),
            ("v/gpu", format!("{device}, {device}"), "two devices \"a\""),
            ("v/gpu", device.replace("\"a\"", "\"-\""), "device \"-\""),
        ] {
            let text =
                format!(r#"{{"cdiVersion": "1.0.0", "kind": "{kind}", "devices": [{devices}]}}"#);
            let error = json(&text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
