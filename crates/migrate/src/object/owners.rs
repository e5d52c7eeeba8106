//! Objects that others have made: what is to be done is done to the owner, and told once.

use std::collections::{HashMap, HashSet};

use super::{Object, pod_specs};
use crate::document::Node;
use crate::{Evidence, Finding, Report};

/// What is made of a template in its owner, and has nothing that this has not.
const MADE_OF_TEMPLATES: [&str; 4] = ["ControllerRevision", "Job", "Pod", "ReplicaSet"];

/// Who made an object.
pub(super) struct Owner<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

impl<'a> Owner<'a> {
    /// That of an object, if it is another object. Static pods are a Node's, which made none of them.
    pub(super) fn of(object: &'a Object) -> Option<Self> {
        let owners = object.node.get(&["metadata", "ownerReferences"])?.items();
        let owner = owners
            .iter()
            .find(|owner| owner.get(&["controller"]).and_then(Node::truth) == Some(true))
            .or_else(|| owners.first())?;
        let kind = owner.text_at(&["kind"])?;
        (kind != "Node").then_some(Self {
            kind,
            namespace: &object.namespace,
            name: owner.text_at(&["name"])?,
            uid: owner.text_at(&["uid"]).unwrap_or_default(),
        })
    }

    /// Names it among all owners.
    fn key(&self) -> String {
        if self.uid.is_empty() {
            format!("{} {}/{}", self.kind, self.namespace, self.name)
        } else {
            self.uid.to_string()
        }
    }
}

/// The objects that are there and have a template of pods, by kind, namespace and name.
pub(super) struct Templates<'a>(HashSet<(&'a str, &'a str, &'a str)>);

impl<'a> Templates<'a> {
    pub(super) fn of(objects: &'a [Object]) -> Self {
        let mut templates = HashSet::new();
        for object in objects {
            pod_specs(object, &mut |_, _| {
                templates.insert((&*object.kind, &*object.namespace, &*object.name));
            });
        }
        Self(templates)
    }

    /// Whether all that is in an object is in its owner's template.
    pub(super) fn have(&self, object: &Object, owner: &Owner<'_>) -> bool {
        MADE_OF_TEMPLATES.contains(&object.kind.as_str())
            && self.0.contains(&(owner.kind, owner.namespace, owner.name))
    }
}

/// What was found in objects whose owner is not there.
#[derive(Default)]
pub(super) struct Orphans<'a> {
    /// Where each finding is in `findings`, by its owner, rule, field and text.
    places: HashMap<(String, &'static str, String, String), usize>,
    /// Each with its owner, and in how many more objects of this it is.
    findings: Vec<(Finding, Owner<'a>, usize)>,
}

impl<'a> Orphans<'a> {
    /// Adds what was found in one.
    pub(super) fn add(&mut self, object: &'a Object, findings: Vec<Finding>) {
        for finding in findings {
            let Some(owner) = Owner::of(object) else {
                continue;
            };
            let field = finding.evidence.iter().find_map(|one| match one {
                Evidence::Object { field, .. } => Some(field.clone()),
                _ => None,
            });
            let field = field.unwrap_or_default();
            let key = (owner.key(), finding.rule, field, finding.found.clone());
            if let Some(place) = self.places.get(&key) {
                self.findings[*place].2 += 1;
            } else {
                self.places.insert(key, self.findings.len());
                self.findings.push((finding, owner, 0));
            }
        }
    }

    /// Puts it into a report, what an owner has made more than once with how often.
    pub(super) fn report(self, report: &mut Report) {
        for (mut finding, owner, more) in self.findings {
            if more > 0 {
                let Owner { kind, name, .. } = owner;
                finding.found = format!("{} (and in {more} more of {kind} {name})", finding.found);
            }
            report.add(finding);
        }
    }
}
