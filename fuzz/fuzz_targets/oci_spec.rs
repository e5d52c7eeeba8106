//! OCI configurations from whatever a client may send: none panics, the shim can read each that is
//! made, and each refusal names a field of the request.
//!
//! An input is a `PodSandboxConfig` and a `ContainerConfig`, both length-delimited protobuf, and
//! then an image's configuration in JSON.
#![no_main]

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use slipway_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use slipway_native::fuzzing::config_json;
use tempfile::TempDir;

static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// The names of all fields that CRI has.
static FIELDS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    const INTERFACE: &str = include_str!("../../crates/cri-api/proto/runtime.proto");
    let fields = INTERFACE.lines().filter_map(|line| {
        let (declaration, _) = line.split_once(" = ")?;
        declaration.split_whitespace().last()
    });
    fields.filter(|name| name.len() > 3).collect()
});

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let Ok(pod) = PodSandboxConfig::decode_length_delimited(&mut rest) else {
        return;
    };
    let Ok(container) = ContainerConfig::decode_length_delimited(&mut rest) else {
        return;
    };
    match config_json(&pod, container, rest, Path::new(SCRATCH.path())) {
        Ok(json) => {
            if let Err(refusal) = slipway_shim::check_config(&json) {
                panic!("the shim: {refusal}: {}", String::from_utf8_lossy(&json));
            }
        }
        Err(error) => {
            let message = error.to_string();
            let mut words = message.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            assert!(
                words.any(|word| FIELDS.contains(word)),
                "a refusal that names no field: {message}"
            );
        }
    }
});
