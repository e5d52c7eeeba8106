//! A preview for programs to read: the plan as its journal would have it, but for secrets, and with
//! what its steps would change that is no file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{Change, Outlook, Preview};
use crate::apply::Before;
use crate::node::Version;
use crate::plan::{Bytes, FileChange, Plan, Step, Target};
use crate::secrets;

#[derive(Serialize)]
struct Whole<'a> {
    target: Target,
    node: Option<&'a str>,
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
    Other(Other<'a>),
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

#[derive(Serialize)]
struct Other<'a> {
    #[serde(flatten)]
    step: &'a Step,
    #[serde(flatten)]
    outlook: Option<Known<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Known<'a> {
    Seen {
        before: Value,
        after: Value,
        diff: String,
        /// Whether dots stand for secrets in it.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        hidden: bool,
    },
    Unseen {
        unseen: &'a str,
    },
    Fails {
        fails: &'a str,
    },
}

/// What `slipway migrate plan -o json` prints: the plan with a dot in place of each secret, and the key
/// `hidden` on each step that has some. It cannot be carried out; what is carried out is planned anew.
impl Serialize for Preview {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Plan {
            target,
            node,
            from,
            kubelet,
            drain,
            steps: _,
            remarks,
        } = &self.plan;
        let steps = self.steps().map(|(step, outlook)| match step {
            Step::File(change) => Written::File(File::of(change)),
            step => Written::Other(Other {
                step,
                outlook: outlook.map(Known::of),
            }),
        });
        let whole = Whole {
            target: *target,
            node: self.node.as_deref().or(node.as_deref()),
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

impl<'a> Known<'a> {
    fn of(outlook: &'a Outlook) -> Self {
        match outlook {
            Outlook::Seen(change) => Self::of_change(change),
            Outlook::Unseen(why) => Self::Unseen { unseen: why },
            Outlook::Fails(why) => Self::Fails { fails: why },
        }
    }

    fn of_change(change: &Change) -> Self {
        let (before, in_before) = value(&change.before);
        let (after, in_after) = value(&change.after);
        Self::Seen {
            before,
            after,
            diff: change.diff(),
            hidden: in_before || in_after,
        }
    }
}

/// What there is, without secrets, and whether there were some.
fn value(found: &Before) -> (Value, bool) {
    match found {
        Before::Unit(unit) => (json!(unit), false),
        Before::Cordoned(cordoned) => (json!(cordoned), false),
        Before::Annotation(Some(text)) => {
            let hidden = secrets::hidden(text);
            let is_hidden = hidden != *text;
            (hidden.into(), is_hidden)
        }
        Before::Configurations(found) => {
            let hidden = |text: &Option<String>| text.as_deref().map(secrets::hidden);
            let shown = found.iter().map(|(name, text)| (name, hidden(text)));
            let shown: BTreeMap<_, _> = shown.collect();
            let is_hidden = shown.values().ne(found.values());
            (json!(shown), is_hidden)
        }
        _ => (Value::Null, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::Live;
    use crate::host::Units;

    #[tokio::test]
    async fn a_plan_for_programs_is_the_plan_without_its_secrets() {
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
                Step::Drain,
                file(None, "plain = true\n"),
                file(
                    Some(b"password = \"abc\"\n\xff"),
                    "HTTP_PROXY=http://u:abc@x:1\n",
                ),
            ],
            remarks: vec!["one".to_string()],
        };
        let nobody = || "nobody".to_string();
        let (units, cluster) = (Err::<&Units, _>(nobody()), Err::<&Live, _>(nobody()));
        let preview = Preview::look(plan.clone(), None, units, cluster).await;
        let shown = serde_json::to_value(&preview).unwrap();
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
