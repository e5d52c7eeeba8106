//! Network configuration lists (CNI specification, section 1).

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The versions of CNI that are spoken here. As it happens, they sort as text.
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A version of CNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(&'static str);

impl Version {
    /// What a configuration without a version means.
    const UNSPECIFIED: Self = Self(VERSIONS[0]);
    /// From here on, DEL is given the result of ADD.
    const RESULT_ON_DELETE: Self = Self("0.4.0");

    fn parse(text: &str) -> Option<Self> {
        VERSIONS
            .into_iter()
            .find(|version| *version == text)
            .map(Self)
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }

    pub(crate) fn gives_delete_the_result(self) -> bool {
        self >= Self::RESULT_ON_DELETE
    }
}

/// A network: its plugins in the order in which they add a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Source", into = "Source")]
pub(crate) struct Conflist {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) plugins: Vec<Element>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Element {
    /// The name of its executable.
    pub(crate) kind: String,
    /// The runtime parameters that it understands.
    pub(crate) capabilities: BTreeSet<String>,
    /// Its section of the list, as it was written.
    pub(crate) section: Map<String, Value>,
}

impl Conflist {
    /// Reads a configuration file. A single plugin's (`.conf`, `.json`) becomes a list of one. The
    /// error says what is wrong, and in which line.
    pub(crate) fn parse(file: &Path, content: &[u8]) -> Result<Self, String> {
        if file
            .extension()
            .is_some_and(|extension| extension == "conflist")
        {
            return serde_json::from_slice(content).map_err(|error| error.to_string());
        }
        let section: Map<String, Value> =
            serde_json::from_slice(content).map_err(|error| error.to_string())?;
        if !section.contains_key("type") && section.contains_key("plugins") {
            return Err(
                "it is a network configuration list, so its name has to end in .conflist"
                    .to_string(),
            );
        }
        let name = text(&section, "name")?.ok_or("missing field `name`")?;
        let version = newest_version(text(&section, "cniVersion")?.as_deref(), &[])?;
        Self::new(name, version, vec![Element::parse(section)?])
    }

    fn new(name: String, version: Version, plugins: Vec<Element>) -> Result<Self, String> {
        if !is_identifier(&name) {
            return Err(format!(
                "the network's name `{name}` is not valid: CNI wants letters, digits, `_`, `.` and \
                 `-`, with a letter or digit first",
            ));
        }
        if plugins.is_empty() {
            return Err("`plugins` is empty".to_string());
        }
        Ok(Self {
            name,
            version,
            plugins,
        })
    }
}

/// A list as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    #[serde(default)]
    cni_version: Option<String>,
    /// Since version 1.1.0: further versions, of which the newest that both sides know is used.
    #[serde(default, skip_serializing)]
    cni_versions: Vec<String>,
    name: String,
    plugins: Vec<Map<String, Value>>,
}

impl TryFrom<Source> for Conflist {
    type Error = String;

    fn try_from(source: Source) -> Result<Self, String> {
        let version = newest_version(source.cni_version.as_deref(), &source.cni_versions)?;
        let plugins = source
            .plugins
            .into_iter()
            .enumerate()
            .map(|(index, section)| {
                Element::parse(section).map_err(|why| format!("plugin {}: {why}", index + 1))
            })
            .collect::<Result<_, _>>()?;
        Self::new(source.name, version, plugins)
    }
}

impl From<Conflist> for Source {
    fn from(list: Conflist) -> Self {
        Self {
            cni_version: Some(list.version.as_str().to_string()),
            cni_versions: Vec::new(),
            name: list.name,
            plugins: list
                .plugins
                .into_iter()
                .map(|element| element.section)
                .collect(),
        }
    }
}

impl Element {
    fn parse(section: Map<String, Value>) -> Result<Self, String> {
        let kind = text(&section, "type")?.ok_or("missing field `type`")?;
        if kind.contains(['/', '\0']) || kind == "." || kind == ".." {
            return Err(format!(
                "`type` is {kind:?}; it is the name of an executable in the plugin directories, \
                 and cannot be a path"
            ));
        }
        let capabilities = match section.get("capabilities") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(Value::Object(capabilities)) => declared(capabilities)?,
            Some(other) => return Err(format!("`capabilities` is {other}, not an object")),
        };
        Ok(Self {
            kind,
            capabilities,
            section,
        })
    }
}

fn declared(capabilities: &Map<String, Value>) -> Result<BTreeSet<String>, String> {
    let mut declared = BTreeSet::new();
    for (name, value) in capabilities {
        match value {
            Value::Bool(true) => drop(declared.insert(name.clone())),
            Value::Bool(false) => {}
            other => {
                return Err(format!(
                    "capability `{name}` is {other}, neither true nor false"
                ));
            }
        }
    }
    Ok(declared)
}

/// A field that is text, if it is there and not empty.
fn text(section: &Map<String, Value>, field: &str) -> Result<Option<String>, String> {
    match section.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("`{field}` is {other}, not a string")),
    }
}

fn newest_version(single: Option<&str>, several: &[String]) -> Result<Version, String> {
    let given: Vec<&str> = several
        .iter()
        .map(String::as_str)
        .chain(single)
        .filter(|version| !version.is_empty())
        .collect();
    if given.is_empty() {
        return Ok(Version::UNSPECIFIED);
    }
    given
        .iter()
        .filter_map(|version| Version::parse(version))
        .max()
        .ok_or_else(|| {
            format!(
                "CNI version {} is not supported; supported are {}",
                given.join(", "),
                VERSIONS.join(", ")
            )
        })
}

/// Whether CNI allows this as a network's name or a container's id.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn list(value: &Value) -> Result<Conflist, String> {
        Conflist::parse(Path::new("10-net.conflist"), value.to_string().as_bytes())
    }

    fn single(value: &Value) -> Result<Conflist, String> {
        Conflist::parse(Path::new("10-net.conf"), value.to_string().as_bytes())
    }

    #[test]
    fn a_list_keeps_its_order_and_every_field() {
        let bridge = json!({"type": "bridge", "isGateway": true, "ipam": {"type": "host-local"}});
        let portmap =
            json!({"type": "portmap", "capabilities": {"portMappings": true, "x": false}});
        let list = list(&json!({
            "cniVersion": "1.0.0", "name": "pods", "disableCheck": true, "plugins": [bridge, portmap],
        }))
        .expect("a valid list");
        assert_eq!(
            (list.name.as_str(), list.version.as_str()),
            ("pods", "1.0.0")
        );
        assert_eq!(list.plugins[0].kind, "bridge");
        assert_eq!(Value::Object(list.plugins[0].section.clone()), bridge);
        assert_eq!(
            list.plugins[1].capabilities,
            BTreeSet::from(["portMappings".to_string()])
        );
    }

    #[test]
    fn a_single_plugin_becomes_a_list_of_one() {
        let list = single(&json!({"cniVersion": "0.3.1", "name": "pods", "type": "ptp"}))
            .expect("a valid configuration");
        assert_eq!((list.plugins.len(), list.version.as_str()), (1, "0.3.1"));
        assert!(!list.version.gives_delete_the_result());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let one = |plugin: Value| list(&json!({"name": "n", "plugins": [{"type": "a"}, plugin]}));
        let cases = [
            (
                list(&json!({"plugins": [{"type": "a"}]})),
                "missing field `name`",
            ),
            (
                list(&json!({"name": "a/b", "plugins": [{"type": "a"}]})),
                "`a/b` is not valid",
            ),
            (
                list(&json!({"name": "n", "plugins": []})),
                "`plugins` is empty",
            ),
            (list(&json!({"name": "n"})), "missing field `plugins`"),
            (
                list(&json!({"name": "n", "cniVersion": "2.0.0", "plugins": [{"type": "a"}]})),
                "CNI version 2.0.0 is not supported; supported are 0.1.0",
            ),
            (
                one(json!({"type": "../bin/sh"})),
                "plugin 2: `type` is \"../bin/sh\"",
            ),
            (one(json!({"type": ".."})), "cannot be a path"),
            (one(json!({"type": ""})), "plugin 2: missing field `type`"),
            (
                one(json!({"type": 3})),
                "plugin 2: `type` is 3, not a string",
            ),
            (
                one(json!({"type": "a", "capabilities": {"dns": "yes"}})),
                "capability `dns`",
            ),
            (
                one(json!({"type": "a", "capabilities": []})),
                "`capabilities` is []",
            ),
            (single(&json!({"name": "n"})), "missing field `type`"),
            (single(&json!({"type": "a"})), "missing field `name`"),
            (
                single(&json!({"name": "n", "plugins": []})),
                "has to end in .conflist",
            ),
        ];
        for (result, expected) in cases {
            let error = result.expect_err(expected);
            assert!(
                error.contains(expected),
                "{error:?} does not say {expected:?}"
            );
        }
    }

    #[test]
    fn a_syntax_error_has_a_line_and_a_column() {
        let error = Conflist::parse(Path::new("a.conflist"), b"{\n  \"name\": \"n\",\n}")
            .expect_err("a trailing comma");
        assert!(error.contains("line 3 column 1"), "{error}");
    }

    #[test]
    fn the_newest_version_that_is_known_is_used() {
        let versions = |several: &[&str]| {
            let plugins = json!([{"type": "a"}]);
            list(&json!({"name": "n", "cniVersions": several, "plugins": plugins}))
                .map(|list| list.version.as_str())
        };
        assert_eq!(versions(&[]), Ok("0.1.0"));
        assert_eq!(versions(&["0.4.0", "1.1.0", "1.0.0"]), Ok("1.1.0"));
        assert_eq!(versions(&["1.0.0", "7.0.0"]), Ok("1.0.0"));
        assert!(versions(&["7.0.0"]).is_err());
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let key = prop_oneof![
                "[a-z]{1,6}",
                prop::sample::select(vec![
                    "name",
                    "type",
                    "plugins",
                    "cniVersion",
                    "capabilities"
                ])
                .prop_map(str::to_string),
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Conflist::parse(Path::new("a.conflist"), &content);
            let _ = Conflist::parse(Path::new("a.conf"), &content);
        }

        #[test]
        fn what_is_accepted_can_be_run_and_remembered(value in json_value()) {
            for file in ["a.conflist", "a.conf"] {
                if let Ok(list) = Conflist::parse(Path::new(file), value.to_string().as_bytes()) {
                    prop_assert!(is_identifier(&list.name));
                    prop_assert!(!list.plugins.is_empty());
                    prop_assert!(list.plugins.iter().all(|p| !p.kind.contains('/')));
                    let cached = serde_json::to_vec(&list).expect("it came from JSON");
                    prop_assert_eq!(serde_json::from_slice::<Conflist>(&cached).ok(), Some(list));
                }
            }
        }

        #[test]
        fn every_well_formed_list_is_accepted(
            name in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}",
            version in prop::sample::select(&VERSIONS[..]),
            kinds in prop::collection::vec("[a-z][a-z0-9-]{0,12}", 1..6),
            extra in json_value(),
        ) {
            let plugins: Vec<Value> =
                kinds.iter().map(|kind| json!({"type": kind, "extra": extra})).collect();
            let list = list(&json!({"cniVersion": version, "name": name, "plugins": plugins}))
                .map_err(TestCaseError::fail)?;
            prop_assert_eq!(list.plugins.iter().map(|p| &p.kind).collect::<Vec<_>>(),
                kinds.iter().collect::<Vec<_>>());
            prop_assert_eq!(list.version.as_str(), version);
        }
    }
}
