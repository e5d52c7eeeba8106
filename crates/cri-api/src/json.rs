//! What serde would not do by itself to write the messages of CRI as crictl's `-o json` does, which
//! is [protojson](https://protobuf.dev/programming-guides/json/) with default values written out and
//! unset messages left out. Map keys are sorted, so that the same message always gives the same text.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use base64::Engine;
use serde::{Serialize, Serializer};

/// 64-bit integers are strings, because a JavaScript number cannot hold them.
pub(crate) fn decimal_string<T: Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(crate) fn decimal_strings<T: Display, S: Serializer>(
    values: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

/// The name of the value; its number if this version of the interface does not know it.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(crate) fn enumeration<E: TryFrom<i32> + Serialize, S: Serializer>(
    number: &i32,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match E::try_from(*number) {
        Ok(value) => value.serialize(serializer),
        Err(_) => serializer.serialize_i32(*number),
    }
}

pub(crate) fn sorted_map<S: Serializer>(
    map: &HashMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().collect::<BTreeMap<_, _>>())
}

pub(crate) fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use crate::v1;

    #[test]
    fn a_container_reads_as_crictl_prints_it() {
        let container = v1::Container {
            id: "c1".into(),
            pod_sandbox_id: "p1".into(),
            metadata: Some(v1::ContainerMetadata {
                name: "web".into(),
                attempt: 0,
            }),
            state: v1::ContainerState::ContainerRunning.into(),
            created_at: 1_700_000_000_123_456_789,
            labels: [("b", "2"), ("a", "1")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&container).unwrap(),
            concat!(
                r#"{"id":"c1","podSandboxId":"p1","metadata":{"name":"web","attempt":0},"imageRef":"","#,
                r#""state":"CONTAINER_RUNNING","createdAt":"1700000000123456789","#,
                r#""labels":{"a":"1","b":"2"},"annotations":{},"imageId":""}"#
            )
        );
    }

    #[test]
    fn names_that_are_no_snake_case_keep_what_protojson_makes_of_them() {
        let config = v1::ContainerConfig {
            cdi_devices: vec![v1::CdiDevice {
                name: "vendor.com/gpu=0".into(),
            }],
            stop_signal: v1::Signal::Sigterm.into(),
            ..Default::default()
        };
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["CDIDevices"][0]["name"], "vendor.com/gpu=0");
        assert_eq!(json["stopSignal"], "SIGTERM");
        let profile = v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::Unconfined.into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(&profile).unwrap()["profileType"],
            "Unconfined"
        );
        let psi = v1::PsiStats {
            full: Some(v1::PsiData {
                total: 7,
                ..Default::default()
            }),
            some: None,
        };
        assert_eq!(
            serde_json::to_string(&psi).unwrap(),
            r#"{"Full":{"Total":"7","Avg10":0.0,"Avg60":0.0,"Avg300":0.0}}"#
        );
    }

    #[test]
    fn bytes_numbers_in_lists_and_unknown_values_have_their_form() {
        let exec = v1::ExecSyncResponse {
            stdout: b"ok\n".into(),
            exit_code: 3,
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&exec).unwrap(),
            r#"{"stdout":"b2sK","stderr":"","exitCode":3}"#
        );
        let user = v1::LinuxContainerUser {
            uid: 1,
            gid: 2,
            supplemental_groups: vec![3, 4],
        };
        assert_eq!(
            serde_json::to_string(&user).unwrap(),
            r#"{"uid":"1","gid":"2","supplementalGroups":["3","4"]}"#
        );
        let state = v1::ContainerStateValue { state: 99 };
        assert_eq!(serde_json::to_string(&state).unwrap(), r#"{"state":99}"#);
    }
}
