//! Editing an OCI configuration.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook as OciHook, Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount as OciMount,
    Process, Spec,
};

use crate::Edits;
use crate::edits::{Node, Owner};
use crate::model::{Hook, HookName, Mount, NodeKind};

impl Edits {
    /// Changes a configuration: variables, device nodes and mounts take the place of those with
    /// their name; a mount comes before those that lie below it. Returns the device nodes, each
    /// with the rule that was added to `linux.resources.devices` for it.
    pub fn apply(&self, spec: &mut Spec) -> Vec<(LinuxDevice, Option<LinuxDeviceCgroup>)> {
        let process = spec.process_mut().get_or_insert_default();
        for variable in &self.env {
            set_variable(process.env_mut().get_or_insert_default(), variable);
        }
        self.add_groups(process);
        let (uid, gid) = (process.user().uid(), process.user().gid());
        let mut added = Vec::new();
        if !self.nodes.is_empty() {
            let linux = spec.linux_mut().get_or_insert_default();
            for node in &self.nodes {
                let (device, rule) = (node.in_oci(uid, gid), node.rule());
                let devices = linux.devices_mut().get_or_insert_default();
                devices.retain(|other| other.path() != device.path());
                devices.push(device.clone());
                if let Some(rule) = &rule {
                    let resources = linux.resources_mut().get_or_insert_default();
                    let rules = resources.devices_mut().get_or_insert_default();
                    rules.push(rule.clone());
                }
                added.push((device, rule));
            }
        }
        for mount in &self.mounts {
            add_mount(spec.mounts_mut().get_or_insert_default(), mount);
        }
        for hook in &self.hooks {
            add_hook(spec.hooks_mut().get_or_insert_default(), hook);
        }
        added
    }

    fn add_groups(&self, process: &mut Process) {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        for group in &self.groups {
            if !groups.contains(group) {
                groups.push(*group);
            }
        }
        if !self.groups.is_empty() {
            process.user_mut().set_additional_gids(Some(groups));
        }
    }
}

fn set_variable(env: &mut Vec<String>, variable: &str) {
    let name = |variable: &str| variable.split('=').next().map(str::to_owned);
    match env.iter_mut().find(|other| name(other) == name(variable)) {
        Some(other) => variable.clone_into(other),
        None => env.push(variable.to_owned()),
    }
}

impl Node {
    fn in_oci(&self, uid: u32, gid: u32) -> LinuxDevice {
        let mut device = LinuxDevice::default();
        device
            .set_path(self.path.clone())
            .set_typ(self.typ())
            .set_major(self.major)
            .set_minor(self.minor)
            .set_file_mode(self.mode)
            .set_uid(self.uid.or(uid))
            .set_gid(self.gid.or(gid));
        device
    }

    fn typ(&self) -> LinuxDeviceType {
        match self.kind {
            NodeKind::Block => LinuxDeviceType::B,
            NodeKind::Pipe => LinuxDeviceType::P,
            NodeKind::Character | NodeKind::OfNode => LinuxDeviceType::C,
        }
    }

    /// Cgroups do not speak of pipes.
    fn rule(&self) -> Option<LinuxDeviceCgroup> {
        if self.kind == NodeKind::Pipe {
            return None;
        }
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(self.typ()))
            .set_major(Some(self.major))
            .set_minor(Some(self.minor))
            .set_access(Some(self.permissions.clone()));
        Some(rule)
    }
}

impl Owner {
    fn or(self, of_process: u32) -> Option<u32> {
        match self {
            Self::Asked(id) => Some(id),
            Self::OfNode(_) if of_process != 0 => Some(of_process),
            Self::OfNode(id) => id,
        }
    }
}

fn add_mount(mounts: &mut Vec<OciMount>, asked: &Mount) {
    let destination: PathBuf = asked.container_path.components().collect();
    let is_at =
        |mount: &OciMount, path: &Path| mount.destination().components().eq(path.components());
    mounts.retain(|mount| !is_at(mount, &destination));
    let below = mounts
        .iter()
        .position(|mount| mount.destination().starts_with(&destination));
    let mut options = asked.options.clone();
    let is_option = |word: &str| asked.options.iter().any(|option| option == word);
    if asked.is_bind() && !is_option("bind") && !is_option("rbind") {
        options.insert(0, "rbind".to_owned());
    }
    let mut mount = OciMount::default();
    mount
        .set_destination(destination)
        .set_source(Some(asked.host_path.clone()))
        .set_typ(Some(if asked.is_bind() {
            "bind".to_owned()
        } else {
            asked.kind.clone()
        }))
        .set_options(Some(options));
    mounts.insert(below.unwrap_or(mounts.len()), mount);
}

fn add_hook(hooks: &mut Hooks, asked: &Hook) {
    let mut hook = OciHook::default();
    hook.set_path(asked.path.clone());
    if !asked.args.is_empty() {
        hook.set_args(Some(asked.args.clone()));
    }
    if !asked.env.is_empty() {
        hook.set_env(Some(asked.env.clone()));
    }
    hook.set_timeout(asked.timeout.map(|seconds| i64::from(seconds.get())));
    let of_point = match asked.point {
        HookName::Prestart => hooks.prestart_mut(),
        HookName::CreateRuntime => hooks.create_runtime_mut(),
        HookName::CreateContainer => hooks.create_container_mut(),
        HookName::StartContainer => hooks.start_container_mut(),
        HookName::Poststart => hooks.poststart_mut(),
        HookName::Poststop => hooks.poststop_mut(),
    };
    of_point.get_or_insert_default().push(hook);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::{QualifiedName, Registry};

    /// The edits for some of the devices of a specification, or why there are none.
    fn edits(specification: &Value, names: &[&str]) -> crate::Result<Edits> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.json"), specification.to_string()).unwrap();
        let registry = Registry::load(&[directory.path().to_owned()]);
        assert!(registry.damaged().is_empty(), "{:?}", registry.damaged());
        let mut edits = Edits::default();
        for name in names {
            edits.add(&registry, &QualifiedName::new("v.com/gpu", name))?;
        }
        Ok(edits)
    }

    fn specification(of_file: &Value, of_devices: &[(&str, Value)]) -> Value {
        let devices: Vec<_> = of_devices
            .iter()
            .map(|(name, edits)| json!({"name": name, "containerEdits": edits}))
            .collect();
        json!({"cdiVersion": "1.0.0", "kind": "v.com/gpu", "devices": devices,
               "containerEdits": of_file})
    }

    fn configuration(uid: u32) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": uid, "gid": 0, "additionalGids": [5]},
                        "env": ["A=image", "B=image"]},
            "mounts": [{"destination": "/dev"}, {"destination": "/data/deep"},
                       {"destination": "/tools", "source": "/old"}],
            "linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]},
        }))
        .unwrap()
    }

    fn applied(edits: &Edits, uid: u32) -> Value {
        let mut spec = configuration(uid);
        edits.apply(&mut spec);
        serde_json::to_value(spec).unwrap()
    }

    #[test]
    fn a_files_own_edits_come_once_and_before_those_of_its_devices() {
        let specification = specification(
            &json!({"env": ["A=file", "C=file"], "additionalGids": [0, 5, 9]}),
            &[
                (
                    "0",
                    json!({"env": ["A=0"], "additionalGids": [9, 10],
                             "hooks": [{"hookName": "createContainer", "path": "/0"}]}),
                ),
                (
                    "1",
                    json!({"env": ["C=1"],
                             "hooks": [{"hookName": "createContainer", "path": "/1",
                                        "args": ["1", "x"], "timeout": 3},
                                       {"hookName": "poststop", "path": "/end"}]}),
                ),
            ],
        );
        let edits = edits(&specification, &["0", "1", "0"]).unwrap();
        assert_eq!(edits.additional_gids(), [5, 9, 10]);
        let applied = applied(&edits, 0);
        assert_eq!(applied["process"]["env"], json!(["A=0", "B=image", "C=1"]));
        assert_eq!(
            applied["process"]["user"]["additionalGids"],
            json!([5, 9, 10])
        );
        assert_eq!(
            applied["hooks"],
            json!({"createContainer": [{"path": "/0"},
                                       {"path": "/1", "args": ["1", "x"], "timeout": 3}],
                   "poststop": [{"path": "/end"}]})
        );
    }

    #[test]
    fn what_a_device_node_leaves_open_is_as_the_node_has_it() {
        let specification = specification(
            &json!({}),
            &[
                (
                    "full",
                    json!({"deviceNodes": [
                    {"path": "/dev/x", "hostPath": "/dev/full", "permissions": "r"}]}),
                ),
                (
                    "own",
                    json!({"deviceNodes": [
                    {"path": "/dev/null"},
                    {"path": "/dev/none", "type": "b", "major": 7, "minor": 1, "uid": 0,
                     "gid": 3, "fileMode": 384},
                    {"path": "/run/pipe", "type": "p"}]}),
                ),
            ],
        );
        let edits = edits(&specification, &["full", "own"]).unwrap();
        let devices = |uid| applied(&edits, uid)["linux"]["devices"].clone();
        let of_root = devices(0);
        assert_eq!(
            of_root[0],
            json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 7, "fileMode": 0o666,
                   "uid": 0, "gid": 0})
        );
        assert_eq!(of_root[1]["minor"], 3);
        assert_eq!(
            of_root[2],
            json!({"path": "/dev/none", "type": "b", "major": 7, "minor": 1, "fileMode": 0o600,
                   "uid": 0, "gid": 3})
        );
        assert_eq!(of_root[3]["type"], "p");
        assert_eq!(devices(1000)[0]["uid"], 1000);
        assert_eq!(devices(1000)[0]["gid"], 0);
        assert_eq!(devices(1000)[2]["uid"], 0, "what the file says stays");
        assert_eq!(
            applied(&edits, 0)["linux"]["resources"]["devices"],
            json!([{"allow": true, "type": "c", "major": 1, "minor": 7, "access": "r"},
                   {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                   {"allow": true, "type": "b", "major": 7, "minor": 1, "access": "rwm"}])
        );
    }

    #[test]
    fn mounts_come_before_what_lies_below_and_in_place_of_what_is_there() {
        let specification = specification(
            &json!({}),
            &[(
                "0",
                json!({"mounts": [
                {"hostPath": "/tmp", "containerPath": "/tools/", "options": ["ro", "bind"]},
                {"hostPath": "/etc", "containerPath": "/data"},
                {"hostPath": "shm", "containerPath": "/dev/here", "type": "tmpfs"}]}),
            )],
        );
        let mounts = &applied(&edits(&specification, &["0"]).unwrap(), 0)["mounts"];
        assert_eq!(
            *mounts,
            json!([{"destination": "/dev"},
                   {"destination": "/data", "source": "/etc", "type": "bind",
                    "options": ["rbind"]},
                   {"destination": "/data/deep"},
                   {"destination": "/tools", "source": "/tmp", "type": "bind",
                    "options": ["ro", "bind"]},
                   {"destination": "/dev/here", "source": "shm", "type": "tmpfs",
                    "options": []}])
        );
    }

    #[test]
    fn what_the_node_does_not_have_is_said_and_nothing_of_the_device_added() {
        for (edit, words) in [
            (
                json!({"deviceNodes": [{"path": "/dev/not-there"}]}),
                "/dev/not-there",
            ),
            (
                json!({"deviceNodes": [{"path": "/dev/a", "hostPath": "/etc"}]}),
                "not a device",
            ),
            (
                json!({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}),
                "to be a block device, and is a character device",
            ),
            (
                json!({"mounts": [{"hostPath": "/not-there", "containerPath": "/a"}]}),
                "/not-there",
            ),
            (json!({"intelRdt": {"closID": "a"}}), "intelRdt"),
        ] {
            let specification = specification(&json!({"env": ["A=1"]}), &[("0", edit)]);
            let error = edits(&specification, &["0"]).unwrap_err().to_string();
            for word in [words, "v.com/gpu=0", "a.json"] {
                assert!(error.contains(word), "{error}");
            }
        }
    }
}
