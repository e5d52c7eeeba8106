//! A plan for programs to read: the same document as the journal's, but for secrets.

use std::path::Path;

use serde::{Serialize, Serializer};

use super::files::{Bytes, FileChange};
use super::{Plan, Step, Version};
use crate::secrets;

/// A plan as `slipway migrate plan -o json` prints it: with a dot in place of each secret, and the
/// key `hidden` on each file that has some. It cannot be carried out; what is carried out is planned
/// anew.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a Plan);

#[derive(Serialize)]
struct Whole<'a> {
    target: super::Target,
    node: &'a Option<String>,
    from: &'a str,
    kubelet: Version,
    drain: bool,
    steps: Vec<Written<'a>>,
    remarks: &'a [String],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    File(File<'a>),
    Other(&'a Step),
}

#[derive(Serialize)]
#[serde(rename = "file", rename_all = "kebab-case", tag = "step")]
struct File<'a> {
    path: &'a Path,
    before: Option<Bytes<'a>>,
    after: Bytes<'a>,
    diff: String,
    /// Whether dots stand for secrets in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hidden: bool,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Plan {
            target,
            node,
            from,
            kubelet,
            drain,
            steps,
            remarks,
        } = self.0;
        let steps = steps.iter().map(|step| match step {
            Step::File(change) => Written::File(File::of(change)),
            other => Written::Other(other),
        });
        let whole = Whole {
            target: *target,
            node,
            from,
            kubelet: *kubelet,
            drain: *drain,
            steps: steps.collect(),
            remarks,
        };
        whole.serialize(serializer)
    }
}

impl<'a> File<'a> {
    fn of(change: &'a FileChange) -> Self {
        let before = change.before.as_deref().map(shown);
        let (after, in_after) = shown(&change.after);
        let in_before = before.as_ref().is_some_and(|(_, hidden)| *hidden);
        Self {
            path: &change.path,
            before: before.map(|(bytes, _)| bytes),
            after,
            diff: change.diff(),
            hidden: in_before || in_after,
        }
    }
}

/// A file's bytes without secrets, and whether there were some.
fn shown(bytes: &[u8]) -> (Bytes<'_>, bool) {
    let text = String::from_utf8_lossy(bytes);
    let hidden = secrets::hidden(&text);
    if hidden == text {
        (bytes.into(), false)
    } else {
        (Bytes::Text(hidden.into()), true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::Target;

    #[test]
    fn a_plan_for_programs_is_the_plan_without_its_secrets() {
        let file = |before: Option<&[u8]>, after: &str| {
            Step::File(FileChange {
                path: "/etc/x".into(),
                before: before.map(<[u8]>::to_vec),
                after: after.as_bytes().to_vec(),
            })
        };
        let plan = Plan {
            target: Target::Containerd,
            node: Some("a".to_string()),
            from: "docker://".to_string(),
            kubelet: Version::new(1, 23),
            drain: true,
            steps: vec![
                Step::Cordon,
                file(None, "plain = true\n"),
                file(
                    Some(b"password = \"abc\"\n\xff"),
                    "HTTP_PROXY=http://u:abc@x:1\n",
                ),
            ],
            remarks: vec!["one".to_string()],
        };
        let shown = serde_json::to_value(Shown(&plan)).unwrap();
        assert!(!shown.to_string().contains("abc"), "{shown}");
        let mut whole = serde_json::to_value(&plan).unwrap();
        assert!(whole.to_string().contains("abc"), "the journal has all");
        let step = &mut whole["steps"][2];
        step["before"] = json!("password = \"…\"\n\u{fffd}");
        step["after"] = json!("HTTP_PROXY=http://…@x:1\n");
        step["hidden"] = Value::Bool(true);
        assert_eq!(shown, whole);
    }
}
