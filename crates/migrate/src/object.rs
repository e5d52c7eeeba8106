//! Kubernetes objects: what in them needs Docker. The same rules look at manifests and at what a
//! cluster has.

mod images;
mod kubeadm;
mod mounts;
mod owners;
mod pods;

use std::sync::Arc;

use owners::{Orphans, Owner, Templates};

use crate::document::{Node, Source, Value};
use crate::{Evidence, Report, hints};

/// An object, and where it is written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// `Deployment` …; empty where it does not say.
    pub(crate) kind: String,
    /// Empty where it has none.
    pub(crate) namespace: String,
    /// Its `metadata.name`, or `metadata.generateName`.
    pub(crate) name: String,
    /// All of it.
    pub(crate) node: Node,
    /// The file that it is in; nothing where a cluster told it.
    pub(crate) source: Option<Arc<Source>>,
}

impl Object {
    /// The objects in a document: one, or the items of a list.
    pub(crate) fn of(mut document: Node, source: Option<&Arc<Source>>) -> Vec<Self> {
        let is_list = document
            .text_at(&["kind"])
            .is_some_and(|kind| kind.ends_with("List"));
        if is_list
            && let Value::Map(entries) = &mut document.value
            && let Some(at) = entries.iter().rposition(|entry| entry.key == "items")
        {
            // A cluster's are many: they are not had twice.
            return match entries.swap_remove(at).value.value {
                Value::List(items) => items
                    .into_iter()
                    .flat_map(|item| Self::of(item, source))
                    .collect(),
                _ => Vec::new(),
            };
        }
        let text = |keys: &[&str]| document.text_at(keys).unwrap_or_default().to_string();
        let mut name = text(&["metadata", "name"]);
        if name.is_empty() {
            name = text(&["metadata", "generateName"]);
        }
        vec![Self {
            kind: text(&["kind"]),
            namespace: text(&["metadata", "namespace"]),
            name,
            source: source.cloned(),
            node: document,
        }]
    }

    /// A field, as a finding names it: in the file if there is one, and in the object.
    fn evidence(&self, field: &str, node: &Node) -> Vec<Evidence> {
        self.evidence_at(field, node.range.start)
    }

    fn evidence_at(&self, field: &str, offset: usize) -> Vec<Evidence> {
        let file = self.source.as_ref();
        let file = file.map(|source| Evidence::at(source, offset));
        let object = (!self.kind.is_empty()).then(|| Evidence::Object {
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            field: field.to_string(),
        });
        file.into_iter().chain(object).collect()
    }
}

/// Looks at objects. One that is made of another's template is not looked at, and what is found in
/// several of an owner that is not among them is told once.
pub(crate) fn check(report: &mut Report, objects: &[Object]) {
    let templates = Templates::of(objects);
    let mut orphans = Orphans::default();
    for object in objects {
        match Owner::of(object) {
            None => look_at(report, object),
            Some(owner) if templates.have(object, &owner) => {}
            Some(_) => {
                let mut own = Report::default();
                look_at(&mut own, object);
                orphans.add(object, own.findings);
                for one in own.unseen {
                    report.miss(one.what, one.why, one.todo);
                }
            }
        }
    }
    orphans.report(report);
}

fn look_at(report: &mut Report, object: &Object) {
    mounts::check(report, object);
    pods::check(report, object);
    images::check(report, object);
    kubeadm::check(report, object);
    texts(report, object);
}

/// Fields in which Docker's socket and paths are looked for by rules of their own, or mean nothing.
const OTHERS: [&str; 6] = [
    "hostPath",
    "mountPath",
    "subPath",
    "managedFields",
    "description",
    "image",
];

/// What configurations, arguments and queries in an object give away.
fn texts(report: &mut Report, object: &Object) {
    object.node.walk(&mut |path, node| {
        let Some(text) = node.text() else { return };
        if OTHERS
            .iter()
            .any(|field| path.split('.').any(|part| part == *field))
            || path.contains("last-applied-configuration")
            || is_dashboard_prose(path)
        {
            return;
        }
        for hint in hints::of(text) {
            let offset = written_at(object, node, text, hint.offset);
            let evidence = object.evidence_at(path, offset);
            if !evidence.is_empty() {
                report.find(hint.rule, evidence, hint.found, hint.todo);
            }
        }
    });
}

fn is_dashboard_prose(path: &str) -> bool {
    path.starts_with("metadata.annotations") && path.ends_with("description")
}

/// Where a line of a text is written. A block (`|`) has the lines of its text; all else is taken
/// to be where it begins.
fn written_at(object: &Object, node: &Node, text: &str, offset: usize) -> usize {
    let start = node.range.start;
    let Some(source) = &object.source else {
        return start;
    };
    let line = text[offset..].lines().next().unwrap_or_default().trim();
    let written = source.text().get(node.range.clone()).unwrap_or_default();
    // The same line may be there more than once: the one with as many of its kind before it.
    let before = text[..offset].matches(line).count();
    match written.match_indices(line).nth(before) {
        Some((at, _)) if !line.is_empty() => start + at,
        _ => start,
    }
}

/// Calls `see` with each pod specification in an object and its path: whatever has containers,
/// custom resources too.
fn pod_specs<'a>(object: &'a Object, see: &mut dyn FnMut(&str, &'a Node)) {
    object.node.walk(&mut |path, node| {
        let containers = node.get(&["containers"]).map_or(&[][..], Node::items);
        if containers
            .iter()
            .any(|one| one.get(&["image"]).is_some() || one.get(&["name"]).is_some())
        {
            see(path, node);
        }
    });
}

/// Calls `see` with each container of a pod specification.
fn containers<'a>(path: &str, spec: &'a Node, see: &mut dyn FnMut(&str, &'a Node)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let items = spec.get(&[list]).map_or(&[][..], Node::items);
        for (at, container) in items.iter().enumerate() {
            see(&joined(path, &format!("{list}[{at}]")), container);
        }
    }
}

fn joined(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_string()
    } else {
        format!("{path}.{field}")
    }
}
