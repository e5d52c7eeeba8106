//! Which objects a list, a watch or a budget means.

use serde_json::Value;

use super::failure::Failure;

/// A selector of labels and one of fields.
#[derive(Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// As the queries `labelSelector` and `fieldSelector` have them; without the forms `in (a,b)`.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self {
            labels: requirements(labels)?,
            fields: requirements(fields)?,
        })
    }

    /// As `spec.selector` of a budget has it (`matchLabels`, `matchExpressions`).
    pub(super) fn of_object(selector: &Value) -> Self {
        let labels = selector["matchLabels"].as_object().into_iter().flatten();
        let labels = labels.map(|(key, value)| Requirement {
            key: key.clone(),
            test: Test::In(vec![text(value)]),
        });
        let expressions = selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten();
        let expressions = expressions.map(|one| {
            let values = one["values"].as_array().into_iter().flatten();
            let values = values.map(text).collect();
            Requirement {
                key: text(&one["key"]),
                test: match one["operator"].as_str() {
                    Some("In") => Test::In(values),
                    Some("NotIn") => Test::NotIn(values),
                    Some("Exists") => Test::Exists,
                    _ => Test::Absent,
                },
            }
        });
        Self {
            labels: labels.chain(expressions).collect(),
            fields: Vec::new(),
        }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).map(text);
        let field = |path: &str| {
            let found = path
                .split('.')
                .try_fold(object, |value, key| value.get(key));
            Some(found.map(text).unwrap_or_default())
        };
        self.labels
            .iter()
            .all(|one| one.test.passes(label(&one.key)))
            && self
                .fields
                .iter()
                .all(|one| one.test.passes(field(&one.key)))
    }
}

impl Test {
    fn passes(&self, value: Option<String>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(&value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(&value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, Failure> {
    if text.contains(['(', ')']) {
        return Err(Failure::bad_request(format!(
            "the selector {text:?} is of a form that this server does not know"
        )));
    }
    let parts = text.split(',').filter(|part| !part.is_empty());
    Ok(parts.map(requirement).collect())
}

fn requirement(text: &str) -> Requirement {
    let one = |key: &str, test: fn(Vec<String>) -> Test, value: &str| Requirement {
        key: key.trim().to_owned(),
        test: test(vec![value.trim().to_owned()]),
    };
    if let Some((key, value)) = text.split_once("!=") {
        return one(key, Test::NotIn, value);
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return one(key, Test::In, value);
    }
    let (key, test) = match text.strip_prefix('!') {
        Some(key) => (key, Test::Absent),
        None => (text, Test::Exists),
    };
    Requirement {
        key: key.trim().to_owned(),
        test,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let pod = json!({
            "metadata": { "name": "p", "labels": { "app": "web", "tier": "" } },
            "spec": { "nodeName": "a" },
        });
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=web", "spec.nodeName=a", true),
            ("app==web,tier", "metadata.name=p", true),
            ("app!=web", "", false),
            ("!app", "", false),
            ("other!=x,!other", "", true),
            ("", "spec.nodeName=b", false),
            ("", "spec.nodeName!=b,status.phase=", true),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&pod), expected, "{labels} {fields}");
        }
        assert!(Selector::parse("app in (a,b)", "").is_err());
        let of = |selector| Selector::of_object(&selector).matches(&pod);
        assert!(of(json!({})));
        assert!(of(json!({ "matchLabels": { "app": "web" } })));
        assert!(!of(json!({ "matchLabels": { "app": "web", "x": "y" } })));
        assert!(of(
            json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["web"] }] })
        ));
        assert!(!of(
            json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] })
        ));
    }
}
