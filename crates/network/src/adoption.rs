//! What another runtime has attached: the records of libcni, which dockershim, cri-dockerd and
//! others keep below `/var/lib/cni/cache`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::attachment::INTERFACE;
use crate::conflist::Conflist;

/// The kind of record that libcni has written since its version 0.8.
const KIND: &str = "cniCacheV1";

/// The network that dockershim and cri-dockerd have beside the pod's, and record for the same
/// interface: its plugin brings `lo` up whatever it is told.
const LOOPBACK: &str = "cni-loopback";

/// A record of libcni.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    kind: String,
    container_id: String,
    /// The configuration as it was read, in base64.
    config: String,
    if_name: String,
    #[serde(default)]
    result: Value,
}

/// A pod's attachment by another runtime.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) file: PathBuf,
    pub(crate) list: Conflist,
    pub(crate) result: Value,
}

/// Finds what libcni has recorded of a pod's first interface in its cache directory. Records that
/// cannot be read are logged and passed over.
pub(crate) fn find(cache: &Path, pod: &str) -> io::Result<Option<Foreign>> {
    let results = cache.join("results");
    let entries = match fs::read_dir(&results) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let ending = format!("-{pod}-{INTERFACE}");
    let loopback = file_name(LOOPBACK, pod);
    for entry in entries {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(&ending) || name == loopback {
            continue;
        }
        match fs::read(&file).map_err(|error| error.to_string()) {
            Ok(content) => match read(&file, &content, pod) {
                Ok(found) => return Ok(Some(found)),
                Err(reason) => passed_over(&file, &reason),
            },
            Err(reason) => passed_over(&file, &reason),
        }
    }
    Ok(None)
}

/// Removes libcni's records of a pod that is detached now, of which this is the one that was found.
pub(crate) fn forget(found: &Path, pod: &str) -> Result<(), (PathBuf, io::Error)> {
    let loopback = found.with_file_name(file_name(LOOPBACK, pod));
    // The one that is known goes last, so that a call which was cut off can be made again.
    for path in [loopback, found.to_owned()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// What libcni calls its record of a pod's first interface.
fn file_name(network: &str, pod: &str) -> String {
    format!("{network}-{pod}-{INTERFACE}")
}

fn passed_over(file: &Path, reason: &str) {
    tracing::warn!(file = %file.display(), reason, "another runtime's record of a pod's network cannot be used");
}

fn read(file: &Path, content: &[u8], pod: &str) -> Result<Foreign, String> {
    let source: Source = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    if source.kind != KIND {
        return Err(format!("its kind is {:?}, not {KIND:?}", source.kind));
    }
    if source.container_id != pod || source.if_name != INTERFACE {
        return Err("it is of another pod".to_owned());
    }
    let config = STANDARD
        .decode(&source.config)
        .map_err(|error| format!("its configuration is not base64: {error}"))?;
    // A list, as libcni keeps it, whatever the file was called that it was read from.
    let list = Conflist::parse(Path::new("record.conflist"), &config)?;
    Ok(Foreign {
        file: file.to_owned(),
        list,
        result: source.result,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(config: &Value) -> Value {
        json!({
            "kind": "cniCacheV1", "containerId": "one", "ifName": "eth0", "networkName": "pods",
            "config": STANDARD.encode(config.to_string()),
            "cniArgs": [["K8S_POD_NAME", "web"]], "capabilityArgs": {"portMappings": []},
            "result": {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.9/24"}]},
        })
    }

    #[test]
    fn a_record_is_found_by_its_pod_and_read() {
        let cache = tempfile::tempdir().unwrap();
        assert!(find(cache.path(), "one").unwrap().is_none());
        let results = cache.path().join("results");
        fs::create_dir(&results).unwrap();
        let list = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge"}]});
        let good = record(&list);
        fs::write(results.join("pods-one-eth0"), good.to_string()).unwrap();
        let found = find(cache.path(), "one").unwrap().unwrap();
        assert_eq!(found.list.name, "pods");
        assert_eq!(found.result["ips"][0]["address"], "10.0.0.9/24");
        assert!(find(cache.path(), "two").unwrap().is_none());
    }

    /// As cri-dockerd leaves it.
    #[test]
    fn a_record_of_the_loopback_is_none_of_the_pods_network_and_goes_with_it() {
        let cache = tempfile::tempdir().unwrap();
        let results = cache.path().join("results");
        fs::create_dir(&results).unwrap();
        let write = |network: &str, kind: &str, result: &Value| {
            let plugins = json!([{"type": kind}]);
            let list = json!({"cniVersion": "0.2.0", "name": network, "plugins": plugins});
            let mut record = record(&list);
            record["networkName"] = json!(network);
            record["result"] = result.clone();
            fs::write(
                results.join(format!("{network}-one-eth0")),
                record.to_string(),
            )
            .unwrap();
        };
        write(
            "cni-loopback",
            "loopback",
            &json!({"cniVersion": "0.2.0", "dns": {}}),
        );
        assert!(find(cache.path(), "one").unwrap().is_none());
        let ips = json!([{"version": "4", "address": "10.0.0.9/24"}]);
        write(
            "pods",
            "bridge",
            &json!({"cniVersion": "0.4.0", "ips": ips}),
        );
        fs::write(results.join("cni-loopback-two-eth0"), "{}").unwrap();
        let found = find(cache.path(), "one").unwrap().unwrap();
        assert_eq!(found.list.name, "pods");

        forget(&found.file, "one").unwrap();
        forget(&found.file, "one").unwrap();
        let left: Vec<_> = fs::read_dir(&results).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let list = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge"}]});
        let with = |key: &str, value: Value| {
            let mut record = record(&list);
            record[key] = value;
            record.to_string()
        };
        for (content, word) in [
            ("{".to_owned(), "EOF"),
            (with("kind", json!("other")), "cniCacheV1"),
            (with("containerId", json!("two")), "another pod"),
            (with("config", json!("%")), "base64"),
            (with("config", json!(STANDARD.encode("{}"))), "name"),
        ] {
            let reason = read(Path::new("f"), content.as_bytes(), "one").unwrap_err();
            assert!(reason.contains(word), "{word:?} is not in {reason:?}");
        }
    }
}
